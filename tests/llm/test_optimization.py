"""The learning-rate schedule and early stopping."""

from __future__ import annotations

import math

import pytest

from persona.errors import InvalidOptionError
from persona.llm.optimization import EarlyStopping, rate_share


def test_a_linear_schedule_rises_to_the_peak_and_falls() -> None:
    shares = [rate_share(step, 10, warm_up=3) for step in range(10)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert [rate_share(step, 2, warm_up=0) for step in range(2)] == [1, 0.5]


def test_a_cosine_schedule_falls_to_zero() -> None:
    shares = [rate_share(step, 12, warm_up=2, decay="cosine") for step in range(13)]
    assert shares[:3] == pytest.approx([0.5, 1, 1])
    assert shares[7] == pytest.approx(0.5)
    assert shares[12] == pytest.approx(0)
    assert shares[2:] == sorted(shares[2:], reverse=True)


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="`decay` must be one of linear, cosine, was: 'steps'"):
        rate_share(0, 1, decay="steps")


def test_training_ends_after_evaluations_without_a_better_loss() -> None:
    stopping = EarlyStopping(patience=2)
    found = [(stopping.improved(loss, step), stopping.exhausted) for step, loss in enumerate((3.0, 2.0, 2.0, math.nan))]
    assert found == [(True, False), (True, False), (False, False), (False, True)]
    assert (stopping.best, stopping.best_step, stopping.since_best) == (2.0, 1, 2)


def test_without_patience_training_never_ends_early() -> None:
    stopping = EarlyStopping()
    for step in range(100):
        stopping.improved(1.0, step)
    assert not stopping.exhausted
