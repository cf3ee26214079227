"""Retrieval that covers a user: each of the user's interests has its share of the k records.

A user's records fall into clusters, and cluster c has the weight p(c|u), its share of the records. A plain search gives
all k records to the interest that the query touches; here c gets about k p(c|u) of them, those nearest to the query
(kNN-Embed, El-Kishky et al., arXiv 2205.06205). Rounded shares need not add up to k, so the records are dealt one by
one, the next one to the cluster with the greatest p(c|u) / (2 records so far + 1) (Sainte-Laguë's method):

    p = 0.6, 0.3, 0.1    ->    clusters 1, 2, 1, 1, ...        priorities 0.60, 0.30, 0.20, 0.12, ...

**Short histories.** Three records say little about what someone likes. Given `SharedInterests`, the clusters are those
of many users, and the weights are smoothed by the users whose weights are most like this one's:

    p(c|u) = (1 - l) p_mle(c|u) + l * mean over the neighbours v of p_mle(c|v),    l = prior / (prior + records)

Of the neighbours only these weights are there: no record and no text of another user can come back. On three LaMP-style
sets the k records covered the user's clusters hardly better than random ones. By name the clusters are the user's own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError, check_made_for
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors

from ..base import Ranking, scored
from .record_vectors import EmbeddedProfile, VectorRetriever

MAX_CLUSTERS = 16
"""Most clusters of one user."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedInterests:
    """Interests of many users, and how much of each some users have: numbers without names, in memory only.

    Make it anew after somebody was forgotten.

    Attributes:
        fingerprint: of the vectors that it was made from (`persona.store.vectors.vector_fingerprint`).
        centroids: unit vectors, float32.  # (clusters, dim)
        weights: p_mle(c|v) of each user v; rows sum to 1.  # (users, clusters)
        neighbours: how many users are averaged, at least 1.
        prior: how many records their weights count for.
    """

    fingerprint: str
    centroids: NDArray[np.float32]
    weights: NDArray[np.float64]
    neighbours: int = 10
    prior: float = 8.0

    @classmethod
    def from_matrices(
        cls, fingerprint: str, matrices: Iterable[NDArray[np.float16]], *, n_clusters: int = 32, seed: int = 0
    ) -> SharedInterests:
        """From the vectors of some users, one matrix (records, dim) each.

        Raises:
            InvalidOptionError: if there are no vectors.
        """
        users = [matrix.astype(np.float32) for matrix in matrices if len(matrix)]
        if not users:
            raise InvalidOptionError("shared interests need vectors of at least one user: embed users first")
        centroids = _centroids(np.concatenate(users), n_clusters, seed)
        weights = [np.bincount(_nearest(own, centroids), minlength=len(centroids)) / len(own) for own in users]
        return cls(fingerprint, centroids, np.stack(weights))

    def smoothed(self, own: NDArray[np.float64], n_records: int) -> NDArray[np.float64]:
        """p(c|u) of a user with `n_records` records and p_mle `own`.  # (clusters,) -> (clusters,)

        The neighbours are the users with the greatest cosine to `own`.
        """
        likeness = self.weights @ own / np.linalg.norm(self.weights, axis=1)
        nearest = np.argsort(-likeness, kind="stable")[: self.neighbours]
        share = self.prior / (self.prior + n_records)
        return np.asarray((1 - share) * own + share * self.weights[nearest].mean(0), dtype=np.float64)


class MultiInterestRetriever(VectorRetriever):
    """Retrieves records of all the user's interests, each by its weight, and within each those near to the query.

    A score is the priority p(c|u) / (2 i + 1) of the record that came as the i-th of its cluster (from 0), not its
    nearness. Of equally due clusters the one whose next record is nearer to the query comes first.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).
        n_clusters: clusters of a user; None is twice the square root of the records, 1 to `MAX_CLUSTERS`.
        interests: clusters of many users in place of the user's own, and the neighbours' weights.
        seed: of the clusters.

    Raises:
        InvalidOptionError: if there is no such view.
        FingerprintMismatchError: if `interests` were made from vectors of another encoder or view.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        store: HasVectors | None = None,
        view: str = "text",
        *,
        n_clusters: int | None = None,
        interests: SharedInterests | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, store, view)
        if interests is not None:
            check_made_for("what is shared", interests.fingerprint, self.vectors.fingerprint, "make the interests anew")
        self.n_clusters = n_clusters
        self.interests = interests
        self.seed = seed

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """`k` records, of all interests."""
        labels, weights = self._mixture(embedded.wide)
        similarities = embedded.similarities
        waiting: defaultdict[int, list[int]] = defaultdict(list)
        for position in (-similarities).argsort(kind="stable").tolist():
            waiting[int(labels[position])].append(position)
        taken = dict.fromkeys(waiting, 0)
        scores = [0.0] * len(profile)
        order: list[int] = []
        while waiting and len(order) < k:
            # Rounded, so that 0.3 / 3 and 0.1 are one priority.
            due = {label: round(float(weights[label]) / (2 * taken[label] + 1), 12) for label in waiting}
            label = max(waiting, key=lambda label: (due[label], similarities[waiting[label][0]]))
            order.append(waiting[label].pop(0))
            scores[order[-1]] = due[label]
            taken[label] += 1
            if not waiting[label]:
                del waiting[label]
        return scored(profile, order, scores)

    def _mixture(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The cluster of each record (records,) and the weight of each cluster (clusters,)."""
        n_records = len(vectors)
        if self.interests is None:
            n_clusters = self.n_clusters or min(MAX_CLUSTERS, round(2 * math.sqrt(n_records)))
            centroids = _centroids(vectors, n_clusters, self.seed)
        else:
            centroids = self.interests.centroids
        labels = _nearest(vectors, centroids)
        own = np.bincount(labels, minlength=len(centroids)) / n_records
        return labels, own if self.interests is None else self.interests.smoothed(own, n_records)


def _centroids(vectors: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.float32]:
    """One unit vector for each cluster, at most as many as there are different vectors.  # (clusters, dim)"""
    from sklearn.cluster import KMeans

    different = len(np.unique(vectors, axis=0))
    centres = KMeans(min(n_clusters, different), n_init=5, random_state=seed).fit(vectors).cluster_centers_
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.asarray(centres / np.maximum(norms, 1e-12), dtype=np.float32)


def _nearest(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.intp]:
    """The number of the centroid with the greatest inner product with each vector.  # (vectors,)"""
    return np.asarray((vectors @ centroids.T).argmax(1))
