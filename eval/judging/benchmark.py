"""Benchmarks whose answers judges grade, each judge with measures of its own.

judges = JudgeOptions().judges(load_llm("openai:MODEL"), Path("run"))  # one for each prompt
evaluate(load_benchmark("lamp-qa", "lampqa/", judges=judges), methods, out=Path("run"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.benchmark import Benchmark, Question
from persona.eval.judging.judge import Judge, LLMJudge, Verdict
from persona.eval.judging.prompts import PROMPTS, JudgedItem
from persona.eval.judging.rates import CORRECTED, Rates
from persona.eval.metrics import Array, Metric, Samples, ratio_of_sums
from persona.eval.results.samples import unlabelled
from persona.protocols import LanguageModel

REPLIES = "judged.jsonl"
"""The file of a run that keeps what its judges said."""

Verdicts = Sequence[Sequence[Verdict]]
"""Of each answer the verdicts on its items."""


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
    """A benchmark whose answers are judged. A subclass says what is asked, what is measured, and what verdicts come to.

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

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer."""
        raise NotImplementedError

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What each of `measures` records of each answer, by one judge's verdicts on the items of each; a metric that
        is corrected for the judge's errors records what the plain one does, and `UNDECIDED` what has no verdict."""
        raise NotImplementedError

    def judged_by(self, judges: Sequence[Judge]) -> Self:
        """Itself, its answers judged by each of `judges`.

        Raises:
            InvalidOptionError: if there is none, or two have one name; or if nothing is to be judged here.
        """
        if self.metrics and not self.judges:
            super().judged_by(judges)  # refuses
        names = [judge.name for judge in judges]
        if not names or len(set(names)) < len(names):
            raise InvalidOptionError(f"there must be judges with different names, were: {', '.join(names) or 'none'}")
        self.judges = tuple(judges)
        by_judge = [self.measures(getattr(judge, "rates", None)) for judge in judges]
        self.metrics = tuple(
            replace(metric, name=self._named(metric.name, judge))
            for name in dict.fromkeys(metric.name for some in by_judge for metric in some)
            for judge, some in zip(judges, by_judge, strict=True)
            for metric in some
            if metric.name == name
        )
        self.defects = {self._named(name, judge): why for name, why in self.flaws.items() for judge in judges}
        return self

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """What each metric records of each answer.

        Raises:
            EvaluationError: if there is no judge.
        """
        if not self.judges:
            raise EvaluationError(f"the answers of {self.name} are judged: name judges (`judged_by`)")
        items = [self.items(*pair) for pair in zip(questions, answers, strict=True)]
        samples: dict[str, Array] = {}
        for judge in self.judges:
            verdicts = _verdicts(judge, items)
            own = {UNDECIDED.name: _undecided(verdicts), **self.judged(questions, answers, verdicts)}
            for metric in self.measures(getattr(judge, "rates", None)):
                samples[self._named(metric.name, judge)] = own[metric.name.removesuffix(CORRECTED)]
        return samples

    def _named(self, metric: str, judge: Judge) -> str:
        """What a measure is called by one of several judges: with the judge's prompt, or its name if prompts are alike.

        A single judge adds nothing.
        """
        if len(self.judges) == 1:
            return metric
        prompts = [each.name.rpartition(" ")[2] for each in self.judges]
        return f"{metric} by {judge.name.rpartition(' ')[2] if len(set(prompts)) == len(prompts) else judge.name}"


def _verdicts(judge: Judge, items: Sequence[Sequence[JudgedItem]]) -> Verdicts:
    """A judge's verdicts on the items of each answer; 0 for an empty answer, which it is not asked about."""
    asked = [item for some in items for item in some if item.answer.strip()]
    said = iter(judge.verdicts(asked) if asked else ())
    return [[next(said) if item.answer.strip() else Verdict(0.0, "") for item in some] for some in items]


def values_of(verdicts: Verdicts) -> list[list[float | None]]:
    """The values of verdicts; None for undecided."""
    return [[each.value for each in some] for some in verdicts]


def judged_metric(name: str, *, higher_is_better: bool = True) -> Metric:
    """A metric of (sum of values, how many count) for each answer, which a benchmark's `judged` gives."""
    return Metric(name, higher_is_better, unlabelled, ratio_of_sums)


UNDECIDED = judged_metric("undecided", higher_is_better=False)
"""The share of what was judged that has no verdict."""


def ratios(rows: Sequence[tuple[float, float]]) -> Array:
    """What a `judged_metric` records.  # (answers, 2)"""
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _undecided(verdicts: Verdicts) -> Array:
    """How many verdicts on each answer are none, and how many there are.  # (answers, 2)"""
    return ratios([(some.count(None), len(some)) for some in values_of(verdicts)])
