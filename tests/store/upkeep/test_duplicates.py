"""Near duplicates: which texts are near, which record stays, and that 10,000 are not compared with one another."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from persona.encoders.embedding import embed_users
from persona.errors import InvalidOptionError
from persona.records import Record
from persona.store.profile_store import IngestReport, ProfileStore
from persona.store.upkeep.duplicates import CosineSimilarity, Merge, TokenOverlap, merged
from tests.store.profiles import texts, vectors_of

NEAR = TokenOverlap(0.7)
OLD, NEW, OTHER = "I moved to Turin last week", "I moved to Turin last week!", "The film was slow"


def records(*said: str) -> list[Record]:
    return [Record(text, id=f"{number} {text[:20]}") for number, text in enumerate(said)]


def shares(user: Sequence[Record], threshold: float) -> list[tuple[int, int]]:
    """The pairs that are near, all compared with all."""
    sets = [set(re.findall(r"\w+", record.text.casefold())) for record in user]
    return [
        (one, other)
        for other in range(len(sets))
        for one in range(other)
        if sets[one] | sets[other] and len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= threshold
    ]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9).map(" ".join), max_size=14),
    st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]),
)
def test_the_near_ones_are_those_of_a_comparison_of_all(said: list[str], threshold: float) -> None:
    user = records(*said)
    found = TokenOverlap(threshold).near("ana", user, 0, np.ones(len(user), np.bool_))
    assert [(one, other) for other, near in enumerate(found) for one, _ in near] == shares(user, threshold)


def test_the_newer_one_stays() -> None:
    undated = records(OLD, NEW)
    dated = [Record(NEW, id="n", time="2020"), Record(OLD, id="o", time="2010")]
    assert merged([], undated, NEAR, "ana").merges == (Merge("ana", undated[0], undated[1], 1.0),)
    assert merged(undated[:1], undated[1:], NEAR).removed == (undated[0].id,)
    assert merged([], dated, NEAR).added == (dated[0],)  # given first, but later
    stale = merged(dated[:1], dated[1:], NEAR, "ana")
    assert (stale.added, stale.removed, stale.merges) == ((), (), (Merge("ana", dated[1], dated[0], 1.0),))


def test_a_similarity_is_the_share_itself() -> None:
    (merge,) = merged(records("a b c d e f g h i j"), records("a b c d e f g h i"), TokenOverlap(0.9)).merges
    assert merge.similarity == 0.9


def test_the_newest_of_many_stays() -> None:
    user = records(*(f"{OLD} {'and then ' * (number % 2)}" for number in range(9)), OTHER)
    done = merged(user[:4], user[4:], NEAR)
    assert [record.id for record in done.added] == [user[8].id, user[9].id]
    assert done.removed == tuple(record.id for record in user[:4])
    assert len(done.merges) == 8


def test_what_is_not_merged() -> None:
    assert merged([], records(OLD, OTHER), NEAR).merges == ()
    assert merged([], records("!!!", "!!!", "..."), NEAR).merges == ()
    assert merged(records(OLD, NEW), records(OTHER), NEAR).merges == ()  # stored ones among themselves
    spoken = [
        Record(OLD, id="1", role="user"),
        Record(OLD, id="2", role="assistant"),
        Record(OLD, id="3", speaker="Bo"),
    ]
    assert merged([], spoken, NEAR).merges == ()
    assert merged([], records("今日は雪が降っています", "今日は雨が降っています。"), TokenOverlap(0.7)).merges
    assert merged([], records("今日は雪が降っています", "明日東京へ行きます"), TokenOverlap(0.7)).merges == ()


def test_a_record_in_place_of_a_stored_one() -> None:
    stored = [Record(OLD, id="1"), Record(OTHER, id="2")]
    assert merged(stored, [Record(NEW, id="1")], NEAR).removed == ()
    late = Record(OLD, id="2", time="2020")
    assert merged([late, Record(OTHER, id="1")], [Record(NEW, id="1", time="2010")], NEAR).removed == ("1",)


def test_into_a_store(store: ProfileStore) -> None:
    first = [("ana", record) for record in records(OLD, OTHER)]
    store.upsert(first)
    store.put_vectors([vectors_of(store.profile("ana"))])
    again = [("ana", Record(NEW, id="n")), ("ana", Record(f"{NEW} 7", id="m")), ("ben", Record(OLD, id="b"))]
    done = store.upsert(again, similarity=NEAR)
    assert (done.added, [merge.dropped.id for merge in done.merges]) == (2, [first[0][1].id, "n"])
    assert texts(store.profile("ana")) == [OTHER, f"{NEW} 7"]
    assert texts(store.profile("ben")) == [OLD]
    vectors = store.vectors("ana", "toy")
    assert vectors is not None
    assert vectors.record_ids == (first[1][1].id,)
    revision = store.profile("ana").revision
    assert store.upsert(again, similarity=NEAR) == IngestReport(2, unchanged=2, merges=done.merges[1:])
    assert store.profile("ana").revision == revision


class Letters:
    """Encodes a text as how often it has each of four letters."""

    fingerprint = "letters"
    dim = 4

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += texts
        rows = np.array([[text.count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def test_by_meaning_with_the_vectors_that_are_there(store: ProfileStore) -> None:
    encoder = Letters()
    store.upsert([("ana", Record("aabb", id="1")), ("ana", Record("cd", id="2"))])
    embed_users(store, encoder)
    encoder.encoded.clear()
    done = store.upsert([("ana", Record("baba b", id="3"))], similarity=CosineSimilarity(encoder, 0.95, store))
    assert [(merge.dropped.id, merge.kept.id) for merge in done.merges] == [("1", "3")]
    assert done.merges[0].similarity == pytest.approx(10 / np.sqrt(8 * 13), abs=1e-3)
    assert encoder.encoded == ["baba b"]


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    for make in (TokenOverlap, lambda value: CosineSimilarity(Letters(), value)):
        with pytest.raises(InvalidOptionError, match="a threshold must be above 0 and at most 1"):
            make(threshold)


@pytest.mark.parametrize("kind", ["natural", "template"])
def test_many_records_of_one_user(kind: str) -> None:
    draw, number = random.Random(0), 10_000
    if kind == "natural":
        words, weights = [f"w{rank}" for rank in range(5000)], [1 / (rank + 1) for rank in range(5000)]
        said = [" ".join(draw.choices(words, weights, k=60)) for _ in range(number)]
    else:
        said = [f"Order {n}: the quick brown fox jumps over the lazy dog and runs away" for n in range(number)]
    user = records(*said)
    begun = time.process_time()
    done = merged(user[:-1], [*user[-1:], Record(f"{said[5]} indeed", id="new")], TokenOverlap(0.9))
    assert [merge.dropped for merge in done.merges] == [user[5]]
    assert merged([], user, TokenOverlap(0.9)).merges == ()
    assert time.process_time() - begun < 15  # 1.5 s on a free machine; 50 million comparisons take minutes
