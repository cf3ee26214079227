"""Ingests are streamed, and all or nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import persona.store.queries
import persona.store.upsert
from persona.errors import DataFormatError
from persona.records import Record
from persona.store.profile_store import IngestReport, ProfileStore
from persona.store.queries import queries


@pytest.mark.parametrize("error", [DataFormatError("line 9 is broken"), KeyboardInterrupt(), ZeroDivisionError()])
def test_an_error_in_the_input_undoes_everything(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_RECORDS", 10)
    store.upsert([("ana", Record("old", id="1")), ("bo", Record("b"))])
    before = store.profile("ana"), store.counts()

    def broken() -> Iterator[tuple[str, Record]]:
        yield "ana", Record("new", id="1")
        yield from ((f"user {number}", Record(f"text {number}")) for number in range(95))
        raise error

    with pytest.raises(type(error)) as raised:
        store.upsert(broken())
    assert raised.value is error
    assert (store.profile("ana"), store.counts()) == before
    assert store.upsert([("ana", Record("new", id="1"))]).changed == 1


def test_the_input_is_streamed(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_RECORDS", 100)
    taken, at_write = 0, []
    add = persona.store.upsert.Upsert.add

    def spy(self: persona.store.upsert.Upsert, chunk: persona.store.upsert.Chunk) -> None:
        at_write.append(taken)
        add(self, chunk)

    def records() -> Iterator[tuple[str, Record]]:
        nonlocal taken
        for number in range(1000):
            taken = number + 1
            yield f"user {number // 30}", Record(f"text {number}")

    monkeypatch.setattr(persona.store.upsert.Upsert, "add", spy)
    assert store.upsert(records()) == IngestReport(users=34, added=1000)
    assert at_write == [101, 201, 301, 401, 501, 601, 701, 801, 901, 1000]


def test_long_texts_make_short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_CHARACTERS", 1000)
    pieces = list(persona.store.upsert.chunks(("ana", Record("x" * 300, id=str(number))) for number in range(10)))
    assert [len(piece.histories["ana"]) for piece in pieces] == [4, 4, 2]


def test_users_are_paged(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona.store.queries, "PAGE", 2)
    queries.cache_clear()
    try:
        ids = [f"user {number}" for number in range(200)]
        store.upsert((user_id, Record("a")) for user_id in ids)
        listed = list(store.user_ids())
        assert sorted(listed) == sorted(ids)
        assert list(store.user_ids()) == listed
        assert sorted(store.stale_users("toy")) == sorted(ids)
        # Pages go on behind the last user of the one before, whatever happens to that user.
        seen = []
        for user_id in store.user_ids():
            seen.append(user_id)
            if len(seen) % 8 == 0:
                store.forget(user_id)
        assert seen == listed
        assert store.counts().users == 175
    finally:
        queries.cache_clear()
