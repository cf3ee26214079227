"""Embedding users: only what is new, each text once, to each their own rows, and the same store wherever it stops."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.encoders.embedding import embed_users
from persona.encoders.load import HashingEncoder
from persona.errors import InvalidOptionError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors, vector_fingerprint

WORDS = ("film", "score", "moody", "car", "chase", "week", "rather", "sleep", "remake", "anything", "cool", "ever")


class Watched(HashingEncoder):
    """The hashing encoder, with a list of what it was given."""

    def __init__(self) -> None:
        super().__init__(16)
        self.batches: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.batches.append(list(texts))
        return super().encode(texts)


class Sociable(HashingEncoder):
    """Its vectors depend on all texts that were given with them, as the last bits of a real model's do."""

    def __init__(self) -> None:
        super().__init__(4)

    def encode(self, texts: Sequence[str]) -> Any:
        digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()
        company = np.frombuffer(digest, np.uint8).reshape(4, 4)[0] / np.float32(512)
        return (super().encode(texts) + company).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path}/persona.db") as opened:
        yield opened


def histories(users: int, records: int = 3) -> list[tuple[str, Record]]:
    """Users whose records share texts with those of others."""
    return [
        (f"user {user}", Record(f"{WORDS[(user + number) % 12]} {WORDS[user * number % 12]}", id=f"r{number}"))
        for user in range(users)
        for number in range(1 + (user + records) % (2 * records))
    ]


def contents(store: ProfileStore, fingerprint: str) -> dict[str, tuple[object, ...]]:
    """Everything that the vectors of all users are, to the byte."""
    vectors = {user_id: store.vectors(user_id, fingerprint) for user_id in store.user_ids()}
    return {
        user_id: (each.record_ids, each.hashes, each.matrix.tobytes(), each.revision)
        for user_id, each in vectors.items()
        if each is not None
    }


def stored(store: ProfileStore, user_id: str, encoder: HashingEncoder, view: str = "text") -> UserVectors:
    vectors = store.vectors(user_id, vector_fingerprint(encoder, view))
    assert vectors is not None
    return vectors


def assert_up_to_date(store: ProfileStore, encoder: HashingEncoder, view: str = "text") -> None:
    """Every record of every user has the vector of its own text, and nothing else has one."""
    for user_id in store.user_ids():
        profile = store.profile(user_id)
        if not len(profile):
            continue
        vectors = stored(store, user_id, encoder, view)
        assert vectors.record_ids == tuple(record.id for record in profile)
        assert vectors.hashes == tuple(record.content_hash for record in profile)
        assert vectors.revision == profile.revision
        expected = encoder.encode([record.view(view) for record in profile]).astype(np.float16)
        assert np.array_equal(vectors.matrix, expected)


def test_every_record_gets_the_vector_of_its_own_text(store: ProfileStore) -> None:
    items = histories(40)
    store.upsert(items)
    report = embed_users(store, HashingEncoder(16), chunk_records=7)
    assert_up_to_date(store, HashingEncoder(16))
    assert (report.users, report.records, report.passed_over) == (40, len(items), 0)
    assert report.records == report.embedded + report.duplicates + report.reused
    assert report.fingerprint == vector_fingerprint(HashingEncoder(16), "text")
    assert report.seconds > 0


def test_a_text_of_many_users_is_encoded_once_in_a_chunk(store: ProfileStore) -> None:
    store.upsert([(f"user {number}", Record("a fine film", id=f"r{number}")) for number in range(20)])
    encoder = Watched()
    report = embed_users(store, encoder)
    assert encoder.batches == [["a fine film"]]
    assert (report.embedded, report.duplicates) == (1, 19)
    assert_up_to_date(store, encoder)


def test_only_new_and_changed_records_are_encoded(store: ProfileStore) -> None:
    store.upsert(("ana", Record(text, id=text[2])) for text in ("a fine film", "a dull film", "a long film"))
    store.upsert([("ben", Record("a long week", id="1"))])
    encoder = Watched()
    embed_users(store, encoder)
    before = stored(store, "ana", encoder)
    encoder.batches.clear()

    store.upsert([("ana", Record("a very dull film", id="d")), ("ana", Record("no film", id="n"))])
    report = embed_users(store, encoder)
    assert encoder.batches == [["a very dull film", "no film"]]
    assert (report.users, report.records, report.embedded, report.reused) == (1, 4, 2, 2)
    after = stored(store, "ana", encoder)
    assert before.record_ids == ("f", "d", "l")
    assert after.record_ids == ("f", "d", "l", "n")
    assert np.array_equal(after.matrix[[0, 2]], before.matrix[[0, 2]])
    assert_up_to_date(store, encoder)


def test_nothing_new_does_not_touch_the_encoder(store: ProfileStore) -> None:
    store.upsert(histories(5))
    embed_users(store, HashingEncoder(16))
    encoder = Watched()
    report = embed_users(store, encoder)
    assert (report.users, report.records, encoder.batches) == (0, 0, [])


def test_a_deleted_record_takes_its_row_along(store: ProfileStore) -> None:
    store.upsert([("ana", Record(f"film {number}", id=f"{number}")) for number in range(4)])
    encoder = Watched()
    embed_users(store, encoder)
    store.delete_records("ana", ["1", "2"])
    embed_users(store, encoder)
    assert stored(store, "ana", encoder).record_ids == ("0", "3")
    assert len(encoder.batches) == 1


def test_a_record_that_goes_back_to_an_old_text_is_encoded_again(store: ProfileStore) -> None:
    encoder = Watched()
    for text in ("a fine film", "a dull film", "a fine film"):
        store.upsert([("ana", Record(text, id="1"))])
        embed_users(store, encoder)
    assert encoder.batches == [["a fine film"], ["a dull film"], ["a fine film"]]
    assert_up_to_date(store, encoder)


def test_views_and_encoders_live_side_by_side(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a fine film", target="5", metadata={"title": "The Chase"}))])
    for view in ("text", "target+text", "title+text"):
        assert embed_users(store, HashingEncoder(16), view=view).embedded == 1
    assert embed_users(store, HashingEncoder(32)).embedded == 1
    for view in ("text", "target+text", "title+text"):
        assert_up_to_date(store, HashingEncoder(16), view)
    assert_up_to_date(store, HashingEncoder(32))


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_chunks_end_with_the_user_who_fills_them(store: ProfileStore, size: int) -> None:
    store.upsert((f"user {user}", Record(f"{user} {number}")) for user in range(30) for number in range(1 + user % 4))
    encoder = Watched()
    embed_users(store, encoder, chunk_records=size)
    lengths = list(map(len, encoder.batches))
    assert sum(lengths) == store.counts().records
    assert all(size <= length < size + 4 for length in lengths[:-1])


def test_progress_counts_up_to_all_users(store: ProfileStore) -> None:
    store.upsert(histories(25))
    seen: list[tuple[int, int, int]] = []
    report = embed_users(store, HashingEncoder(16), chunk_records=10, progress=lambda *given: seen.append(given))
    assert [users for users, _, _ in seen] == sorted({users for users, _, _ in seen})
    assert {total for _, total, _ in seen} == {25}
    assert seen[-1] == (25, 25, report.records)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "title"}, r"`view` must be one of text, target, target\+text, title\+text, turn, was: 'title'"),
        ({"chunk_records": 0}, "`chunk_records` must be at least 1, was: 0"),
    ],
)
def test_options_out_of_range(store: ProfileStore, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        embed_users(store, HashingEncoder(16), **options)


class TestInterrupted:
    """A run that stops and starts again makes the same store as one that does not."""

    @given(users=st.integers(1, 40), size=st.integers(1, 20), stops=st.lists(st.integers(1, 3), max_size=6))
    @settings(max_examples=6, deadline=None)
    def test_wherever_it_stops_the_same_texts_meet_again(
        self, tmp_path_factory: pytest.TempPathFactory, users: int, size: int, stops: list[int]
    ) -> None:
        encoder = Sociable()
        fingerprint = vector_fingerprint(encoder, "text")
        stores = []
        for chunks_until_ctrl_c in ([], stops):
            folder = tmp_path_factory.mktemp("run")
            with ProfileStore(f"sqlite:///{folder}/persona.db") as store:
                store.upsert(histories(users))
                for chunks in chunks_until_ctrl_c:
                    interrupted(store, encoder, size, chunks)
                embed_users(store, encoder, chunk_records=size)
                stores.append(contents(store, fingerprint))
        assert stores[0] == stores[1]
        assert len(stores[0]) == users

    def test_what_was_done_before_ctrl_c_stays_done(self, store: ProfileStore) -> None:
        store.upsert((f"user {user}", Record(f"film {user}")) for user in range(10))
        encoder = Watched()
        interrupted(store, encoder, 3, 2)
        assert len(list(store.stale_users(vector_fingerprint(encoder, "text")))) == 4
        assert embed_users(store, encoder).embedded == 4

    def test_an_encoder_that_fails_leaves_the_chunks_before(self, store: ProfileStore) -> None:
        class Failing(Watched):
            def encode(self, texts: Sequence[str]) -> Any:
                if len(self.batches) == 2:
                    raise MemoryError
                return super().encode(texts)

        store.upsert((f"user {user}", Record(f"film {user}")) for user in range(10))
        with pytest.raises(MemoryError):
            embed_users(store, Failing(), chunk_records=3)
        assert embed_users(store, Watched()).embedded == 4
        assert_up_to_date(store, HashingEncoder(16))


def interrupted(store: ProfileStore, encoder: HashingEncoder, size: int, chunks: int) -> None:
    """A run that ends with Ctrl-C after this number of chunks, or earlier if there are no more."""
    seen: list[int] = []

    def stop(users: int, total: int, records: int) -> None:
        seen.append(users)
        if len(seen) == chunks:
            raise KeyboardInterrupt

    try:
        embed_users(store, encoder, chunk_records=size, progress=stop)
    except KeyboardInterrupt:
        assert len(seen) == chunks


class During(HashingEncoder):
    """An encoder during whose work something else happens to the store, once."""

    def __init__(self, event: Any) -> None:
        super().__init__(16)
        self._event = event

    def encode(self, texts: Sequence[str]) -> Any:
        event, self._event = self._event, None
        if event is not None:
            event()
        return super().encode(texts)


class TestBesideOthers:
    def test_a_user_forgotten_meanwhile_stays_forgotten(self, store: ProfileStore) -> None:
        store.upsert([("ana", Record("a fine film")), ("ben", Record("a long week"))])
        report = embed_users(store, During(lambda: store.forget("ana")))
        assert "ana" not in store
        assert store.vectors("ana", report.fingerprint) is None
        assert (report.users, report.passed_over) == (1, 1)
        assert_up_to_date(store, HashingEncoder(16))

    def test_a_user_forgotten_and_back_meanwhile_does_not_get_the_old_rows(self, store: ProfileStore) -> None:
        def come_back() -> None:
            store.forget("ana")
            store.upsert([("ana", Record("another person's film", id="1"))])

        store.upsert([("ana", Record("a fine film", id="1"))])
        report = embed_users(store, During(come_back))
        assert store.vectors("ana", report.fingerprint) is None
        embed_users(store, HashingEncoder(16))
        assert_up_to_date(store, HashingEncoder(16))

    def test_a_user_with_new_records_meanwhile_is_done_by_the_next_run(self, store: ProfileStore) -> None:
        store.upsert([("ana", Record("a fine film", id="1"))])
        embed_users(store, During(lambda: store.upsert([("ana", Record("a dull film", id="2"))])))
        assert embed_users(store, HashingEncoder(16)).users == 1
        assert_up_to_date(store, HashingEncoder(16))

    def test_two_runs_at_a_time_end_in_the_same_store(self, store: ProfileStore) -> None:
        store.upsert(histories(30))
        embed_users(store, During(lambda: embed_users(store, HashingEncoder(16), chunk_records=4)), chunk_records=9)
        assert_up_to_date(store, HashingEncoder(16))
