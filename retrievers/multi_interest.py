"""Retrieval that covers a user: each of the user's interests has its share of the k records.

A user's records fall into clusters, and cluster c has the weight p(c|u), its share of the records. A plain search
gives all k places to the interest that the query touches; here c gets about k p(c|u) of them (kNN-Embed, El-Kishky et
al., arXiv 2205.06205: retrieve round(K p(c|u)) from each). Within a cluster come first the records that are near to the
query and stand for the cluster:

    (1 - b) cos(record, query) + b cos(record, centre of the cluster),    b = 0.25

The paper's rule is b = 0; then the records that are taken lie at the edges of the clusters, next to the query and to
one another. For the same reason the clusters are many, two for each unit of the root of the records, and the tightest
of five attempts. All three were chosen on training users of three LaMP-style sets (docs/results/retrieval.md).

Rounded shares need not add up to k, nor be nested from k to k + 1. So the places are dealt one by one, the next one
to the cluster with the greatest p(c|u) / (2 places so far + 1) (Sainte-Laguë's method), which rounds as well as it can
be done and makes the result for k the beginning of that for k + 1:

    p = 0.6, 0.3, 0.1    ->    clusters 1, 2, 1, 1 2, ...        priorities 0.60, 0.30, 0.20, 0.12, 0.10, ...

**Short histories.** Three records say little about what someone likes. Given `SharedInterests`, the clusters are those
of many users, and the weights are smoothed by the users whose weights are most like this one's:

    p(c|u) = (1 - l) p_mle(c|u) + l * mean over the neighbours v of p_mle(c|v),    l = prior / (prior + records)

The paper's l is one constant for all; here it is large for a user with few records and vanishes with many. Of the
neighbours only these weights are there: rows of numbers without a name. No record and no text of another user can
come back, since only records of the profile at hand are ranked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.protocols import RecordEncoder
from persona.records import Profile, ScoredRecord

from .clusters import cluster, nearest
from .ranking import check_k, scored
from .record_vectors import Placed, RecordVectors

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

MAX_CLUSTERS = 16
"""Most clusters of one user, if not told otherwise."""

CENTRALITY = 0.25
"""The weight of a record's nearness to the centre of its cluster, beside that to the query, if not told otherwise."""

_RESTARTS = 5

_DIGITS = 12  # 0.3 / 3 and 0.1 are one priority


@dataclass(frozen=True, slots=True, eq=False)
class SharedInterests:
    """Interests that many users share, and how much of each some users have; whose a row is, is not kept.

    It lives in memory, is never written, and ends with the process: make it anew after somebody was forgotten.

    Attributes:
        fingerprint: of the vectors that it was made from.
        centroids: unit vectors, float32.  # (clusters, dim)
        weights: p_mle(c|v) of each user v that was looked at, float32; rows sum to 1.  # (users, clusters)
    """

    fingerprint: str
    centroids: NDArray[np.float32]
    weights: NDArray[np.float32]

    @classmethod
    def from_matrices(
        cls,
        fingerprint: str,
        matrices: Iterable[NDArray[np.float16]],
        *,
        n_clusters: int = 32,
        seed: int = 0,
        sample: int = 20_000,
    ) -> SharedInterests:
        """From the vectors of some users.

        Args:
            fingerprint: what the vectors are stored with (`persona.store.vectors.vector_fingerprint`).
            matrices: the vectors of one user each.  # (records, dim)
            n_clusters: at most so many interests.
            seed: of the sample and of the first centroids.
            sample: centroids are found on at most so many vectors.

        Raises:
            InvalidOptionError: if there are no vectors, or `n_clusters` is below 1.
        """
        if n_clusters < 1:
            raise InvalidOptionError(f"`n_clusters` must be at least 1, was: {n_clusters}")
        users = [matrix.astype(np.float32) for matrix in matrices if len(matrix)]
        if not users:
            raise InvalidOptionError("shared interests need vectors of at least one user: embed users first")
        every = np.concatenate(users)
        draw = np.random.default_rng(seed)
        chosen = every if len(every) <= sample else every[np.sort(draw.choice(len(every), sample, replace=False))]
        centroids = cluster(chosen, n_clusters, seed)
        weights = np.stack([np.bincount(nearest(one, centroids), minlength=len(centroids)) / len(one) for one in users])
        return cls(fingerprint, centroids, weights.astype(np.float32))

    @classmethod
    def from_store(
        cls, store: ProfileStore, fingerprint: str, *, n_clusters: int = 32, users: int = 1_000, seed: int = 0
    ) -> SharedInterests:
        """From the vectors that `store` has of its first `users` users.

        Raises:
            InvalidOptionError: if there are none of that fingerprint.
        """

        def matrices() -> Iterable[NDArray[np.float16]]:
            left = users
            for user_id in store.user_ids():
                stored = store.vectors(user_id, fingerprint) if left else None
                if stored is not None:
                    left -= 1
                    yield stored.matrix
                if not left:
                    return

        return cls.from_matrices(fingerprint, matrices(), n_clusters=n_clusters, seed=seed)

    def smoothed(self, own: NDArray[np.floating], share: float, neighbours: int) -> NDArray[np.float64]:
        """``(1 - share) own + share * mean of the neighbours' weights``.

        The neighbours are the users with the greatest cosine to `own`.  # (clusters,) -> (clusters,)
        """
        norms = np.linalg.norm(self.weights, axis=1) * max(float(np.linalg.norm(own)), 1e-12)
        likeness = self.weights @ own.astype(np.float32) / norms
        near = np.argsort(-likeness, kind="stable")[:neighbours]
        return np.asarray((1 - share) * own + share * self.weights[near].mean(0, dtype=np.float64), dtype=np.float64)


class MultiInterestRetriever:
    """Retrieves records of all the user's interests, each by its weight, and within each those near to the query.

    A score is the priority p(c|u) / (2 i + 1) of the place that the record took as the i-th of its cluster (from 0):
    it says how much a place was due to the interest, not how near the record is. Of equally due clusters the one whose
    next record is nearer to the query comes first.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).
        n_clusters: clusters of a user; None is twice the square root of the records, 1 to `MAX_CLUSTERS`.
        centrality: within a cluster, the weight of nearness to its centre beside that to the query, 0 to 1.
        interests: clusters of many users in place of the user's own, and the neighbours' weights.
        prior: with `interests`, how many records the neighbours' weights count for; at least 0.
        neighbours: with `interests`, how many users are averaged; at least 1.
        seed: of the clusters.

    Raises:
        InvalidOptionError: if an option is out of range.
        FingerprintMismatchError: if `interests` were made from vectors of another encoder or view.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        store: ProfileStore | None = None,
        view: str = "text",
        *,
        n_clusters: int | None = None,
        centrality: float = CENTRALITY,
        interests: SharedInterests | None = None,
        prior: float = 8.0,
        neighbours: int = 10,
        seed: int = 0,
    ) -> None:
        self._vectors = RecordVectors(encoder, store, view)
        for name, value, least in (("n_clusters", n_clusters, 1), ("prior", prior, 0), ("neighbours", neighbours, 1)):
            if value is not None and not value >= least:
                raise InvalidOptionError(f"`{name}` must be at least {least}, was: {value}")
        if not 0 <= centrality <= 1:
            raise InvalidOptionError(f"`centrality` must be within 0 and 1, was: {centrality}")
        if interests is not None and interests.fingerprint != self._vectors.fingerprint:
            raise FingerprintMismatchError(
                f"the shared interests were made from vectors of {interests.fingerprint}, "
                f"these are of {self._vectors.fingerprint}: make them anew"
            )
        self.n_clusters = n_clusters
        self.centrality = centrality
        self.interests = interests
        self.prior = prior
        self.neighbours = neighbours
        self.seed = seed

    def __repr__(self) -> str:
        return f"MultiInterestRetriever({self._vectors.encoder!r}, view={self._vectors.view!r})"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """`k` records of all interests.

        Raises:
            InvalidOptionError: if `k` is below 1.
        """
        return self.retrieve_batch([profile], [query], k)[0]

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair, with one call of the encoder."""
        k = check_k(k)
        placed = self._vectors.place(profiles, queries)
        return [self._deal(profile, one, k) for profile, one in zip(profiles, placed, strict=True)]

    def _deal(self, profile: Profile, placed: Placed, k: int) -> tuple[ScoredRecord, ...]:
        if not profile.records:
            return ()
        vectors = placed.wide
        labels, weights, centroids = self._mixture(vectors)
        similarities = placed.similarities
        central = (vectors * centroids[labels]).sum(1)
        worth = (1 - self.centrality) * similarities + self.centrality * central
        waiting: dict[int, list[int]] = {}
        for position in (-worth).argsort(kind="stable").tolist():
            waiting.setdefault(int(labels[position]), []).append(position)
        taken = dict.fromkeys(waiting, 0)
        scores = [0.0] * len(profile)
        order: list[int] = []
        while waiting and len(order) < k:
            due = {one: round(float(weights[one]) / (2 * taken[one] + 1), _DIGITS) for one in waiting}
            one = max(waiting, key=lambda one: (due[one], similarities[waiting[one][0]]))
            position = waiting[one].pop(0)
            taken[one] += 1
            scores[position] = due[one]
            order.append(position)
            if not waiting[one]:
                del waiting[one]
        return scored(profile, order, scores)

    def _mixture(
        self, vectors: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float32]]:
        """The cluster of each record (records,), the weight and the centre of each cluster (clusters, dim)."""
        n_records = len(vectors)
        if self.interests is None:
            wanted = self.n_clusters or min(MAX_CLUSTERS, round(2 * math.sqrt(n_records)))
            centroids = cluster(vectors, wanted, self.seed, restarts=_RESTARTS)
            labels = nearest(vectors, centroids)
            return labels, np.bincount(labels, minlength=len(centroids)) / n_records, centroids
        centroids = self.interests.centroids
        labels = nearest(vectors, centroids)
        own = np.bincount(labels, minlength=len(centroids)) / n_records
        share = self.prior / (self.prior + n_records)
        return labels, self.interests.smoothed(own, share, self.neighbours), centroids
