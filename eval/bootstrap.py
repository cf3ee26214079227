"""How sure a score is: bootstrap intervals over users.

The questions of one user are alike, so users, not questions, are drawn with replacement (a cluster bootstrap); a user
who is drawn twice brings all questions twice. With ``S[u]`` the summed samples of user ``u``, ``n[u]`` their number and
``w[r, u]`` how often resample ``r`` drew ``u``, a metric's value in resample ``r`` is ``of_sums(w[r] @ S, w[r] @ n)``:
every resample is one row of a matrix product, and macro-F1 and RMSE are computed exactly, not averaged.

>>> from persona.eval.metrics import MAE, score_lamp
>>> scores = score_lamp("LaMP_3", {"0": "4", "1": "2", "2": "5"}, {"0": "5", "1": "2", "2": "3"})
>>> bootstrap_interval(MAE, scores.samples, ["ann", "ann", "bob"])
Interval(value=1.0, low=0.5, high=2.0, users=2)

Intervals are percentile intervals, taken at order statistics outwards (no interpolation). On few users (below about 20)
they are too narrow, as every bootstrap is; `users` is part of each result so that a report can say so. Two systems are
compared in the same resamples (`paired_bootstrap`), which cancels what is merely a hard or an easy user.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.metrics import ACCURACY, Array, Metric, Samples

CONFIDENCE = 0.95
"""Of every interval."""

_DRAWN_AT_ONCE = 2**18
"""Draws held in memory together: 2 MiB of int64, whatever the number of users; more is no faster."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bootstrap interval.

    Attributes:
        value: on all samples as they are.
        low: lower end.
        high: upper end.
        users: how many users were drawn from. With one, every resample is the same: `low` and `high` are the value, and
            say nothing.
    """

    value: float
    low: float
    high: float
    users: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """System a minus system b, in the metric's own unit (for errors, below 0 means that a is the better one).

    Attributes:
        difference: on all samples as they are.
        low: lower end of the interval.
        high: upper end of the interval.
        p_value: two-sided, in (0, 1]: twice the smaller share of resamples on one side of 0 (0 itself counts to both
            sides, and one resample is added to each, so that it is never 0).
        users: how many users were drawn from. With one, the interval is a point and `p_value` says nothing.
    """

    difference: float
    low: float
    high: float
    p_value: float
    users: int


def bootstrap_interval(
    metric: Metric,
    samples: Samples,
    groups: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A metric's value and its interval over users.

    Args:
        metric: the measure.
        samples: what was recorded of each sample: `LampScores.samples`.
        groups: each sample's user id.  # (samples,)
        resamples: at least 1.
        seed: at least 0; the same seed draws the same users.

    Raises:
        EvaluationError: if `samples` is empty or `groups` has another length.
        InvalidOptionError: if an option is outside its range.
    """
    _check_options(resamples, seed)
    clusters = _Clusters.of(groups, len(metric.recorded(samples)))
    (values,) = clusters.resampled(metric, [samples], resamples, seed)
    low, high = _ends(values)
    return Interval(metric.value(samples), low, high, clusters.users)


def mean_interval(
    values: Sequence[float], groups: Sequence[Hashable], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of some numbers and its interval over users; arguments and errors as `bootstrap_interval`."""
    samples = {ACCURACY.name: np.array(values, dtype=np.float64)[:, None]}  # a mean like any other
    return bootstrap_interval(ACCURACY, samples, groups, resamples=resamples, seed=seed)


def paired_bootstrap(
    metric: Metric,
    a: Samples,
    b: Samples,
    groups: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """The difference of two systems on the same samples, both computed in the same resamples.

    Args:
        metric: the measure.
        a: what was recorded of the first system's samples.
        b: the same of the second system, in the same order of samples.
        groups: each sample's user id.  # (samples,)
        resamples: with `seed`, as in `bootstrap_interval`.

    Raises:
        EvaluationError: if `a` is empty or the lengths differ.
        InvalidOptionError: if an option is outside its range.
    """
    _check_options(resamples, seed)
    clusters = _Clusters.of(groups, len(metric.recorded(a)))
    values_a, values_b = clusters.resampled(metric, [a, b], resamples, seed)
    differences = values_a - values_b
    low, high = _ends(differences)
    one_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return PairedDifference(
        difference=metric.value(a) - metric.value(b),
        low=low,
        high=high,
        p_value=min(1.0, 2 * (one_side + 1) / (resamples + 1)),
        users=clusters.users,
    )


def gap_share(
    metric: Metric,
    samples: Samples,
    groups: Sequence[Hashable],
    *,
    floor: float,
    ceiling: float,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much of the way from `floor` to `ceiling` a system has gone: ``(score - floor) / (ceiling - floor)``.

    0 is the floor, 1 the ceiling; below 0 and above 1 are possible. It means the same for errors, whose ceiling is the
    lower number.

    Args:
        metric: the measure.
        samples: what was recorded of the system's samples.
        groups: each sample's user id.  # (samples,)
        floor: what can be had without knowing the user, known exactly.
        ceiling: the best that can be had.
        resamples: with `seed`, as in `bootstrap_interval`.

    Raises:
        EvaluationError: if floor and ceiling are the same, `samples` is empty, or lengths differ.
        InvalidOptionError: if an option is outside its range.
    """
    gap = ceiling - floor
    if not math.isfinite(gap) or gap == 0:
        raise EvaluationError(
            f"a share of the gap needs a floor and a ceiling that differ, were: {floor} and {ceiling} ({metric})"
        )
    interval = bootstrap_interval(metric, samples, groups, resamples=resamples, seed=seed)
    value, *ends = ((end - floor) / gap for end in (interval.value, interval.low, interval.high))
    return Interval(value, min(ends), max(ends), interval.users)


@dataclass(frozen=True, slots=True, eq=False)
class _Clusters:
    """Which user each sample belongs to.

    Attributes:
        users: number of users.
        of_sample: each sample's user, numbered from 0 in order of appearance.  # (samples,)
    """

    users: int
    of_sample: NDArray[np.intp]

    @classmethod
    def of(cls, groups: Sequence[Hashable], n_samples: int) -> _Clusters:
        if not n_samples:
            raise EvaluationError("a bootstrap needs at least one sample, was given none")
        if len(groups) != n_samples:
            raise EvaluationError(f"each sample needs its user: {n_samples} samples, {len(groups)} users were given")
        numbers: dict[Hashable, int] = {}
        of_sample = [numbers.setdefault(group, len(numbers)) for group in groups]
        return cls(len(numbers), np.array(of_sample, dtype=np.intp))

    def resampled(self, metric: Metric, systems: Sequence[Samples], resamples: int, seed: int) -> Array:
        """The metric of each system, all drawn with the same users.  # (systems, resamples)"""
        sizes = np.bincount(self.of_sample, minlength=self.users).astype(np.float64)  # (users,)
        sums = [self._sum_by_user(metric.recorded(samples)) for samples in systems]
        values = np.empty((len(systems), resamples))
        start = 0
        for weights in self._draws(resamples, seed):
            stop = start + len(weights)
            counts = weights @ sizes
            for system, summed in enumerate(sums):
                values[system, start:stop] = metric.of_sums(weights @ summed, counts)
            start = stop
        return values

    def _sum_by_user(self, recorded: Array) -> Array:
        if len(recorded) != len(self.of_sample):
            raise EvaluationError(
                f"systems must be scored on the same samples, {len(self.of_sample)} and {len(recorded)} were given"
            )
        summed = np.zeros((self.users, recorded.shape[1]))
        np.add.at(summed, self.of_sample, recorded)
        return summed  # (users, columns)

    def _draws(self, resamples: int, seed: int) -> Iterator[Array]:
        """How often each resample drew each user, a block of resamples at a time.  # (block, users)"""
        generator = np.random.default_rng(seed)
        block = max(1, _DRAWN_AT_ONCE // self.users)
        for start in range(0, resamples, block):
            rows = min(block, resamples - start)
            drawn = generator.integers(0, self.users, size=(rows, self.users))
            drawn += np.arange(rows)[:, None] * self.users
            counts = np.bincount(drawn.ravel(), minlength=rows * self.users)
            yield counts.reshape(rows, self.users).astype(np.float64)


def _ends(values: Array) -> tuple[float, float]:
    # Order statistics, taken outwards. The added part keeps a tail of 0.025 * 200 values from being 4.99... of them.
    outside = math.floor((1 - CONFIDENCE) / 2 * (len(values) - 1) + 1e-9)
    ordered = np.sort(values)
    return float(ordered[outside]), float(ordered[-1 - outside])


def _check_options(resamples: int, seed: int) -> None:
    if resamples < 1:
        raise InvalidOptionError(f"`resamples` must be at least 1, was: {resamples}")
    if seed < 0:
        raise InvalidOptionError(f"`seed` must be at least 0, was: {seed}")
