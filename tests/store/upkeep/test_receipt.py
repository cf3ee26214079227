"""A receipt says what was there, and what is left when the database is read once more."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import sqlalchemy

from persona.caches import register
from persona.errors import InvalidUserIdError, StoreError
from persona.records import Record
from persona.retrievers.words.bm25 import BM25Retriever
from persona.serve.keys import KeyStore
from persona.store.derived import StoredIndex
from persona.store.profile_store import ForgetReport, ProfileStore
from persona.store.schema import Part
from persona.store.upkeep.receipt import ErasedPart, forget_with_receipt
from persona.store.vectors import UserVectors

KINDS = (
    *("records", "summaries", "soft prompts", "neutral texts", "memberships", "adapter chunks", "indexes"),
    *("vector matrices", "adapters", "API keys", "ids"),
)


def test_everything_of_a_user_is_on_the_receipt(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("a", id="1")), ("ana", Record("b", id="2")), ("ben", Record("c"))])
        revision = store.profile("ana").revision
        texts = ("summary:free", "summary:LaMP_3", "soft-prompt:x", "neutral:x")
        kinds = (*texts, "segment:x", "adapter-chunk:x:0/8", "bm25:text")
        for kind in kinds:
            store.put_indexes([StoredIndex("ana", kind, revision, b"{}")])
        ones = np.ones((2, 3), np.float16)
        store.put_vectors([UserVectors("ana", "toy", ("1", "2"), ("h", "i"), ones, revision)])
        secret, _ = KeyStore(store).make("phone", ["ask"], user_id="ana")
        done = forget_with_receipt(store, "ana")
        assert done.complete
        removed = {part.what: part.removed for part in done.parts}
        assert removed == dict(zip(KINDS, (2, 2, 1, 1, 1, 1, 1, 1, 0, 1, 1), strict=True))
        assert {part.left for part in done.parts} == {0}
        assert "ana" not in store
        assert KeyStore(store).caller(secret) is None
        assert len(store.profile("ben")) == 1
        # Nothing was there any more, which is no error: what an earlier call could not finish is finished.
        again = forget_with_receipt(store, "ana")
        assert (again.complete, {part.removed for part in again.parts}) == (True, {0})
        with pytest.raises(InvalidUserIdError):
            forget_with_receipt(store, "")


def test_what_is_left_is_seen(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def misses_records(connection: sqlalchemy.Connection, part: Part, user_id: str) -> ForgetReport:
        connection.execute(sqlalchemy.delete(part.vectors))
        return ForgetReport()

    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("a"))])
        monkeypatch.setattr("persona.store.profile_store.delete_user", misses_records)
        done = forget_with_receipt(store, "ana")
    assert not done.complete
    assert {ErasedPart("records", 1, 1), ErasedPart("ids", 1, 1)} <= set(done.parts)


def test_there_is_none_where_the_bytes_stay(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*_: object, **__: object) -> int:
        raise StoreError("their bytes could not be overwritten")

    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("a"))])
        with monkeypatch.context() as patched:
            patched.setattr("persona.store.profile_store.overwrite_deleted", blocked)
            with pytest.raises(StoreError, match="could not be overwritten"):
                forget_with_receipt(store, "ana")
        assert forget_with_receipt(store, "ana").complete


def test_what_the_process_holds_in_memory_is_dropped(store_url: str) -> None:
    class Slots:
        def __init__(self) -> None:
            self.dropped: list[str] = []

        def drop(self, user_id: str) -> int:
            self.dropped.append(user_id)
            return 2

    gc.collect()  # caches of tests before
    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("a word"))])
        retriever, slots = BM25Retriever(), Slots()
        register(slots, "adapters in slots")
        retriever.retrieve(store.profile("ana"), "word", 1)
        done = forget_with_receipt(store, "ana")
        assert done.dropped["adapters in slots"] == 2
        assert done.dropped["word counts of profiles"] >= 1
        assert slots.dropped == ["ana"]
        assert forget_with_receipt(store, "ana").dropped.get("word counts of profiles") is None
