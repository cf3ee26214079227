"""Evaluation: methods answer the questions of a benchmark, beside controls, and are scored with intervals.

    none, mine = Personalizer(llm, store, ()), Personalizer(llm, store, [Mine()])
    print(evaluate(benchmark, {"none": none, "mine": mine}).markdown())

A method is a `Personalizer` and is asked as a server asks it: it prepares the requests of all questions, and the LLM
answers them. Records are sought by the question's own search query, as a personalizer with the task's wording does. A
gain counts as personalization only if the right user's history beats none (or the training without user) and another
user's does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from persona.channels import Ask
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.answers import OUTCOMES, THINKING, Answers, GivenAnswer, outcomes
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.bootstrap import Bootstrap, Interval, PairedDifference
from persona.eval.calibration import NO_CALIBRATION, Calibration, Calibrator, calibration_questions
from persona.eval.controls import OTHER_USER, Control, EmptyHistory, OtherUser, TrainedWithoutUser
from persona.eval.methods import Arm, Method, Run, as_methods, row_name
from persona.eval.metrics import Samples
from persona.eval.options import LEFT_OUT, EvaluationOptions
from persona.eval.report import Failure, Report, Row, write_results
from persona.protocols import Choices

Progress = Callable[[str, int, int], object]
"""Called with a stage's name, what is done and what there is to do."""


def evaluate(
    benchmark: Benchmark,
    methods: Mapping[str, Run] | Iterable[Method],
    controls: Sequence[Control] | None = None,
    *,
    options: EvaluationOptions | None = None,
    out: Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Answer the questions of `benchmark` with every method and every control of it, and score the answers.

    Args:
        benchmark: questions with their profiles, and golds where there are any.
        methods: personalizers by name, or methods; functions are given the benchmark's training split.
        controls: None takes another user's history, an empty history for soft prompts, and the training without user,
            each for the methods that it says something about.
        options: how to run; None takes the defaults.
        out: folder for answers (a run that was stopped goes on), predictions and ``results.json``; None keeps nothing.
        config: what decides the numbers besides, for the report.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        InvalidOptionError: if two methods or controls have the same name.
        EvaluationError: if there is no question or no method, only some questions have golds, a method needs a training
            split that is not there, or another user's history is wanted and there is one user.
        GenerationError: if an LLM answers no request at all. What arrived before is kept in `out`. A request that fails
            for itself is in `Report.failures`, and asked again by the next run.
    """
    options = options or EvaluationOptions()
    questions = benchmark.questions[: options.limit]
    if not questions:
        raise EvaluationError("there are no questions to run: the benchmark is empty")
    if controls is None:
        controls = (OtherUser(options.seed), EmptyHistory(), TrainedWithoutUser())
    made = [method.made(benchmark) for method in as_methods(methods)]
    if not made:
        raise EvaluationError("there must be at least one method to evaluate, was given none")
    arms = _arms(made, controls, questions)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    answers = Answers(out and out / "answers.jsonl", at_once=options.at_once)
    calibration = _Calibrations(benchmark, made, controls, options, answers, progress)
    answered = _ask(arms, questions, answers, calibration, progress)
    failures = tuple(failure for each in answered for failure in each.failures(questions))
    left_out = {failure.question for failure in failures} if options.failures == LEFT_OUT else set()
    rows = _Scoring(benchmark, questions, options, left_out).rows(answered)
    report = Report(
        benchmark=benchmark.name,
        questions=len(questions),
        users=len({question.user_id for question in questions}),
        llm=", ".join(dict.fromkeys(run.llm.fingerprint for method in made for run in method.personalizers)),
        config=asdict(options) | dict(config or {}),
        rows=rows,
        data=data_hash(questions),
        failures=failures,
        left_out=len(left_out),
    )
    if out is not None:
        _save(report, benchmark, out)
    return report


def _arms(methods: Sequence[Method], controls: Sequence[Control], questions: Sequence[Question]) -> list[Arm]:
    """Each method, and behind it its controls; a control that several methods share comes once."""
    own = tuple(question.profile for question in questions)
    arms: dict[str, Arm] = {}
    for method in methods:
        for arm in (Arm(method, own), *(control.of(method, questions) for control in controls)):
            if arm is not None and arms.setdefault(arm.method.label, arm).method is not arm.method:
                raise InvalidOptionError(f"two rows would be called {arm.method.label!r}: name methods differently")
    return list(arms.values())


class _Calibrations:
    """The calibration of each run of each row, on training questions."""

    def __init__(
        self,
        benchmark: Benchmark,
        methods: Sequence[Method],
        controls: Sequence[Control],
        options: EvaluationOptions,
        answers: Answers,
        progress: Progress,
    ) -> None:
        questions: list[Question] = []
        if options.calibration != NO_CALIBRATION and any(each.choices is not None for each in benchmark.questions):
            questions = calibration_questions(benchmark, options.calibration_questions, options.seed)
        # The control with another user's history needs a second one.
        some = len({question.user_id for question in questions}) > 1
        self._arms = {arm.method.label: arm for arm in _arms(methods, controls, questions)} if some else {}
        self._calibrator = Calibrator(benchmark, questions, options.calibration, answers, progress)

    def of(self, method: Method, run: int) -> Calibration:
        """That of a run. Adapters of single users are not trained for it: they take that of what users share."""
        shared = method.without_user if method.trains_per_user and method.without_user is not None else method
        arm = self._arms.get(shared.label)
        return self._calibrator.fitted(shared.personalizers[run % len(shared.runs)], arm)


@dataclass(frozen=True, slots=True)
class _Answered:
    """An arm's answers.

    Attributes:
        method: the arm's.
        runs: for each run the answers, in the order of the questions.
        tokens_added: mean tokens that personalization added to a prompt.
        calibrations: the different kinds of calibration of the runs; empty texts for none.
    """

    method: Method
    runs: tuple[list[GivenAnswer], ...]
    tokens_added: float
    calibrations: tuple[str, ...]

    @property
    def texts(self) -> list[list[str]]:
        """The answers as texts."""
        return [[each.text for each in run] for run in self.runs]

    @property
    def outcomes(self) -> dict[str, int]:
        """`persona.eval.answers.outcomes` of all runs."""
        return outcomes([each for run in self.runs for each in run])

    @property
    def ways(self) -> str:
        """How answers were made, for the report."""
        modes = {way: count for way, count in self.outcomes.items() if way not in (*OUTCOMES, THINKING)}
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


def _ask(
    arms: Sequence[Arm],
    questions: Sequence[Question],
    answers: Answers,
    calibrations: _Calibrations,
    progress: Progress,
) -> list[_Answered]:
    """The answers of all arms. The requests of one arm are prepared together, and gone when they are answered."""
    total = len(questions) * sum(len(arm.method.runs) for arm in arms)
    before = 0
    answered = []
    for arm in arms:
        runs, tokens, kinds = [], [], []
        for number, personalizer in enumerate(arm.method.personalizers):
            calibration = calibrations.of(arm.method, number)
            asks = [
                Ask(profile, question.prompt, question.query, calibration.of(Choices.of(question.choices)))
                for profile, question in zip(arm.profiles, questions, strict=True)
            ]
            prepared = personalizer.prepare(asks)
            tokens += [each.generation.tokens_added for each in prepared]
            runs.append(answers.ask(personalizer, prepared, partial(_advance, progress, before, total)))
            kinds.append("" if calibration.kind == NO_CALIBRATION else calibration.kind)
            before += len(questions)
        answered.append(_Answered(arm.method, tuple(runs), float(np.mean(tokens)), tuple(dict.fromkeys(kinds))))
    return answered


def _advance(progress: Progress, before: int, total: int, done: int) -> None:
    progress("answers", before + done, total)


class _Scoring:
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

    def rows(self, answered: Sequence[_Answered]) -> tuple[Row, ...]:
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
                )
            )
        for name, answers in self._benchmark.baselines(self._questions).items():
            own = self._samples([answers]) if self._scored else None
            difference = self._compared(own, samples.get(usual))
            rows.append(Row(name, 0, None, self._intervals(own), difference, None, None, 0.0, (self._by_id(answers),)))
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
        bootstrap = self._bootstrap(samples)
        return {metric.name: bootstrap.interval(metric, samples) for metric in self._benchmark.metrics}

    def _compared(self, ours: Samples | None, theirs: Samples | None) -> PairedDifference | None:
        """`ours` minus `theirs`; the one with fewer runs is repeated, so that each run has its counterpart."""
        if ours is None or theirs is None:
            return None
        length = max(len(next(iter(samples.values()))) for samples in (ours, theirs))
        ours, theirs = (
            {name: np.tile(each, (length // len(each), 1)) for name, each in samples.items()}
            for samples in (ours, theirs)
        )
        return self._bootstrap(ours).paired(self._benchmark.metrics[0], ours, theirs)

    def _bootstrap(self, samples: Samples) -> Bootstrap:
        """Draws the users of samples, which may be those of several runs."""
        runs = len(next(iter(samples.values()))) // len(self._users)
        return Bootstrap(self._users * runs, resamples=self._options.resamples, seed=self._options.seed)


def _save(report: Report, benchmark: Benchmark, out: Path) -> None:
    folder = out / "predictions"
    folder.mkdir(exist_ok=True)
    for row in report.rows:
        for name, answers in zip(row.file_names, row.runs, strict=True):
            benchmark.save(folder / name, answers)
    write_results(out, report.as_dict())
