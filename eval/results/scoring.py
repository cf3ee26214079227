"""Answers, scored: the rows of a report, with intervals, differences and Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from persona.errors import EvaluationError
from persona.eval.answers import CONTEXT_CUT, OUTCOMES, THINKING, GivenAnswer, outcomes
from persona.eval.benchmark import Benchmark, Question
from persona.eval.bootstrap import Bootstrap, Interval, PairedDifference, holm
from persona.eval.controls import OTHER_USER
from persona.eval.methods import Method, row_name
from persona.eval.metrics import Metric, Samples
from persona.eval.options import EvaluationOptions
from persona.eval.report import Failure, Row

_NO_WAYS = (*OUTCOMES, THINKING, CONTEXT_CUT)


@dataclass(frozen=True, slots=True)
class Answered:
    """An arm's answers.

    Attributes:
        method: the arm's.
        runs: for each run the answers, in the order of the questions.
        tokens: what personalization added to each prompt, one run after the other.
        abstained: whether nothing personal went into the request, likewise.
        calibrations: the different kinds of calibration of the runs; empty texts for none.
        evidence: by question the share of its evidence that stood in the request of the first run; None where it names
            none.
        cut: how many requests a whole history did not fit into.
        prompts: hash of the requests.
    """

    method: Method
    runs: tuple[list[GivenAnswer], ...]
    tokens: tuple[int, ...]
    abstained: tuple[bool, ...]
    calibrations: tuple[str, ...]
    evidence: tuple[float | None, ...] = ()
    cut: int = 0
    prompts: str = ""

    @property
    def tokens_added(self) -> float:
        """Mean tokens that personalization added to a prompt."""
        return float(np.mean(self.tokens))

    @property
    def texts(self) -> list[list[str]]:
        """The answers as texts."""
        return [[each.text for each in run] for run in self.runs]

    @property
    def outcomes(self) -> dict[str, int]:
        """`persona.eval.answers.outcomes` of all runs."""
        return outcomes([each for run in self.runs for each in run]) | ({CONTEXT_CUT: self.cut} if self.cut else {})

    @property
    def ways(self) -> str:
        """How answers were made, for the report."""
        modes = {way: count for way, count in self.outcomes.items() if way not in _NO_WAYS}
        made = [way if len(modes) == 1 else f"{way} {count}" for way, count in modes.items()]
        return ", ".join([*made, *(["; ".join(self.calibrations)] if any(self.calibrations) else [])])

    def failures(self, questions: Sequence[Question]) -> list[Failure]:
        """The questions that were not answered, by one of the runs at least."""
        reasons: dict[str, str] = {}
        for run in self.runs:
            for question, each in zip(questions, run, strict=True):
                if each.failed:
                    reasons.setdefault(question.id, each.failed)
        return [Failure(self.method.label, question, reason) for question, reason in reasons.items()]


class Scoring:
    """Scores the answers of arms and compares them.

    Several runs of an arm count together: they are pooled, one run after the other.

    Args:
        benchmark: scores.
        questions: all of them.
        options: how to draw users.
        left_out: ids of questions that no row is scored on.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        questions: Sequence[Question],
        options: EvaluationOptions,
        left_out: Collection[str] = (),
    ) -> None:
        golds = sum(question.gold is not None for question in questions)
        if golds not in (0, len(questions)):
            raise EvaluationError(f"all questions must have a gold, or none: {golds} of {len(questions)} have one")
        self._benchmark, self._questions, self._options = benchmark, questions, options
        self._kept = [index for index, question in enumerate(questions) if question.id not in left_out]
        if not self._kept:
            raise EvaluationError("there is nothing to score: no question was answered in every row")
        self._users = [questions[index].user_id for index in self._kept]
        self._scored = golds > 0
        self._draw = partial(Bootstrap, resamples=options.resamples, seed=options.seed)
        self.ids = tuple(questions[index].id for index in self._kept)
        self.groups = tuple(self._users)

    def rows(self, answered: Sequence[Answered]) -> tuple[Row, ...]:
        """A row for each arm, then one for each baseline."""
        samples = {each.method.label: self._samples(each.texts) for each in answered} if self._scored else {}
        plains = {each.method.way: each.method.label for each in reversed(answered) if not each.method.personal}
        usual = next(iter(reversed(plains.values())), "")
        rows = []
        for each in answered:
            method = each.method
            own = samples.get(method.label)
            without = method.without_user
            other = row_name(method.name, method.k, method.way, OTHER_USER)
            plain = plains.get(method.way, usual)
            rows.append(
                Row(
                    method.name,
                    method.k,
                    method.control,
                    scores=self._intervals(own),
                    difference=None if method.label == plain else self._compared(own, samples.get(plain)),
                    gain=None if without is None else self._compared(own, samples.get(without.label)),
                    to_other_user=None if method.control else self._compared(own, samples.get(other)),
                    tokens_added=each.tokens_added,
                    runs=tuple(self._by_id(run) for run in each.texts),
                    parts=method.parts,
                    way=method.way,
                    answered=each.ways,
                    outcomes=each.outcomes,
                    kinds=self._by_kind(own),
                    evidence=self._evidence(each),
                    prompts=each.prompts,
                    samples=own or {},
                )
            )
        rows = list(corrected(rows))
        for name, answers in self._benchmark.baselines(self._questions).items():
            own = self._samples([answers]) if self._scored else None
            difference = self._compared(own, samples.get(usual))
            runs, kinds = (self._by_id(answers),), self._by_kind(own)
            scores = self._intervals(own)
            rows.append(Row(name, 0, None, scores, difference, runs=runs, kinds=kinds, samples=own or {}))
        return tuple(rows)

    def _by_id(self, answers: Sequence[str]) -> dict[str, str]:
        return {question.id: answer for question, answer in zip(self._questions, answers, strict=True)}

    def _samples(self, runs: Iterable[Sequence[str]]) -> Samples:
        questions = [self._questions[index] for index in self._kept]
        each = [self._benchmark.score(questions, [run[index] for index in self._kept]) for run in runs]
        return {name: np.concatenate([samples[name] for samples in each]) for name in each[0]}

    def _intervals(self, samples: Samples | None) -> dict[str, Interval]:
        if samples is None:
            return {}
        bootstrap = _drawing(self._users, samples, self._options)
        return {metric.name: bootstrap.interval(metric, samples) for metric in self._benchmark.metrics}

    def _by_kind(self, samples: Samples | None) -> dict[str, Interval]:
        questions = [self._questions[index] for index in self._kept]
        return {} if samples is None else by_kind(self._benchmark.metrics[0], samples, questions, self._draw)

    def _evidence(self, answered: Answered) -> Interval | None:
        """How much of the evidence stood in the requests; None where none is named, or no record was given."""
        known = [(self._questions[index].user_id, answered.evidence[index]) for index in self._kept]
        shares = [(user_id, share) for user_id, share in known if share is not None]
        if not shares or not answered.method.personal:
            return None
        return self._draw([user_id for user_id, _ in shares]).mean([share for _, share in shares])

    def _compared(self, ours: Samples | None, theirs: Samples | None) -> PairedDifference | None:
        if ours is None or theirs is None:
            return None
        return compared(self._benchmark.metrics[0], self._users, ours, theirs, self._options)


def by_kind(
    metric: Metric, samples: Samples, questions: Sequence[Question], draw: Callable[[list[str]], Bootstrap]
) -> dict[str, Interval]:
    """A metric over the questions of each kind; nothing where all are of one.

    Args:
        metric: the measure.
        samples: what it recorded, one run after the other.
        questions: of one run.
        draw: makes a bootstrap of the users of some questions.
    """
    recorded, kinds = metric.recorded(samples), [question.kind for question in questions]
    runs = len(recorded) // len(questions)
    found = {}
    for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
        where = [index for index, each in enumerate(kinds * runs) if each == kind]
        bootstrap = draw([questions[index % len(questions)].user_id for index in where])
        found[kind] = bootstrap.interval(metric, {metric.name: recorded[where]})
    return found


def compared(
    metric: Metric, users: Sequence[str], ours: Samples, theirs: Samples, options: EvaluationOptions
) -> PairedDifference:
    """`ours` minus `theirs`; the one with fewer runs is repeated, so that each run has its counterpart.

    Args:
        metric: the measure.
        users: of the questions of one run.
        ours: what the metric recorded, one run after the other.
        theirs: the same.
        options: how to draw users.
    """
    length = max(len(next(iter(samples.values()))) for samples in (ours, theirs))
    ours, theirs = (
        {name: np.tile(each, (length // len(each), 1)) for name, each in samples.items()} for samples in (ours, theirs)
    )
    return _drawing(users, ours, options).paired(metric, ours, theirs)


def _drawing(users: Sequence[str], samples: Samples, options: EvaluationOptions) -> Bootstrap:
    """Draws the users of samples, which may be those of several runs."""
    runs = len(next(iter(samples.values()))) // len(users)
    return Bootstrap(list(users) * runs, resamples=options.resamples, seed=options.seed)


def corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows whose methods have p-values corrected for their number, where there are several."""
    compared = [index for index, row in enumerate(rows) if row.control is None and row.difference is not None]
    if len(compared) < 2:
        return tuple(rows)
    values = holm([row.difference.p_value for row in (rows[index] for index in compared) if row.difference is not None])
    by_row = dict(zip(compared, values, strict=True))
    return tuple(replace(row, corrected=by_row.get(index)) for index, row in enumerate(rows))
