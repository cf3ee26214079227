"""Embedding behind the requests: once for each user, again after a failure, and no further than asked when it stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import pytest

from persona import caches
from persona.encoders.load import HashingEncoder
from persona.errors import ModelLoadError
from persona.records import Record
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.hybrid import HybridRetriever
from persona.retrievers.vectors.dense import DenseRetriever
from persona.retrievers.vectors.diverse import DiverseRetriever
from persona.retrievers.words.bm25 import BM25Retriever
from persona.serve.data import embedding
from persona.serve.data.embedding import BackgroundEmbedding
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint


class Gated(HashingEncoder):
    """Waits until it may begin, and fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__(16)
        self.began, self.open, self.failures = Event(), Event(), 0
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.began.set()
        assert self.open.wait(20)
        if self.failures:
            self.failures -= 1
            raise ModelLoadError("not now")
        self.texts += texts
        return super().encode(texts)


@pytest.fixture
def encoder() -> Gated:
    return Gated()


@pytest.fixture
def background(store: ProfileStore, encoder: Gated, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackgroundEmbedding]:
    monkeypatch.setattr(embedding, "_RETRIES", (0.01, 0.01))
    background = BackgroundEmbedding(store, [(encoder, "text")], most_users=3)
    yield background
    encoder.open.set()
    background.close()


def embedded(store: ProfileStore, encoder: Gated) -> set[str]:
    fingerprint = vector_fingerprint(encoder, "text")
    return {user for user in store.user_ids() if store.vectors(user, fingerprint) is not None}


def test_a_user_is_embedded_once_however_often_asked(
    store: ProfileStore, encoder: Gated, background: BackgroundEmbedding
) -> None:
    background.add("ana")
    assert encoder.began.wait(20)
    for number in range(5):
        store.upsert([("ben", Record(f"text {number}"))])
        background.add("ben")
    encoder.open.set()
    assert background.wait(20)
    assert embedded(store, encoder) == {"ana", "ben"}
    assert sorted(encoder.texts) == sorted({record.text for user in ("ana", "ben") for record in store.profile(user)})


def test_it_is_tried_again(store: ProfileStore, encoder: Gated, background: BackgroundEmbedding) -> None:
    encoder.failures = 2
    encoder.open.set()
    background.add("ana")
    assert background.wait(20)
    assert embedded(store, encoder) == {"ana"}
    encoder.failures = 3  # more often than it is tried: it goes on with the next one
    store.upsert([("ana", Record("new"))])
    background.add("ana")
    assert background.wait(20)
    assert list(store.stale_users(vector_fingerprint(encoder, "text"))) == ["ben", "ana"]
    background.add("ben")
    assert background.wait(20)
    assert embedded(store, encoder) == {"ana", "ben"}


def test_where_too_many_wait_all_are_embedded(
    store: ProfileStore, encoder: Gated, background: BackgroundEmbedding
) -> None:
    background.add("ana")
    assert encoder.began.wait(20)
    store.upsert((f"user {number}", Record("text")) for number in range(6))
    for number in range(4):
        background.add(f"user {number}")
    encoder.open.set()
    assert background.wait(20)
    assert embedded(store, encoder) == {"ana", "ben", *(f"user {number}" for number in range(6))}


def test_who_is_forgotten_waits_no_more(store: ProfileStore, encoder: Gated, background: BackgroundEmbedding) -> None:
    background.add("ana")
    assert encoder.began.wait(20)
    background.add("ben")
    assert caches.drop("ben")["users to be embedded"] == 1
    store.forget("ana")  # while it is being embedded
    encoder.open.set()
    assert background.wait(20)
    assert embedded(store, encoder) == set()


def test_it_stops_in_time(store: ProfileStore, encoder: Gated, background: BackgroundEmbedding) -> None:
    background.add("ana")
    assert encoder.began.wait(20)
    background.add("ben")
    background.close(0)
    encoder.open.set()
    background._thread.join(20)
    assert embedded(store, encoder) == {"ana"}
    background.add("ben")  # is not taken any more


def test_the_encodings_of_channels(store: ProfileStore) -> None:
    encoder, other = HashingEncoder(8), HashingEncoder(16)
    retriever = HybridRetriever(
        [BM25Retriever(), DiverseRetriever(DenseRetriever(other, store, "target+text"), encoder, store)]
    )
    assert RecordsChannel(retriever).encodings() == {(encoder, "text"), (other, "target+text")}
    assert RecordsChannel(DenseRetriever(encoder)).encodings() == set()  # it reads no store
    assert RecordsChannel().encodings() == set()
