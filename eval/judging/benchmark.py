"""Benchmarks whose answers judges grade, each judge with measures of its own.

judges = JudgeOptions().judges(load_llm("openai:MODEL"), Path("run"))  # one for each prompt
evaluate(load_benchmark("lamp-qa", "lampqa/", judges=judges), methods, out=Path("run"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from persona.errors import EvaluationError
from persona.eval.benchmark import Benchmark, Question
from persona.eval.judging.asking import check_judges, named_for
from persona.eval.judging.judge import Judge, LLMJudge
from persona.eval.judging.prompts import PROMPTS, JudgedItem
from persona.eval.judging.rates import Rates
from persona.eval.metrics import Array, Metric, Samples, ratio_of_sums
from persona.eval.results.sums import unlabelled
from persona.protocols import LanguageModel

REPLIES = "judged.jsonl"
"""The file of a run that keeps what its judges said."""

Decide = Callable[[Sequence[JudgedItem]], list[float | None]]
"""The values of the verdicts on items; None for undecided."""


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How an LLM judges.

    Attributes:
        prompts: comma list of reasoned/1 and strict/1; each judges by itself.
        rates: results.json of `persona eval judge-check`, for scores that allow for the judge's errors; empty for none.
        tries: how often at most one answer is asked about.
        max_new_tokens: longest reply.
    """

    prompts: tuple[str, ...] = tuple(PROMPTS)
    rates: str = ""
    tries: int = 3
    max_new_tokens: int = 512

    def judges(self, llm: LanguageModel, folder: Path | None = None) -> tuple[LLMJudge, ...]:
        """A judge for each prompt.

        Args:
            llm: judges.
            folder: of the run, which keeps every reply; None keeps them in memory.

        Raises:
            InvalidOptionError: if there is no such prompt.
            DataFormatError: if the rates cannot be read.
        """
        return tuple(
            LLMJudge(
                llm,
                prompt,
                path=folder and folder / REPLIES,
                rates=Rates.read(self.rates, prompt) if self.rates else None,
                tries=self.tries,
                max_new_tokens=self.max_new_tokens,
            )
            for prompt in self.prompts
        )


class JudgedBenchmark(Benchmark):
    """A benchmark whose answers are judged. A subclass says what is measured, and what verdicts come to.

    Attributes:
        judges: who judges; none before `judged_by`.
        flaws: what is wrong with an official metric, by its name; `defects` has them for each judge.
    """

    metrics: Sequence[Metric] = ()
    judges: tuple[Judge, ...] = ()
    flaws: Mapping[str, str] = {}

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge, who is wrong that often, where it is known."""
        raise NotImplementedError

    def judged(self, questions: Sequence[Question], answers: Sequence[str], decide: Decide) -> Samples:
        """What each of `measures` records of each answer, by one judge."""
        raise NotImplementedError

    def judged_by(self, judges: Sequence[Judge]) -> Self:
        """Itself, its answers judged by each of `judges`.

        Raises:
            InvalidOptionError: if there is none, or two have one name.
        """
        self.judges = check_judges(judges)
        by_judge = [self.measures(getattr(judge, "rates", None)) for judge in self.judges]
        self.metrics = tuple(
            replace(metric, name=named_for(metric.name, judge, self.judges))
            for name in dict.fromkeys(metric.name for some in by_judge for metric in some)
            for judge, some in zip(self.judges, by_judge, strict=True)
            for metric in some
            if metric.name == name
        )
        self.defects = {
            named_for(name, judge, self.judges): why for name, why in self.flaws.items() for judge in self.judges
        }
        return self

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """What each metric records of each answer.

        Raises:
            EvaluationError: if there is no judge.
        """
        if not self.judges:
            raise EvaluationError(f"the answers of {self.name} are judged: name judges (`judged_by`)")
        samples: dict[str, Array] = {}
        for judge in self.judges:
            own = self.judged(questions, answers, partial(_decided, judge))
            samples |= {named_for(name, judge, self.judges): each for name, each in own.items()}
        return samples


def _decided(judge: Judge, items: Sequence[JudgedItem]) -> list[float | None]:
    """The values of a judge's verdicts; 0 for an empty answer, which it is not asked about."""
    asked = [item for item in items if item.answer.strip()]
    verdicts = iter(judge.verdicts(asked) if asked else ())
    return [next(verdicts).value if item.answer.strip() else 0.0 for item in items]


def judged_metric(name: str, *, higher_is_better: bool = True) -> Metric:
    """A metric of (sum of values, how many count) for each answer, which a benchmark's `judged` gives."""
    return Metric(name, higher_is_better, unlabelled, ratio_of_sums)


UNDECIDED = judged_metric("undecided", higher_is_better=False)
"""The share of what was judged that has no verdict."""


def ratios(rows: Sequence[tuple[float, float]]) -> Array:
    """What a `judged_metric` records.  # (answers, 2)"""
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def undecided(values: Sequence[Sequence[float | None]]) -> Array:
    """What `UNDECIDED` records, by the verdicts on each answer.  # (answers, 2)"""
    return ratios([(sum(each is None for each in some), len(some)) for some in values])
