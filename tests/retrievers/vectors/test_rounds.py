"""Rounds, each with a query from which what was fetched is subtracted (row 30 of docs/papers.md)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from persona.errors import InvalidOptionError
from persona.records import Profile
from persona.retrievers import DenseRetriever, RoundsRetriever
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written, at

SIX_TENTHS = math.degrees(math.acos(0.8))  # (0.8, 0.6)
PROFILE = Profile("ana", (at(0, id="a"), at(-SIX_TENTHS, id="b"), at(90, id="c")))


@pytest.mark.parametrize(
    ("strength", "scores"),
    [
        (0.5, {"a": 0.8, "c": 0.6, "b": 0.14}),
        (1.0, {"a": 0.8, "c": 0.6, "b": 0.0}),
        (0.0, {"a": 0.8, "c": 0.6, "b": 0.28}),
    ],
)
def test_the_covered_direction_is_subtracted(strength: float, scores: dict[str, float]) -> None:
    """Row 30 by hand: q = (.8, .6); after a it is (.8 - .8 s, .6), after c (.8 - .8 s, .6 - .6 s)."""
    found = RoundsRetriever(Written(), strength=strength).retrieve(PROFILE, at(SIX_TENTHS).text, 3)
    assert {scored.record.id: pytest.approx(scored.score, abs=1e-3) for scored in found} == scores
    assert ids(found) == list(scores)


def test_a_round_fetches_a_batch_with_one_query() -> None:
    records = (at(0), at(1), at(5), at(70))
    query = at(25).text
    assert ids(RoundsRetriever(Written(), strength=1).retrieve(Profile("ana", records), query, 2)) == ["5", "70"]
    assert ids(RoundsRetriever(Written(), strength=1, batch=2).retrieve(Profile("ana", records), query, 2)) == [
        "5",
        "1",
    ]


def test_without_strength_it_is_dense_and_at_one_nothing_fetched_answers_twice() -> None:
    draw = np.random.default_rng(0)
    profile = Profile("ana", tuple(at(float(angle)) for angle in draw.uniform(0, 360, 30)))
    dense = DenseRetriever(Written()).retrieve(profile, "1 0", 30)
    assert ids(RoundsRetriever(Written(), strength=0).retrieve(profile, "1 0", 30)) == ids(dense)
    # Two directions span the plane: a third record has nothing left to answer.
    found = RoundsRetriever(Written(), strength=1).retrieve(profile, "1 0", 30)
    assert [scored.score for scored in found[2:]] == pytest.approx([0] * 28, abs=1e-3)


def test_options() -> None:
    with pytest.raises(InvalidOptionError, match="`strength` must be from 0 to 1, was: 2"):
        RoundsRetriever(Written(), strength=2)
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1, was: 0"):
        RoundsRetriever(Written(), batch=0)
