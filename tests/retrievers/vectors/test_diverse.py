"""Maximal marginal relevance by hand and at its ends."""

from __future__ import annotations

import math

import pytest

from persona.errors import InvalidOptionError
from persona.records import Profile, ScoredRecord
from persona.retrievers import BM25Retriever, DenseRetriever, DiverseRetriever, ProfileRetriever
from persona.retrievers.base import best_first
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written, at


def test_diverse_is_maximal_marginal_relevance() -> None:
    """By hand, balance 0.5: relevance 1, .6, 0 of the base; b repeats a (cosine 1), c is at right angles."""
    records = (at(0, id="a"), at(0, id="b"), at(90, id="c"))

    class Base(ProfileRetriever):
        def rank(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
            return best_first(profile, [10.0, 6.0, 0.0], k)

    found = DiverseRetriever(Base(), Written(), balance=0.5).retrieve(Profile("ana", records), "1 0", 3)
    assert ids(found) == ["a", "c", "b"]
    assert [scored.score for scored in found] == [
        pytest.approx(0.5),
        pytest.approx(0.0, abs=1e-3),
        pytest.approx(-0.2, abs=1e-3),
    ]


def test_diverse_at_the_ends_of_its_balance() -> None:
    records = [at(0, id="a"), at(1, id="b"), at(40, id="c"), at(89, id="d")]
    profile = Profile("ana", tuple(records))
    base = DenseRetriever(Written())
    order = ids(base.retrieve(profile, "1 0", 4))
    assert ids(DiverseRetriever(base, Written(), balance=1).retrieve(profile, "1 0", 4)) == order
    varied = ids(DiverseRetriever(base, Written(), balance=0).retrieve(profile, "1 0", 4))
    assert varied[:3] == ["a", "d", "c"]  # the best, the most different from it, then what is far from both


@pytest.mark.parametrize("balance", [-0.1, 1.1, math.nan])
def test_diverse_options(balance: float) -> None:
    with pytest.raises(InvalidOptionError, match="`balance` must be from 0 to 1"):
        DiverseRetriever(BM25Retriever(), Written(), balance=balance)
