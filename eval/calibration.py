"""Calibration: what an LLM thinks of each choice whatever is asked is measured, and taken off its scores.

An LLM may find one label likely in every prompt: "1" of the scores 1 to 5, say, or the label of the last record. With
``s[q, a]`` the log-likelihood of choice a for question q, normalised over the choices, its *prior* is::

    prior[a] = mean over q of s[q, a]

===============  ===========================================================================
``none``         no prior
``prior``        measured on training questions as they are
``content-free`` measured on training questions whose content is left out (``N/A``)
``auto``         the kind that the task's first metric finds best on the training questions
===============  ===========================================================================

A prior is that of one row: of training questions with the row's own method, form and number of records. ``auto`` fits
on one half of the training users and scores on the other, in turn, and takes ``none`` unless another kind is better by
more than the standard error of the difference: on some dozen questions a difference of a few is chance. Reported
questions have no part in it.

Sources: Zhao et al., "Calibrate Before Use" (arXiv 2102.09690), whose content-free inputs these are; Zhou et al.,
"Batch Calibration" (arXiv 2309.17249), which takes the mean over real inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from persona.channels import Ask
from persona.eval.answers import Answers
from persona.eval.benchmark import Benchmark, Question
from persona.eval.controls import Control, as_arms
from persona.eval.methods import Arm, Method
from persona.eval.options import CALIBRATIONS, EvaluationOptions
from persona.llm.answers.choices import chosen
from persona.llm.answers.modes import answer_mode
from persona.personalizer import Personalizer
from persona.protocols import Choices

NO_CALIBRATION, PRIOR, CONTENT_FREE, AUTO = CALIBRATIONS

_LEFT_OUT = "N/A"
_CONTENT_FREE_QUESTIONS = 16


@dataclass(frozen=True, slots=True)
class Calibration:
    """The prior of one run of one row.

    Attributes:
        kind: ``"none"``, ``"prior"`` or ``"content-free"``.
        prior: log-probability of each choice by its text.
    """

    kind: str = NO_CALIBRATION
    prior: Mapping[str, float] = field(default_factory=dict)

    def of(self, choices: Choices | None) -> Choices | None:
        """`choices` with their prior; without one where it was measured on none of them."""
        if choices is None or not self.prior:
            return choices
        usual = min(self.prior.values())
        return replace(choices, prior=tuple(self.prior.get(text, usual) for text in choices.texts))


def calibration_questions(benchmark: Benchmark, number: int, seed: int) -> list[Question]:
    """Training questions with choices, of users who are asked nothing else here, a random one of each user first.

    Args:
        benchmark: whose training split they are of; there are none without one.
        number: how many at most.
        seed: of the choice.
    """
    training = benchmark.training
    if training is None:
        return []
    asked = {question.user_id for question in benchmark.questions}
    known = [each for each in training.questions if each.choices is not None and each.gold is not None]
    strangers = [each for each in known if each.user_id not in asked] or known
    order = [strangers[index] for index in np.random.default_rng(seed).permutation(len(strangers))]
    turn: dict[str, int] = {}
    turns = []
    for question in order:
        turns.append(turn.setdefault(question.user_id, 0))
        turn[question.user_id] += 1
    return [order[index] for index in np.argsort(turns, kind="stable")[:number]]


class Calibrator:
    """The calibration of each run of each row, fitted on training questions.

    Args:
        benchmark: has the training split, and scores answers to it.
        methods: the rows' methods.
        controls: of the methods.
        options: which calibration, and on how many questions.
        answers: keeps the scores.
        progress: called with a stage's name, how many questions are scored and how many will be.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        methods: Sequence[Method],
        controls: Sequence[Control],
        options: EvaluationOptions,
        answers: Answers,
        progress: Callable[[str, int, int], object],
    ) -> None:
        self._benchmark, self._kind = benchmark, options.calibration
        self._answers, self._progress = answers, progress
        self._questions: list[Question] = []
        if self._kind != NO_CALIBRATION and any(each.choices is not None for each in benchmark.questions):
            self._questions = calibration_questions(benchmark, options.calibration_questions, options.seed)
        # The control with another user's history needs a second one.
        some = len({question.user_id for question in self._questions}) > 1
        self._arms = {arm.method.label: arm for arm in as_arms(methods, controls, self._questions)} if some else {}

    def of(self, method: Method, run: int) -> Calibration:
        """That of a run. Adapters of single users are not trained for it: they take that of what users share."""
        shared = method.without_user if method.trains_per_user and method.without_user is not None else method
        arm, personalizer = self._arms.get(shared.label), shared.personalizers[run % len(shared.runs)]
        if arm is None or answer_mode(personalizer.llm, personalizer.options) != "likelihood":
            return Calibration()
        kinds = (PRIOR, CONTENT_FREE) if self._kind == AUTO else (self._kind,)
        measured = {kind: self._scores(personalizer, arm, left_out=kind == CONTENT_FREE) for kind in kinds}
        measured = {kind: scores for kind, scores in measured.items() if scores}
        if not measured:
            return Calibration()
        if self._kind == AUTO:
            scores = measured.get(PRIOR) or self._scores(personalizer, arm, left_out=False)
            best = self._best(scores, measured) if scores else NO_CALIBRATION
            return Calibration() if best == NO_CALIBRATION else Calibration(best, _prior(measured[best]))
        return Calibration(self._kind, _prior(measured[self._kind]))

    def _scores(self, personalizer: Personalizer, arm: Arm, *, left_out: bool) -> list[_Scores]:
        """Scores of training questions; with their content left out, of those where it can be."""
        pairs = list(zip(self._questions, arm.profiles, strict=True))
        if left_out:
            pairs = [(each, profile) for each, profile in pairs if each.query and each.query in each.prompt]
            pairs = pairs[:_CONTENT_FREE_QUESTIONS]
        asks = [
            Ask(
                profile,
                question.prompt.replace(question.query, _LEFT_OUT) if left_out else question.prompt,
                question.query,
                Choices.of(question.choices),
            )
            for question, profile in pairs
        ]
        if not asks:
            return []
        scored = self._answers.scores(
            personalizer, personalizer.prepare(asks), lambda done: self._progress("calibration", done, len(asks))
        )
        return [
            _Scores(question, choices, np.asarray(scores) - np.logaddexp.reduce(scores))
            for (question, _), ask, scores in zip(pairs, asks, scored, strict=True)
            if (choices := ask.choices) is not None and scores is not None
        ]

    def _best(self, scores: Sequence[_Scores], measured: Mapping[str, Sequence[_Scores]]) -> str:
        """The kind whose answers to the training questions score best, each half answered with the other's prior."""
        users = list(dict.fromkeys(each.question.user_id for each in scores))
        first = set(users[::2])
        metric, questions = self._benchmark.metrics[0], [each.question for each in scores]
        recorded, values = {}, {}
        for kind in (NO_CALIBRATION, *measured):
            answers = {}
            for inside in (True, False):
                others = [each for each in measured.get(kind, ()) if (each.question.user_id in first) != inside]
                fitted = Calibration(kind, _prior(others)) if others else Calibration()
                for each in scores:
                    if (each.question.user_id in first) == inside:
                        choices = fitted.of(each.choices)
                        assert choices is not None
                        answers[each.question.id] = chosen(each.values.tolist(), choices)
            samples = self._benchmark.score(questions, [answers[question.id] for question in questions])
            recorded[kind] = metric.recorded(samples)
            values[kind] = metric.value(samples) * (1 if metric.higher_is_better else -1)
        best = max(values, key=lambda kind: values[kind])
        gain = (recorded[best] - recorded[NO_CALIBRATION])[:, 0]
        return best if abs(gain.mean()) > gain.std() / len(gain) ** 0.5 else NO_CALIBRATION


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Log-probabilities of a question's choices, normalised over them."""

    question: Question
    choices: Choices
    values: np.ndarray


def _prior(scores: Sequence[_Scores]) -> dict[str, float]:
    """The mean of each choice over the questions that have it."""
    by_text: dict[str, list[float]] = {}
    for each in scores:
        for text, value in zip(each.choices.texts, each.values, strict=True):
            by_text.setdefault(text, []).append(float(value))
    return {text: float(np.mean(values)) for text, values in by_text.items()}
