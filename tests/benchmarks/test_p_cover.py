"""P-Cover against a case computed by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.p_cover import p_cover
from persona.errors import EvaluationError

TITLES = ["the harbour", "a blue boat", "the blue sea", "the old town"]


def test_the_best_past_text_counts_by_rarity() -> None:
    """Row 57 of docs/papers.md, P-Cover: as the published code counts, and per word of the answer."""
    # idf: the log(4/3), harbour, boat, sea log 4, blue log 2.
    history = ["the harbour", "a blue boat"]
    assert p_cover(["the blue harbour"], [history], TITLES) == pytest.approx(math.log(4 / 3) + math.log(4))
    assert p_cover(["the blue harbour"], [history], TITLES, by_length=True) == pytest.approx(
        (math.log(4 / 3) + math.log(4)) / 3
    )
    assert p_cover(["Blue! blue?"], [history], TITLES) == pytest.approx(math.log(2))


def test_it_is_the_mean_over_answers_and_strangers_have_none() -> None:
    assert p_cover(["harbour", "harbour"], [["harbour"], []], TITLES) == pytest.approx(math.log(4) / 2)
    assert p_cover([""], [["harbour"]], TITLES) == 0


def test_it_needs_answers_with_histories() -> None:
    with pytest.raises(EvaluationError):
        p_cover([], [], TITLES)
    with pytest.raises(EvaluationError):
        p_cover(["a"], [], TITLES)
