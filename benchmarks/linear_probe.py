"""What a user's vector holds, whether or not an LLM can read it there: a linear map from vectors to answers.

For each group of probes (`Probe.group`) ridge regression on training users' vectors ``x`` predicts of each label how
much it is part of the right answer, ``y = W x + b``; an option's score is the sum over its parts. A count is predicted
as a number, and the nearest option taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError
from persona.eval.benchmark import Question
from persona.eval.benchmarks.profiles.probes import COUNT, DRIFT, Probe, Probes
from persona.eval.metrics import Array
from persona.records import Profile

Vectors = Callable[[Sequence[Profile]], NDArray[np.floating]]
"""A vector of each user, by what is known of them.  # (users, dim)"""


def linear_probe(probes: Probes, vectors: Vectors, *, strength: float = 1.0) -> list[str]:
    """The answers to all questions of `probes` that a linear map of users' vectors gives.

    Args:
        probes: with a training split, on whose users it is fitted.
        vectors: e.g. the mean of the vectors of a user's records, or a soft prompt, flattened.
        strength: of the ridge, for vectors of standard deviation 1: the more, the nearer all answers are to the mean.

    Raises:
        EvaluationError: if there is no training split.
    """
    training = probes.training
    if not isinstance(training, Probes):
        raise EvaluationError("a linear probe is fitted on probes of other users: name their histories (`training`)")
    known, asked = _by_group(training), _by_group(probes)
    answers: dict[str, str] = {}
    for group, questions in asked.items():
        fitted = _Fitted(training, known.get(group, []), vectors, strength)
        own = vectors([each.profile for each in questions])
        for question, scores in zip(questions, fitted.scores(own), strict=True):
            answers[question.id] = fitted.best(probes.behind[question.id], scores)
    return [answers[each.id] for each in probes.questions]


class _Fitted:
    """The map of one group; without questions it knows nothing, and takes the first option.

    Its columns are labels; of a count there is one, the number.
    """

    def __init__(self, training: Probes, questions: Sequence[Question], vectors: Vectors, strength: float) -> None:
        right = [_told(training.behind[each.id], each.gold or "") for each in questions]
        self._columns = {key: column for column, key in enumerate(sorted({key for some in right for key in some}))}
        if not questions:
            return
        x = np.asarray(vectors([each.profile for each in questions]), dtype=np.float64)
        self._mean, self._scale = x.mean(axis=0), x.std(axis=0) + 1e-9
        x = (x - self._mean) / self._scale
        y = np.zeros((len(questions), len(self._columns)))
        for row, parts in enumerate(right):
            for key, value in parts.items():
                y[row, self._columns[key]] = value
        self._bias = y.mean(axis=0)
        # In the space of users, of whom there are fewer than dimensions as a rule: W = X' (X X' + s I)^-1 Y.
        gram = x @ x.T + strength * x.shape[1] * np.eye(len(x))
        self._weights = x.T @ np.linalg.solve(gram, y - self._bias)

    def scores(self, vectors: NDArray[np.floating]) -> Array:
        """What is predicted of each column, for each user.  # (users, columns)"""
        if not self._columns:
            return np.zeros((len(vectors), 0))
        scores: Array = (np.asarray(vectors, np.float64) - self._mean) / self._scale @ self._weights + self._bias
        return scores

    def best(self, probe: Probe, scores: Array) -> str:
        """The option that fits them best; the first of equals."""

        def fit(option: str) -> float:
            known = {key: value for key, value in _told(probe, option).items() if key in self._columns}
            if probe.group.startswith(COUNT):
                return -float(sum(abs(value - scores[self._columns[key]]) for key, value in known.items()))
            return float(sum(scores[self._columns[key]] for key in known))

        return max(probe.options, key=fit)


def _told(probe: Probe, option: str) -> dict[str, float]:
    """What an option says: of each label that it is there; of a drift also which comes first; of a count its number."""
    parts = probe.options[option]
    if probe.group.startswith(COUNT):
        return {COUNT: float(parts[0])}
    return {f"{place} {part}" if probe.group == DRIFT else part: 1.0 for place, part in enumerate(parts)}


def _by_group(probes: Probes) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in probes.questions:
        found.setdefault(probes.behind[question.id].group, []).append(question)
    return found
