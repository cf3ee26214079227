"""Retrieval that covers a user: clusters and quotas, variety, the memory of what the user did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers import BM25Retriever, DiverseRetriever, KeyValueRetriever, MultiInterestRetriever
from persona.retrievers.clusters import cluster, nearest
from persona.retrievers.multi_interest import SharedInterests
from persona.retrievers.record_vectors import RecordVectors
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors, vector_fingerprint


class Written:
    """An encoder of texts that are their own vectors: ``"1 0"`` is (1, 0), made a unit vector."""

    dim = 2
    fingerprint = "written"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, 2), np.float32)
        rows = np.array([[float(number) for number in text.split()[:2]] for text in texts], np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def at(degrees: float, target: str | None = None, id: str = "") -> Record:
    radians = math.radians(degrees)
    return Record(f"{math.cos(radians):.6f} {math.sin(radians):.6f}", target=target, id=id or f"{degrees:g}")


def ids(found: Sequence[object]) -> list[str]:
    return [one.record.id for one in found]  # type: ignore[attr-defined]


# Three interests: six records near 0 degrees, three near 90, one at 180.
MIXED = Profile("ana", tuple(at(degrees) for degrees in (0, 2, 4, 6, 8, 10, 88, 90, 92, 180)))


def test_clusters_are_found_and_come_by_size() -> None:
    vectors = RecordVectors(Written()).place([MIXED], ["1 0"])[0].wide
    centroids = cluster(vectors, 3, seed=0)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-3)
    assert nearest(vectors, centroids).tolist() == [0] * 6 + [1] * 3 + [2]


def test_clusters_are_never_empty() -> None:
    vectors = np.tile(np.array([[1, 0]], np.float32), (5, 1))
    assert cluster(vectors, 3).shape == (1, 2)
    for seed in range(20):
        random = Written().encode([f"{a} {b}" for a, b in np.random.default_rng(seed).normal(size=(30, 2))])
        centroids = cluster(random, 7, seed)
        assert set(nearest(random, centroids).tolist()) == set(range(len(centroids)))


def test_places_are_dealt_by_weight_and_within_a_cluster_by_the_query() -> None:
    retriever = MultiInterestRetriever(Written(), n_clusters=3, centrality=0)
    found = retriever.retrieve(MIXED, at(10).text, 10)
    # Priorities: .6, .3, .6/3 = .2, .6/5 = .12, then .3/3 and .1: a tie that the record nearer to the query wins.
    assert ids(found)[:6] == ["10", "88", "8", "6", "90", "180"]
    assert [round(one.score, 4) for one in found[:6]] == [0.6, 0.3, 0.2, 0.12, 0.1, 0.1]
    assert len(found) == 10


def test_within_a_cluster_comes_first_what_stands_for_it_and_is_near_the_query() -> None:
    """Of the six at 0 to 10 degrees the centre is at 5; the query at 40 is nearest to the one at 10."""

    def first(centrality: float) -> str:
        return ids(MultiInterestRetriever(Written(), n_clusters=3, centrality=centrality).retrieve(MIXED, query, 1))[0]

    query = at(40).text
    assert first(0) == "10"
    assert first(1) in ("4", "6")  # one degree from the centre on either side
    # (1 - b) cos(40 - x) + b cos(x - 5) is greatest at 10 as long as its slope there, (1 - b) sin 30 - b sin 5, is
    # above 0: always, until b = 0.85.
    assert first(0.8) == "10"
    assert first(0.93) == "8"  # the greatest is at 7.6: tan of it from the weighted sum of both directions
    for centrality in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidOptionError, match="`centrality` must be within 0 and 1"):
            MultiInterestRetriever(Written(), centrality=centrality)


def test_the_tightest_of_several_attempts_is_taken() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def tightness(restarts: int, seed: int) -> float:
        return float((vectors @ cluster(vectors, 6, seed, restarts=restarts).T).max(1).sum())

    once, often = ([tightness(restarts, seed) for seed in range(8)] for restarts in (1, 5))
    assert all(after >= before - 1e-3 for before, after in zip(once, often, strict=True))  # the first is among them
    assert np.mean(often) > np.mean(once)


def test_a_plain_search_would_give_all_places_to_one_interest() -> None:
    def interests(found: Sequence[object]) -> set[int]:
        return {round(int(one) / 90) for one in ids(found)}

    from persona.retrievers import DenseRetriever

    query = at(5).text
    assert interests(DenseRetriever(Written()).retrieve(MIXED, query, 4)) == {0}
    assert interests(MultiInterestRetriever(Written(), n_clusters=3).retrieve(MIXED, query, 4)) == {0, 1}


def test_weights_are_smoothed_by_neighbours() -> None:
    shared = SharedInterests(
        vector_fingerprint(Written(), "text"),
        np.array([[1, 0], [0, 1], [-1, 0]], np.float32),
        np.array([[0.5, 0.5, 0], [0.25, 0.75, 0], [0, 0, 1]], np.float32),
    )
    own = np.array([1.0, 0, 0])
    # Cosines of own weights with the rows: .71, .32, 0. Two neighbours: mean (.375, .625, 0).
    assert shared.smoothed(own, 0.8, 2).tolist() == pytest.approx([0.2 + 0.8 * 0.375, 0.8 * 0.625, 0])
    assert shared.smoothed(own, 0.0, 2).tolist() == [1, 0, 0]


def test_short_histories_lean_on_neighbours_and_long_ones_on_themselves() -> None:
    fingerprint = vector_fingerprint(Written(), "text")
    centroids = np.array([[1, 0], [0, 1]], np.float32)
    lovers_of_the_second = np.array([[0.05, 0.95]] * 3, np.float32)
    interests = SharedInterests(fingerprint, centroids, lovers_of_the_second)
    short = Profile("ana", (at(0), at(3), at(90)))
    long = Profile("ana", tuple([at(0.1 * number) for number in range(200)] + [at(90 - 0.1 * n) for n in range(100)]))
    for profile, first in ((short, "90"), (long, "0")):
        found = MultiInterestRetriever(Written(), interests=interests).retrieve(profile, at(0).text, 1)
        assert ids(found) == [first]
        alone = MultiInterestRetriever(Written(), interests=interests, prior=0).retrieve(profile, at(0).text, 1)
        assert ids(alone) == ["0"]


def test_shared_interests_hold_weights_and_no_records() -> None:
    users = [[at(0), at(1)], [at(90), at(0)], [at(90)]]
    matrices = [Written().encode([record.text for record in user]).astype(np.float16) for user in users]
    made = SharedInterests.from_matrices("f", matrices, n_clusters=2, seed=0)
    assert made.centroids.shape == (2, 2)
    weights: list[list[float]] = made.weights.tolist()
    assert sorted(weights) == [[0, 1], [0.5, 0.5], [1, 0]]
    with pytest.raises(InvalidOptionError, match="vectors of at least one user"):
        SharedInterests.from_matrices("f", [])
    with pytest.raises(InvalidOptionError, match="`n_clusters` must be at least 1, was: 0"):
        SharedInterests.from_matrices("f", matrices, n_clusters=0)


def test_shared_interests_from_a_store_never_bring_back_anybody_elses_record(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'p.db'}") as store:
        for user in range(12):
            store.upsert([(f"u{user}", at(30 * user + place, f"u{user}", f"{place}")) for place in range(5)])
            keep_vectors(store, f"u{user}")
        interests = SharedInterests.from_store(store, vector_fingerprint(Written(), "text"), n_clusters=4, users=9)
        assert interests.weights.shape == (9, 4)
        retriever = MultiInterestRetriever(Written(), store, interests=interests)
        for user in range(12):
            found = retriever.retrieve(store.profile(f"u{user}"), at(77).text, 9)
            assert {one.record.target for one in found} == {f"u{user}"}
            assert len(found) == 5


def keep_vectors(store: ProfileStore, user_id: str) -> None:
    profile = store.profile(user_id)
    store.put_vectors(
        [
            UserVectors(
                user_id,
                vector_fingerprint(Written(), "text"),
                tuple(record.id for record in profile),
                tuple(record.content_hash for record in profile),
                Written().encode([record.text for record in profile]).astype(np.float16),
                profile.revision,
            )
        ]
    )


def test_shared_interests_of_other_vectors_are_refused() -> None:
    other = SharedInterests("other", np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    with pytest.raises(FingerprintMismatchError, match=r"vectors of other, these are of written\|view=text"):
        MultiInterestRetriever(Written(), interests=other)


@pytest.mark.parametrize(("option", "value"), [("n_clusters", 0), ("prior", -1), ("neighbours", 0)])
def test_multi_interest_options(option: str, value: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"`{option}` must be at least"):
        MultiInterestRetriever(Written(), **{option: value})  # type: ignore[arg-type]


def test_vectors_of_changed_records_are_made_anew(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'p.db'}") as store:
        store.upsert([("ana", at(0, id="a")), ("ana", at(90, id="b"))])
        keep_vectors(store, "ana")
        store.upsert([("ana", Record(at(180).text, id="a")), ("ana", at(270, id="c"))])
        profile = store.profile("ana")
        (placed,) = RecordVectors(Written(), store).place([profile], ["1 0"])
        expected = Written().encode([record.text for record in profile]).astype(np.float16)
        assert placed.records.tolist() == expected.tolist()


def test_diverse_is_maximal_marginal_relevance() -> None:
    """By hand, balance 0.5: relevance 1, .6, 0 of the base; b repeats a (cosine 1), c is at right angles."""
    records = (at(0, id="a"), at(0, id="b"), at(90, id="c"))

    class Base:
        def retrieve_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[object]:
            from persona.records import ScoredRecord

            return [tuple(ScoredRecord(r, s) for r, s in zip(records, (10.0, 6.0, 0.0), strict=True))] * len(profiles)

        retrieve = retrieve_batch

    found = DiverseRetriever(Base(), Written(), balance=0.5).retrieve(Profile("ana", records), "1 0", 3)  # type: ignore[arg-type]
    assert ids(found) == ["a", "c", "b"]
    assert [one.score for one in found] == [
        pytest.approx(0.5),
        pytest.approx(0.0, abs=1e-3),
        pytest.approx(-0.2, abs=1e-3),
    ]


def test_diverse_at_the_ends_of_its_balance() -> None:
    records = [at(0, id="a"), at(1, id="b"), at(40, id="c"), at(89, id="d")]
    profile = Profile("ana", tuple(records))
    base = MultiInterestRetriever(Written(), n_clusters=1, centrality=0)
    order = ids(base.retrieve(profile, "1 0", 4))
    assert ids(DiverseRetriever(base, Written(), balance=1).retrieve(profile, "1 0", 4)) == order
    varied = ids(DiverseRetriever(base, Written(), balance=0).retrieve(profile, "1 0", 4))
    assert varied[:3] == ["a", "d", "c"]  # the best, the most different from it, then what is far from both


@pytest.mark.parametrize("balance", [-0.1, 1.1, math.nan])
def test_diverse_options(balance: float) -> None:
    with pytest.raises(InvalidOptionError, match="`balance` must be between 0 and 1"):
        DiverseRetriever(BM25Retriever(), Written(), balance=balance)


def test_the_memory_is_read_by_value() -> None:
    """Attention by hand: cosines .5, .4, .3 at temperature .1 are e^2 : e^1 : 1 = .665 : .245 : .090."""
    keys = [at(math.degrees(math.acos(cosine)), target) for cosine, target in ((0.5, "2"), (0.4, "5"), (0.3, "5"))]
    profile = Profile("ana", (*keys, Record("1 0"), Record("1 0", target="", id="empty")))
    retriever = KeyValueRetriever(Written(), temperature=0.1)
    assert dict(retriever.values(profile, "1 0")) == {
        "2": pytest.approx(0.665, abs=2e-3),
        "5": pytest.approx(0.335, abs=2e-3),
    }
    found = retriever.retrieve(profile, "1 0", 9)
    # The nearest text has no target: it says nothing of what the user does.
    assert [one.record.target for one in found] == ["2", "5", "5"]
    # A greater temperature listens to all: the value that is there twice comes first, its nearest key before the other.
    warm = KeyValueRetriever(Written(), temperature=1.0).retrieve(profile, "1 0", 9)
    assert [one.record for one in warm] == [keys[1], keys[2], keys[0]]


def test_the_memory_is_matched_on_the_key_alone() -> None:
    from persona.encoders.hashing import HashingEncoder

    profile = Profile(
        "ana",
        (Record("penguins on ice", target="nature", id="key"), Record("a tax return", target="penguins", id="value")),
    )
    found = KeyValueRetriever(HashingEncoder(dim=256)).retrieve(profile, "penguins", 2)
    assert ids(found) == ["key", "value"]


def test_where_all_values_differ_the_order_is_that_of_the_keys() -> None:
    profile = Profile("ana", tuple(at(10 * number, f"title {number}") for number in range(9)))
    assert ids(KeyValueRetriever(Written()).retrieve(profile, at(40).text, 3))[0] == "40"
    with pytest.raises(InvalidOptionError, match="`temperature` must be above 0, was: 0"):
        KeyValueRetriever(Written(), temperature=0)


def test_a_user_who_did_nothing_has_no_answers() -> None:
    assert KeyValueRetriever(Written()).retrieve(Profile("ana", (Record("1 0"),)), "1 0", 3) == ()
    assert KeyValueRetriever(Written()).values(Profile("ana", (Record("1 0"),)), "1 0") == ()
