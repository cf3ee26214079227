"""Vectors and indexes: kept while they belong to the profile, and never brought back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.records import Profile, Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore, StoredEncoder
from persona.store.vectors import UserVectors
from tests.store.profiles import same, vectors_of


def test_vectors_come_back(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {number}")) for number in range(5))
    profile = store.profile("ana")
    one, two = vectors_of(profile, "toy"), vectors_of(profile, "other", dim=7, seed=1)
    assert store.put_vectors([one, two]) == 2
    assert same(store.vectors("ana", "toy"), one)
    assert same(store.vectors("ana", "other"), two)
    assert store.vectors("ana", "third") is None
    empty = UserVectors("ana", "none", (), (), np.zeros((0, 4), np.float16), 1)
    store.put_vectors([empty])
    assert same(store.vectors("ana", "none"), empty)
    assert store.fingerprints() == (
        StoredEncoder("other", 7, 1),
        StoredEncoder("toy", 4, 1),
        StoredEncoder("none", 4, 1),
    )
    assert store.counts().vectors == 3


def test_who_is_stale(store: ProfileStore) -> None:
    store.upsert((user_id, Record("a", id="1")) for user_id in ("ana", "bo", "cy", "dee"))
    assert sorted(store.stale_users("toy")) == ["ana", "bo", "cy", "dee"]
    store.put_vectors(vectors_of(store.profile(user_id)) for user_id in ("ana", "bo", "cy"))
    assert list(store.stale_users("toy")) == ["dee"]
    assert sorted(store.stale_users("other")) == ["ana", "bo", "cy", "dee"]
    store.upsert([("ana", Record("A", id="1")), ("bo", Record("more"))])
    store.delete_records("dee", ["1"])
    assert sorted(store.stale_users("toy")) == ["ana", "bo"]
    behind = store.vectors("ana", "toy")
    assert behind is not None
    assert behind.revision < store.profile("ana").revision
    # Users without records are known, and there is nothing to embed.
    assert "dee" in store
    assert store.profile("dee") == Profile("dee", (), revision=2)


def test_later_vectors_replace_earlier_ones_and_never_the_other_way(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a", id="1"))])
    first = vectors_of(store.profile("ana"))
    store.upsert([("ana", Record("b", id="2"))])
    second = vectors_of(store.profile("ana"), seed=1)
    for batch in ([first], [second], [first], [first, second, first]):
        store.put_vectors(batch)
    assert store.put_vectors([dataclasses.replace(first, revision=3)]) == 0  # of a revision that is still to come
    assert same(store.vectors("ana", "toy"), second)
    assert store.fingerprints() == (StoredEncoder("toy", 4, 1),)


def test_a_forgotten_user_is_not_resurrected(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a", id="1")), ("bo", Record("b", id="1"))])
    vectors = [vectors_of(store.profile(user_id)) for user_id in ("ana", "bo")]
    indexes = [StoredIndex(user_id, "kind", 1, b"words") for user_id in ("ana", "bo")]
    store.forget("ana")
    assert store.put_vectors(vectors) == 1
    assert store.put_indexes(indexes) == 1
    assert "ana" not in store
    assert store.vectors("ana", "toy") is None
    assert store.index("ana", "kind") is None

    # Not even as part of a new user by the same id, who starts above every revision that was.
    store.upsert([("ana", Record("another person's", id="1"))])
    assert store.profile("ana").revision == 2
    assert store.put_vectors(vectors) == 1
    assert store.put_indexes(indexes) == 1
    assert store.vectors("ana", "toy") is None
    assert store.index("ana", "kind") is None
    assert list(store.stale_users("toy")) == ["ana"]


def test_deleted_records_take_their_vectors_with_them(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {name}", id=name)) for name in "abcd")
    profile = store.profile("ana")
    before = vectors_of(profile)
    store.put_vectors([before, vectors_of(profile, "other", dim=3)])
    store.put_indexes([StoredIndex("ana", "kind", 1, b"all the words")])
    assert store.delete_records("ana", iter(["b", "d", "none"])) == 2
    assert [record.id for record in store.profile("ana")] == ["a", "c"]
    after = store.vectors("ana", "toy")
    assert after is not None
    assert (after.record_ids, after.revision) == (("a", "c"), store.profile("ana").revision)
    assert after.matrix.tolist() == before.matrix[[0, 2]].tolist()
    assert list(store.stale_users("toy")) == []
    assert store.index("ana", "kind") is None
    # A slow writer that had read the profile before cannot bring them back.
    assert store.put_vectors([before]) == 0
    assert store.put_indexes([StoredIndex("ana", "kind", 1, b"all the words")]) == 0
    assert store.delete_records("ana", ["b"]) == 0
    assert store.profile("ana").revision == 2


def test_vectors_that_lag_still_lag_after_a_deletion(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {name}", id=name)) for name in "ab")
    store.put_vectors([vectors_of(store.profile("ana"))])
    store.upsert([("ana", Record("text c", id="c"))])
    store.delete_records("ana", ["a"])
    after = store.vectors("ana", "toy")
    assert after is not None
    assert after.record_ids == ("b",)
    assert list(store.stale_users("toy")) == ["ana"]


def test_vectors_of_one_encoder_have_one_length(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a")), ("bo", Record("b"))])
    ana, bo = store.profile("ana"), store.profile("bo")
    with pytest.raises(FingerprintMismatchError, match="'toy' has 4, was given 5"):
        store.put_vectors([vectors_of(ana), vectors_of(bo, dim=5)])
    store.put_vectors([vectors_of(ana)])
    with pytest.raises(FingerprintMismatchError, match="'toy' has 4, was given 5"):
        store.put_vectors([vectors_of(ana, "new"), vectors_of(bo, dim=5)])
    assert store.fingerprints() == (StoredEncoder("toy", 4, 1),)


def test_indexes_come_back(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a"))])
    indexes = [StoredIndex("ana", "bm25:text", 1, b"\x00\xff"), StoredIndex("ana", "Bm25:text", 1, b"")]
    assert store.put_indexes(indexes) == 2
    assert store.index("ana", "bm25:text") == indexes[0]
    assert store.index("ana", "Bm25:text") == indexes[1]
    assert store.index("ana", "bm25") is None
    assert store.put_indexes([StoredIndex("ana", "bm25:text", 1, b"new"), StoredIndex("bo", "x", 1, b"")]) == 1
    found = store.index("ana", "bm25:text")
    assert found is not None
    assert found.data == b"new"


@pytest.mark.parametrize(
    ("kind", "message"),
    [("", "1 to 512 characters"), ("x" * 513, "1 to 512 characters"), ("a\0", "not hold NUL"), ("\ud800", "surrogate")],
)
def test_a_kind_must_be_a_name(kind: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"an index's kind must .*{message}"):
        StoredIndex("ana", kind, 1, b"")
