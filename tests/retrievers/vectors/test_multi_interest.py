"""Interests and their shares."""

from __future__ import annotations

import pytest

from persona.records import Profile
from persona.retrievers import DenseRetriever, MultiInterestRetriever
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written, at

# Three interests: six records near 0 degrees, three near 90, one at 180.
MIXED = Profile("ana", tuple(at(degrees) for degrees in (0, 2, 4, 6, 8, 10, 88, 90, 92, 180)))


def test_records_are_dealt_by_weight_and_within_a_cluster_by_the_query() -> None:
    """Rows 52 and 45 of docs/papers.md: k split by the weights of the user's clusters."""
    found = MultiInterestRetriever(Written(), n_clusters=3).retrieve(MIXED, at(10).text, 10)
    # Priorities: .6, .3, .6/3 = .2, .6/5 = .12, then .3/3 and .1: a tie that the record nearer to the query wins.
    assert ids(found)[:6] == ["10", "88", "8", "6", "90", "180"]
    assert [round(scored.score, 4) for scored in found[:6]] == [0.6, 0.3, 0.2, 0.12, 0.1, 0.1]
    assert len(found) == 10


def test_a_plain_search_would_give_all_records_to_one_interest() -> None:
    query = at(5).text
    for retriever, interests in (
        (DenseRetriever(Written()), {0}),
        (MultiInterestRetriever(Written(), n_clusters=3), {0, 1}),
    ):
        assert {round(int(name) / 90) for name in ids(retriever.retrieve(MIXED, query, 4))} == interests


def test_equal_vectors_are_one_cluster() -> None:
    profile = Profile("ana", tuple(at(0, id=str(number)) for number in range(5)))
    found = MultiInterestRetriever(Written(), n_clusters=3).retrieve(profile, "1 0", 5)
    assert [scored.score for scored in found] == pytest.approx([1, 1 / 3, 1 / 5, 1 / 7, 1 / 9])
