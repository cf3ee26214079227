"""The neighbours of users with few records (row 52 of docs/papers.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared_interests import SharedInterestRetriever, SharedInterests
from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.records import Profile
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint
from tests.retrievers.cases import ids, put_vectors
from tests.retrievers.vectors.written import Written, at

FINGERPRINT = vector_fingerprint(Written(), "text")


def test_weights_are_smoothed_by_neighbours() -> None:
    centroids = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    weights = np.array([[0.5, 0.5, 0], [0.25, 0.75, 0], [0, 0, 1]])
    own = np.array([1.0, 0, 0])
    # Cosines of own weights with the rows: .71, .32, 0. Two neighbours: mean (.375, .625, 0); their share is 8 / 10.
    shared = SharedInterests(FINGERPRINT, centroids, weights, neighbours=2, prior=8)
    assert shared.smoothed(own, 2).tolist() == pytest.approx([0.2 + 0.8 * 0.375, 0.8 * 0.625, 0])
    assert SharedInterests(FINGERPRINT, centroids, weights, prior=0).smoothed(own, 2).tolist() == [1, 0, 0]


def test_short_histories_lean_on_neighbours_and_long_ones_on_themselves() -> None:
    lovers_of_the_second = np.array([[0.05, 0.95]] * 3)
    interests = SharedInterests(FINGERPRINT, np.array([[1, 0], [0, 1]], np.float32), lovers_of_the_second)
    short = Profile("ana", (at(0), at(3), at(90)))
    long = Profile("ana", tuple([at(0.1 * number) for number in range(200)] + [at(90 - 0.1 * n) for n in range(100)]))
    for profile, first in ((short, "90"), (long, "0")):
        assert ids(SharedInterestRetriever(interests, Written()).retrieve(profile, at(0).text, 1)) == [first]


def test_shared_interests_hold_weights_and_no_records() -> None:
    users = [[at(0), at(1)], [at(90), at(0)], [at(90)]]
    matrices = [Written().encode([record.text for record in user]).astype(np.float16) for user in users]
    shared = SharedInterests.from_matrices("f", matrices, n_clusters=2)
    assert shared.centroids.shape == (2, 2)
    assert sorted(shared.weights.tolist()) == [[0, 1], [0.5, 0.5], [1, 0]]
    with pytest.raises(InvalidOptionError, match="vectors of at least one user"):
        SharedInterests.from_matrices("f", [])


def test_neighbours_never_bring_anybody_elses_record(tmp_path: Path) -> None:
    users = [f"u{number}" for number in range(12)]
    with ProfileStore(f"sqlite:///{tmp_path / 'p.db'}") as store:
        for number, user in enumerate(users):
            store.upsert([(user, at(30 * number + step, user, f"{step}")) for step in range(5)])
            put_vectors(store, user, Written())
        stored = [store.vectors(user, FINGERPRINT) for user in users]
        matrices = [vectors.matrix for vectors in stored if vectors is not None]
        interests = SharedInterests.from_matrices(FINGERPRINT, matrices, n_clusters=4)
        retriever = SharedInterestRetriever(interests, Written(), store)
        for user in users:
            found = retriever.retrieve(store.profile(user), at(77).text, 9)
            assert [scored.record.target for scored in found] == [user] * 5


def test_shared_interests_of_other_vectors_are_refused() -> None:
    other = SharedInterests("other", np.eye(2, dtype=np.float32), np.eye(2))
    with pytest.raises(FingerprintMismatchError, match=r"made for other, this is written\|view=text"):
        SharedInterestRetriever(other, Written())
