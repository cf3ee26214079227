"""Bootstrap intervals over users: against a plain loop, by coverage, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval import bootstrap
from persona.eval.bootstrap import Bootstrap
from persona.eval.metrics import ACCURACY, F1, MAE, RMSE, Answer, Metric, Samples, score_lamp

_USERS = ["ann", "bob", "ann", "cy", "bob", "ann", "dee", "dee", "eve", "eve", "ann", "cy"]


def _choice_samples(seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    answers = [
        Answer(str(i), rng.choice(["a", "b", "c"]), rng.choice(["a", "b", "c", "?"])) for i in range(len(_USERS))
    ]
    return {metric.name: metric.measure(answers, ["a", "b", "c", "d"]) for metric in (ACCURACY, F1)}


def _error_samples(seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    errors = rng.integers(0, 5, size=(len(_USERS), 1)).astype(np.float64)
    return {"MAE": errors, "RMSE": errors**2}


def _in_a_loop(metric: Metric, samples: Samples, resamples: int, seed: int) -> np.ndarray:
    """The metric, sample by sample, on users drawn in the order in which the module draws them."""
    rng = np.random.default_rng(seed)
    users = list(dict.fromkeys(_USERS))
    values = []
    for _ in range(resamples):
        drawn = [users[number] for number in rng.integers(0, len(users), size=len(users))]
        index = [place for user in drawn for place, owner in enumerate(_USERS) if owner == user]
        values.append(metric.value(samples, np.array(index)))
    return np.array(values)


@pytest.mark.parametrize("metric", [ACCURACY, F1, MAE, RMSE], ids=str)
@pytest.mark.parametrize("at_once", [1, 12, 2**18])
def test_equals_a_plain_loop_over_the_same_draws(metric: Metric, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_DRAWN_AT_ONCE", at_once)
    make = _choice_samples if metric in (ACCURACY, F1) else _error_samples
    a, b = make(1), make(2)
    drawn_a, drawn_b = (_in_a_loop(metric, samples, 201, 3) for samples in (a, b))
    values_a, ordered = np.sort(drawn_a), np.sort(drawn_a - drawn_b)

    drawn = Bootstrap(_USERS, resamples=201, seed=3)
    interval = drawn.interval(metric, a)
    assert interval.value == metric.value(a)
    assert interval.users == 5
    # 2.5 % of the 200 steps between 201 values lie below the fifth.
    assert (interval.low, interval.high) == pytest.approx((values_a[5], values_a[195]), abs=1e-12)

    paired = drawn.paired(metric, a, b)
    assert paired.difference == pytest.approx(metric.value(a) - metric.value(b))
    assert (paired.low, paired.high) == pytest.approx((ordered[5], ordered[195]), abs=1e-12)

    share = drawn.gap_share(metric, a, floor=-1.0, ceiling=7.0)
    assert share.value == pytest.approx((metric.value(a) + 1) / 8)
    assert (share.low, share.high) == pytest.approx(((values_a[5] + 1) / 8, (values_a[195] + 1) / 8), abs=1e-12)


def test_p_value_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # User "u" gains 1, user "v" loses 3: a resample is above 0 only if both draws are "u".
    a = {"accuracy": np.array([[1.0], [0.0]])}
    b = {"accuracy": np.array([[0.0], [3.0]])}
    drawn = np.random.default_rng(0).integers(0, 2, size=(99, 2))
    not_below = int((drawn.sum(axis=1) == 0).sum())
    bootstrap = Bootstrap(["u", "v"], resamples=99)
    paired = bootstrap.paired(ACCURACY, a, b)
    assert 0 < not_below < 50
    assert paired.p_value == pytest.approx(2 * (not_below + 1) / 100)
    assert (paired.difference, paired.low, paired.high) == (-1.0, -3.0, 1.0)
    assert bootstrap.paired(ACCURACY, a, a).p_value == 1.0


def test_same_seed_same_interval() -> None:
    samples = {"MAE": np.random.default_rng(0).normal(size=(len(_USERS), 1))}
    first, again = (Bootstrap(_USERS, seed=4).interval(MAE, samples) for _ in range(2))
    assert first == again
    assert first != Bootstrap(_USERS, seed=5).interval(MAE, samples)


def test_intervals_cover_the_truth_and_need_the_users() -> None:
    # Each user has an own level: 40 users x 10 samples, true mean 0. A bootstrap over single samples would be
    # far too sure of itself; over users, 95 % intervals must hold the truth nearly that often.
    rng = np.random.default_rng(11)
    users = np.repeat(np.arange(40), 10)
    by_user = by_sample = 0
    trials = 200
    for trial in range(trials):
        values = rng.normal(size=40)[users] + rng.normal(size=400)
        samples = {"MAE": values[:, None]}
        over_users = Bootstrap(users.tolist(), resamples=400, seed=trial).interval(MAE, samples)
        over_samples = Bootstrap(range(400), resamples=400, seed=trial).interval(MAE, samples)
        by_user += over_users.low <= 0 <= over_users.high
        by_sample += over_samples.low <= 0 <= over_samples.high
    assert 0.89 <= by_user / trials <= 0.99
    assert by_sample / trials < 0.75


def test_a_mean_of_numbers_is_the_mean_of_any_metric() -> None:
    errors = _error_samples(1)["MAE"]
    bootstrap = Bootstrap(_USERS, resamples=50, seed=2)
    assert bootstrap.mean(errors[:, 0].tolist()) == bootstrap.interval(MAE, {"MAE": errors})


def test_one_user_gives_a_point_that_says_so() -> None:
    samples, others = _error_samples(1), _error_samples(2)
    bootstrap = Bootstrap(["only"] * len(_USERS))
    interval = bootstrap.interval(RMSE, samples)
    assert interval.users == 1
    assert (interval.low, interval.high) == pytest.approx((interval.value, interval.value))
    paired = bootstrap.paired(RMSE, samples, others)
    assert paired.users == 1
    assert (paired.low, paired.high) == pytest.approx((paired.difference, paired.difference))


def test_a_share_of_the_gap_means_the_same_for_errors_and_for_scores() -> None:
    users = ["u", "v", "w", "x"]
    errors = {"MAE": np.array([[1.0], [2.0], [1.0], [2.0]])}
    scores = {"accuracy": 3 - errors["MAE"]}
    for_errors = Bootstrap(users).gap_share(MAE, errors, floor=2.5, ceiling=0.5)
    for_scores = Bootstrap(users).gap_share(ACCURACY, scores, floor=0.5, ceiling=2.5)
    assert for_errors.value == pytest.approx(0.5)
    assert (for_errors.value, for_errors.low, for_errors.high) == pytest.approx(
        (for_scores.value, for_scores.low, for_scores.high)
    )


def test_groups_may_be_any_strings() -> None:
    scores = score_lamp("LaMP_3", {"0": "1", "1": "2", "2": "3"}, {"0": "1", "1": "1", "2": "1"})
    interval = Bootstrap(["../../x", "😀", "'; drop"], resamples=50).interval(scores.metrics[0], scores.samples)
    assert (interval.value, interval.users) == (1.0, 3)


def test_bad_input_is_refused() -> None:
    samples = _error_samples(1)
    bootstrap = Bootstrap(_USERS)
    with pytest.raises(EvaluationError, match="12 samples, 1 users"):
        Bootstrap(["u"]).interval(MAE, samples)
    with pytest.raises(EvaluationError, match="at least one sample"):
        Bootstrap([])
    with pytest.raises(EvaluationError, match="2 samples, 12 users"):
        bootstrap.paired(MAE, samples, {"MAE": np.zeros((2, 1))})
    with pytest.raises(EvaluationError, match="must hold f1"):
        bootstrap.interval(F1, samples)
    for floor, ceiling in ((1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(EvaluationError, match=r"that differ, were: 1\.0 and"):
            bootstrap.gap_share(MAE, samples, floor=floor, ceiling=ceiling)
    with pytest.raises(InvalidOptionError, match="`resamples` must be at least 1, was: 0"):
        Bootstrap(_USERS, resamples=0)
    with pytest.raises(InvalidOptionError, match="`seed`"):
        Bootstrap(_USERS, seed=-1)
