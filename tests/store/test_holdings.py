"""What is held on a user."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from persona.errors import UnknownUserError
from persona.records import Record
from persona.store.derived import StoredIndex
from persona.store.holdings import holdings
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors


@pytest.fixture
def store(store_url: str) -> Iterator[ProfileStore]:
    store = ProfileStore(store_url)
    store.upsert([("ana", Record("Moody and stylish.", target="5", time="2004-10-14", id="r1")), ("bo", Record("no"))])
    profile = store.profile("ana")
    matrix = np.ones((1, 4), dtype=np.float16)
    store.put_vectors([UserVectors("ana", "toy|view=text", ("r1",), ("h",), matrix, profile.revision)])
    summary = json.dumps({"text": "likes style", "llm": "x", "records": {"r1": "h"}}).encode()
    store.put_indexes(
        [
            StoredIndex("ana", "bm25:text", profile.revision, b"\x00\x01\x02"),
            StoredIndex("ana", "summary:free", profile.revision, summary),
        ]
    )
    yield store
    store.close()


def test_everything_is_there_and_nobody_elses(store: ProfileStore) -> None:
    held = holdings(store, "ana")
    assert [record.text for record in held.profile] == ["Moody and stylish."]
    (matrix,) = held.vectors
    assert (matrix.fingerprint, matrix.rows, matrix.dim, matrix.fresh, matrix.size) == ("toy|view=text", 1, 4, True, 8)
    binary, summary = held.indexes
    assert (binary.kind, binary.content, binary.size, binary.fresh) == ("bm25:text", None, 3, True)
    assert (summary.kind, summary.content["text"]) == ("summary:free", "likes style")
    assert held.adapters == ()
    assert set(held.others.values()) <= {0}
    other = holdings(store, "bo")
    assert (len(other.profile), other.vectors, other.indexes) == (1, (), ())


def test_what_lags_behind_says_so(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a new one"))])
    held = holdings(store, "ana")
    assert not held.vectors[0].fresh
    assert [index.fresh for index in held.indexes] == [False, False]


def test_an_unknown_or_forgotten_user_is_an_error(store: ProfileStore) -> None:
    with pytest.raises(UnknownUserError, match="holds nothing on 'cy'"):
        holdings(store, "cy")
    store.forget("ana")
    with pytest.raises(UnknownUserError):
        holdings(store, "ana")
