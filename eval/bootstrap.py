"""How sure a score is: bootstrap intervals over users.

The questions of one user are alike, so users, not questions, are drawn with replacement (a cluster bootstrap); a user
who is drawn twice brings all questions twice. With ``S[u]`` the summed samples of user ``u``, ``n[u]`` their number and
``w[r, u]`` how often resample ``r`` drew ``u``, a metric's value in resample ``r`` is ``of_sums(w[r] @ S, w[r] @ n)``:
every resample is one row of a matrix product, and macro-F1 and RMSE are computed exactly, not averaged.

>>> from persona.eval.metrics import MAE, score_lamp
>>> scores = score_lamp("LaMP_3", {"0": "4", "1": "2", "2": "5"}, {"0": "5", "1": "2", "2": "3"})
>>> Bootstrap(["ann", "ann", "bob"]).interval(MAE, scores.samples)
Interval(value=1.0, low=0.5, high=2.0, users=2)

Intervals are 95 % percentile intervals, taken at order statistics outwards (no interpolation). On few users (below
about 20) they are too narrow, as every bootstrap is; `users` is part of each result so that a report can say so. With
one user every resample is the same: the interval is a point and says nothing.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, check_least
from persona.eval.metrics import ACCURACY, Array, Metric, Samples

CONFIDENCE = 0.95
"""Of every interval."""

_DRAWN_AT_ONCE = 2**18
"""Draws held in memory together: 2 MiB of int64, whatever the number of users; more is no faster."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all samples, the ends of its interval, and how many users were drawn from."""

    value: float
    low: float
    high: float
    users: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """System a minus system b, in the metric's own unit (for errors, below 0 means that a is the better one).

    Attributes:
        difference: on all samples.
        low: lower end of the interval.
        high: upper end of the interval.
        p_value: two-sided, in (0, 1]: twice the smaller share of resamples on one side of 0 (0 itself counts to both
            sides, and one resample is added to each, so that it is never 0).
        users: how many users were drawn from.
    """

    difference: float
    low: float
    high: float
    p_value: float
    users: int


class Bootstrap:
    """Draws users, and computes metrics in the same draws for every system that is scored on their samples.

    Args:
        groups: each sample's user id.  # (samples,)
        resamples: at least 1.
        seed: at least 0; the same seed draws the same users.

    Every method raises `EvaluationError` if it is given samples of another number, or of another metric.

    Raises:
        EvaluationError: if there are no samples.
        InvalidOptionError: if an option is outside its range.
    """

    def __init__(self, groups: Sequence[Hashable], *, resamples: int = 2000, seed: int = 0) -> None:
        check_least(1, resamples=resamples)
        check_least(0, seed=seed)
        if not len(groups):
            raise EvaluationError("a bootstrap needs at least one sample, was given none")
        self.resamples, self.seed = resamples, seed
        numbers: dict[Hashable, int] = {}
        of_sample = [numbers.setdefault(group, len(numbers)) for group in groups]
        self._of_sample: NDArray[np.intp] = np.array(of_sample, dtype=np.intp)  # (samples,)
        self.users = len(numbers)

    def interval(self, metric: Metric, samples: Samples) -> Interval:
        """A metric's value and its interval.

        Args:
            metric: the measure.
            samples: what was recorded of each sample (`persona.eval.metrics.LampScores.samples`).
        """
        (values,) = self._resampled(metric, [samples])
        return Interval(metric.value(samples), *_ends(values), self.users)

    def mean(self, values: Sequence[float]) -> Interval:
        """The mean of some numbers, one for each sample, and its interval."""
        column = np.array(values, dtype=np.float64)[:, None]
        return self.interval(ACCURACY, {ACCURACY.name: column})  # a mean like any other

    def paired(self, metric: Metric, a: Samples, b: Samples) -> PairedDifference:
        """System a minus system b, both in the same resamples, which cancels what is merely a hard or an easy user."""
        values_a, values_b = self._resampled(metric, [a, b])
        differences = values_a - values_b
        one_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
        p_value = min(1.0, 2 * (one_side + 1) / (self.resamples + 1))
        difference = metric.value(a) - metric.value(b)
        return PairedDifference(difference, *_ends(differences), p_value, self.users)

    def gap_share(self, metric: Metric, samples: Samples, *, floor: float, ceiling: float) -> Interval:
        """How much of the way from `floor` to `ceiling` a system has gone: ``(score - floor) / (ceiling - floor)``.

        0 is what can be had without knowing the user, 1 the best that can be had; below 0 and above 1 are possible. It
        means the same for errors, whose ceiling is the lower number.

        Raises:
            EvaluationError: if floor and ceiling are the same, or no numbers.
        """
        gap = ceiling - floor
        if not math.isfinite(gap) or gap == 0:
            raise EvaluationError(
                f"a share of the gap needs a floor and a ceiling that differ, were: {floor} and {ceiling} ({metric})"
            )
        interval = self.interval(metric, samples)
        value, *ends = ((end - floor) / gap for end in (interval.value, interval.low, interval.high))
        return Interval(value, min(ends), max(ends), self.users)

    def _resampled(self, metric: Metric, systems: Sequence[Samples]) -> Array:
        """The metric of each system, all drawn with the same users.  # (systems, resamples)"""
        sizes = np.bincount(self._of_sample, minlength=self.users).astype(np.float64)  # (users,)
        sums = [self._sum_by_user(metric.recorded(samples)) for samples in systems]
        values = np.empty((len(systems), self.resamples))
        start = 0
        for weights in self._draws():
            stop = start + len(weights)
            counts = weights @ sizes
            for system, summed in enumerate(sums):
                values[system, start:stop] = metric.of_sums(weights @ summed, counts)
            start = stop
        return values if metric.correction is None else metric.correction.redrawn(values)

    def _sum_by_user(self, recorded: Array) -> Array:
        if len(recorded) != len(self._of_sample):
            raise EvaluationError(
                f"each sample needs its user: {len(recorded)} samples, {len(self._of_sample)} users were given"
            )
        summed = np.zeros((self.users, recorded.shape[1]))
        np.add.at(summed, self._of_sample, recorded)
        return summed  # (users, columns)

    def _draws(self) -> Iterator[Array]:
        """How often each resample drew each user, a block of resamples at a time.  # (block, users)"""
        generator = np.random.default_rng(self.seed)
        block = max(1, _DRAWN_AT_ONCE // self.users)
        for start in range(0, self.resamples, block):
            rows = min(block, self.resamples - start)
            drawn = generator.integers(0, self.users, size=(rows, self.users))
            drawn += np.arange(rows)[:, None] * self.users
            counts = np.bincount(drawn.ravel(), minlength=rows * self.users)
            yield counts.reshape(rows, self.users).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for how many there are: the chance that any of them is that small where nothing differs.

    The smallest of `m` is multiplied by `m`, the next by `m - 1`, and so on; none falls below one before it.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _ends(values: Array) -> tuple[float, float]:
    # Order statistics, taken outwards. The added part keeps a tail of 0.025 * 200 values from being 4.99... of them.
    outside = math.floor((1 - CONFIDENCE) / 2 * (len(values) - 1) + 1e-9)
    ordered = np.sort(values)
    return float(ordered[outside]), float(ordered[-1 - outside])
