"""A set of records with the greatest worth together (row 5 of docs/papers.md)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from persona.errors import InvalidOptionError
from persona.records import Profile
from persona.retrievers import DenseRetriever, DualSpaces, JointRetriever
from persona.retrievers.vectors.joint import greedy
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written, at


def test_gains_by_hand() -> None:
    """Row 0 represents itself and half of row 1: 0.6 + 0.4 / 2. Row 1 then adds the other half of itself."""
    chosen, gains = greedy(np.array([0.6, 0.4]), np.array([[1, 0.5], [0.5, 1]]), 2)
    assert chosen == [0, 1]
    assert gains.tolist() == pytest.approx([0.8, 0.2])


def test_the_first_record_stands_for_the_neighbourhood_and_none_for_what_is_there_twice() -> None:
    """Row 5: at temperature 1 the record in the middle represents the others better than the nearest does."""
    profile = Profile("ana", (at(0), at(20), at(21), at(40), at(90)))
    query = at(-10).text
    assert ids(DenseRetriever(Written()).retrieve(profile, query, 2)) == ["0", "20"]
    found = JointRetriever(Written(), temperature=1.0).retrieve(profile, query, 5)
    assert ids(found)[:2] == ["21", "90"]
    # By hand for the first: sum of w cos(21 - x), w = softmax of cos(-10 - x).
    angles = np.radians([0.0, 20, 21, 40, 90])
    weights = np.exp(np.cos(angles + np.radians(10)))
    expected = (weights / weights.sum()) @ np.cos(angles - np.radians(21))
    assert found[0].score == pytest.approx(expected, abs=1e-3)
    assert math.fsum(scored.score for scored in found) == pytest.approx(1, abs=1e-3)  # all represent themselves


def test_in_learned_spaces() -> None:
    """OUT sees the second number alone, so 30 and 150 degrees are one record: with IN = 1, w = softmax(q_2 r_2)."""
    seen = np.array([[0, 0], [0, 1]], np.float32)
    spaces = DualSpaces({"in.weight": np.eye(2, dtype=np.float32), "out.weight": seen}, "written|view=text")
    profile = Profile("ana", (at(30), at(150), at(-90)))
    found = JointRetriever(Written(), model=spaces).retrieve(profile, "0 1", 3)
    assert ids(found) == ["30", "-90", "150"]
    weights = np.exp([0.5, 0.5, -1])
    assert [scored.score for scored in found] == pytest.approx([*(weights[1:] / weights.sum() * [2, 1]), 0], abs=1e-3)


def test_at_a_small_temperature_the_nearest_record_is_the_first() -> None:
    profile = Profile("ana", (at(0), at(20), at(21), at(40), at(90)))
    assert ids(JointRetriever(Written(), temperature=1e-3).retrieve(profile, at(-10).text, 1)) == ["0"]
    with pytest.raises(InvalidOptionError, match="`temperature` must be a number above 0, was: 0"):
        JointRetriever(Written(), temperature=0)


def test_greedy_sets_are_within_the_bound_of_the_best_ones() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        alike = np.maximum(draw.uniform(size=(8, 8)), np.eye(8))
        weights = draw.dirichlet(np.ones(8))
        _, gains = greedy(weights, alike, 3)
        best = max(weights @ alike[list(rows)].max(0) for rows in itertools.combinations(range(8), 3))
        assert (1 - 1 / math.e) * best <= gains.sum() <= best + 1e-9
        assert (np.diff(gains) <= 0).all()
