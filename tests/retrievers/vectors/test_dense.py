"""Dense retrieval: exact, inside the user's own matrix, with stored vectors where they fit and fresh ones where not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from persona.encoders.hashing import HashingEncoder
from persona.records import Profile, Record
from persona.retrievers import DenseRetriever
from persona.store.profile_store import ProfileStore
from persona.store.vectors import inner_products
from tests.retrievers.cases import put_vectors


class Watched:
    """The hashing encoder, which remembers what it was asked."""

    def __init__(self, name: str = "", dim: int = 64) -> None:
        self._encoder = HashingEncoder(dim)
        self._name = name
        self.calls: list[list[str]] = []

    @property
    def dim(self) -> int:
        return self._encoder.dim

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint + self._name

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        return self._encoder.encode(texts)


TEXTS = ("snow in the city", "a loud comedy", "the city at night", "quiet snow", "a train to the sea")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path_factory.mktemp('dense') / 'persona.db'}") as opened:
        yield opened


def ingest(store: ProfileStore, user_id: str, *texts: str) -> None:
    store.upsert((user_id, Record(text, id=text)) for text in texts)


def test_the_ranking_is_that_of_a_full_scan() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{number}" for number in range(60)]
    profile = Profile("ana", tuple(Record(" ".join(draw.choice(words, 8)), id=str(number)) for number in range(300)))
    encoder = HashingEncoder(128)
    exact = encoder.encode([record.text for record in profile]).astype(np.float16).astype(np.float64)
    for query in ("w1 w2 w3", "w59", "nothing"):
        scores = exact @ encoder.encode([query])[0].astype(np.float64)
        found = DenseRetriever(encoder).retrieve(profile, query, 20)
        assert [scored.score for scored in found] == pytest.approx(sorted(scores, reverse=True)[:20], abs=1e-6)
        assert all(scored.score == pytest.approx(scores[int(scored.record.id)], abs=1e-6) for scored in found)


def test_equal_scores_stand_in_profile_order() -> None:
    profile = Profile("ana", tuple(Record("snow" if n % 2 else "city", id=str(n)) for n in range(50)))
    found = DenseRetriever(HashingEncoder(64)).retrieve(profile, "snow", 50)
    assert [int(scored.record.id) for scored in found] == [*range(1, 50, 2), *range(0, 50, 2)]


def test_stored_vectors_are_used(store: ProfileStore) -> None:
    ingest(store, "ana", *TEXTS)
    encoder = Watched()
    profile = put_vectors(store, "ana", encoder, sign=-1)
    encoder.calls.clear()
    fresh = DenseRetriever(encoder).retrieve(profile, "quiet snow", 5)
    kept = DenseRetriever(encoder, store).retrieve(profile, "quiet snow", 5)
    assert encoder.calls[1:] == [["quiet snow"]]
    assert [scored.score for scored in kept] == [-scored.score for scored in reversed(fresh)]


def test_only_missing_and_changed_records_are_encoded(store: ProfileStore) -> None:
    ingest(store, "ben", *TEXTS)
    encoder = Watched()
    put_vectors(store, "ben", encoder)
    store.upsert([("ben", Record("penguins", id=TEXTS[0])), ("ben", Record("new", id="new"))])
    profile = store.profile("ben")
    encoder.calls.clear()
    kept = DenseRetriever(encoder, store).retrieve(profile, "penguins", 6)
    assert [sorted(call) for call in encoder.calls] == [["new", "penguins"]]
    assert kept == DenseRetriever(encoder).retrieve(profile, "penguins", 6)
    assert kept[0].record.text == "penguins"


def test_part_of_a_profile_in_another_order_uses_its_rows(store: ProfileStore) -> None:
    ingest(store, "carl", *TEXTS)
    encoder = Watched()
    whole = put_vectors(store, "carl", encoder)
    for revision in (whole.revision, 0):
        part = Profile("carl", (whole[3], whole[0], whole[2]), revision)
        encoder.calls.clear()
        kept = DenseRetriever(encoder, store).retrieve(part, "city", 3)
        assert encoder.calls == [["city"]]
        assert kept == DenseRetriever(encoder).retrieve(part, "city", 3)


def test_vectors_of_another_encoder_or_view_are_not_compared(store: ProfileStore) -> None:
    store.upsert(("dora", Record(text, target="seals", id=text)) for text in TEXTS)
    encoder = Watched()
    profile = put_vectors(store, "dora", encoder, sign=-1)
    for other, view in ((Watched(" finetuned"), "text"), (Watched(dim=32), "text"), (encoder, "target+text")):
        other.calls.clear()
        kept = DenseRetriever(other, store, view).retrieve(profile, "snow", 5)
        assert len(other.calls[0]) == 6
        assert kept == DenseRetriever(other, None, view).retrieve(profile, "snow", 5)


def test_a_batch_is_one_call_of_the_encoder_and_no_text_goes_twice(store: ProfileStore) -> None:
    ingest(store, "emil", *TEXTS)
    ingest(store, "fay", "city of snow", "quiet snow", "unknown yet")
    encoder = Watched()
    emil = put_vectors(store, "emil", encoder)
    fay, empty = store.profile("fay"), Profile("nobody")
    encoder.calls.clear()
    retriever = DenseRetriever(encoder, store)
    found = retriever.retrieve_batch([emil, fay, emil, empty, fay], ["snow", "city", "quiet snow", "lost", "snow"], 2)
    assert encoder.calls == [["snow", "city", "quiet snow", "city of snow", "unknown yet"]]
    assert [len(some) for some in found] == [2, 2, 2, 0, 2]
    encoder.calls.clear()
    retriever.retrieve_batch([empty], ["snow"], 2)
    assert encoder.calls == []


def test_a_wrong_revision_is_found_out(store: ProfileStore) -> None:
    """Other words under the ids and the revision of stored vectors: nothing may be ranked by the vectors of others."""
    ingest(store, "gil", *TEXTS)
    encoder = Watched()
    profile = put_vectors(store, "gil", encoder, sign=-1)
    retriever = DenseRetriever(encoder, store)
    changed = replace(profile, records=tuple(Record(f"{r.text}, said twice", id=r.id) for r in profile))
    assert retriever.retrieve(changed, "snow", 2) == DenseRetriever(encoder).retrieve(changed, "snow", 2)
    mixed = [profile, changed, profile]
    batch = retriever.retrieve_batch(mixed, ["snow", "snow", "city"], 2)
    assert batch == [retriever.retrieve(p, q, 2) for p, q in zip(mixed, ["snow", "snow", "city"], strict=True)]


def test_a_forgotten_user_leaves_no_vectors_to_a_new_one(store: ProfileStore) -> None:
    ingest(store, "hal", *TEXTS)
    encoder = Watched()
    put_vectors(store, "hal", encoder, sign=-1)
    store.forget("hal")
    ingest(store, "hal", *TEXTS)
    encoder.calls.clear()
    DenseRetriever(encoder, store).retrieve(store.profile("hal"), "snow", 1)
    assert len(encoder.calls[0]) == 6


def test_inner_products_depend_on_the_row_alone() -> None:
    draw = np.random.default_rng(1)
    matrix = draw.standard_normal((3000, 48)).astype(np.float16)
    query = draw.standard_normal(48).astype(np.float32)
    together = inner_products(matrix, query)
    for row in (0, 1, 1023, 1024, 2999):
        assert inner_products(matrix[row : row + 1], query)[0] == together[row]
    assert together == pytest.approx(matrix.astype(np.float64) @ query, abs=1e-4)
