"""Rankings that need no words or vectors, and the fusion of several: recency, random and hybrid."""

from __future__ import annotations

import pytest

from persona.errors import InvalidOptionError
from persona.records import Profile, Record, ScoredRecord
from persona.retrievers import HybridRetriever, ProfileRetriever, RandomRetriever, RecencyRetriever
from tests.retrievers.cases import FILMS, ids


def test_recency_is_newest_first_with_undated_records_last() -> None:
    times = ["2011-05", None, "2012", "2011", "2011-05-03", "2012", None]
    profile = Profile("ana", tuple(Record("x", time=time, id=str(number)) for number, time in enumerate(times)))
    found = RecencyRetriever().retrieve(profile, "", 7)
    assert ids(found) == ["5", "2", "4", "0", "3", "6", "1"]
    assert [scored.score for scored in found] == [pytest.approx(share / 7) for share in (7, 6, 5, 4, 3, 2, 1)]


def test_random_depends_on_seed_user_and_query_alone() -> None:
    profile = Profile("ana", tuple(Record("x", id=str(number)) for number in range(30)))
    drawn = ids(RandomRetriever(0).retrieve(profile, "q", 30))
    assert drawn != [str(number) for number in range(30)]
    assert drawn != ids(RandomRetriever(1).retrieve(profile, "q", 30))
    assert drawn != ids(RandomRetriever(0).retrieve(profile, "r", 30))
    assert drawn != ids(RandomRetriever(0).retrieve(Profile("ben", profile.records), "q", 30))
    retriever = RandomRetriever(0)
    retriever.retrieve_batch([profile] * 3, ["a", "b", "c"], 3)
    assert drawn == ids(retriever.retrieve(profile, "q", 30))


def test_random_draws_each_record_equally_often() -> None:
    profile = Profile("ana", tuple(Record("x", id=str(number)) for number in range(5)))
    firsts = [ids(RandomRetriever().retrieve(profile, str(query), 1))[0] for query in range(2000)]
    assert all(330 < firsts.count(str(number)) < 470 for number in range(5))  # 400 +- 4 standard deviations


class Fixed(ProfileRetriever):
    """A retriever with a ranking of its own."""

    def __init__(self, *ranking: int) -> None:
        self.ranking = ranking

    def rank(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        ranked = enumerate(self.ranking)
        return tuple(ScoredRecord(profile[position], -float(rank)) for rank, position in ranked)[:k]


def test_hybrid_adds_reciprocal_ranks() -> None:
    hybrid = HybridRetriever([Fixed(0, 1, 2), Fixed(2, 0, 1)])
    found = hybrid.retrieve(Profile("ana", FILMS[:3]), "", 3)
    assert ids(found) == [FILMS[0].id, FILMS[2].id, FILMS[1].id]
    assert [scored.score for scored in found] == [
        pytest.approx(1 / 61 + 1 / 62),
        pytest.approx(1 / 63 + 1 / 61),
        pytest.approx(1 / 62 + 1 / 63),
    ]


def test_hybrid_breaks_ties_by_the_first_retriever() -> None:
    profile = Profile("ana", FILMS[:3])
    there_and_back = HybridRetriever([Fixed(2, 0, 1), Fixed(1, 0, 2)], damping=0)
    found = there_and_back.retrieve(profile, "", 3)
    assert ids(found) == [FILMS[2].id, FILMS[1].id, FILMS[0].id]
    assert [scored.score for scored in found] == [pytest.approx(4 / 3), pytest.approx(4 / 3), 1.0]


def test_hybrid_takes_retrievers_that_leave_records_out() -> None:
    found = HybridRetriever([Fixed(1), Fixed()]).retrieve(Profile("ana", FILMS), "", 4)
    assert ids(found) == [FILMS[1].id]


def test_hybrid_options() -> None:
    with pytest.raises(InvalidOptionError, match="at least one retriever"):
        HybridRetriever([])
    with pytest.raises(InvalidOptionError, match="`damping` must be at least 0, was: -1"):
        HybridRetriever([RecencyRetriever()], damping=-1)
