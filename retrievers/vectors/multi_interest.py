"""Retrieval that covers a user: each of the user's interests has its share of the k records.

A user's records fall into clusters, and cluster c has the weight p(c|u), its share of the records. A plain search gives
all k records to the interest that the query touches; here c gets about k p(c|u) of them, those nearest to the query
(kNN-Embed, El-Kishky et al., arXiv 2205.06205). Rounded shares need not add up to k, so the records are dealt one by
one, the next one to the cluster with the greatest p(c|u) / (2 records so far + 1) (Sainte-Laguë's method):

    p = 0.6, 0.3, 0.1    ->    clusters 1, 2, 1, 1, ...        priorities 0.60, 0.30, 0.20, 0.12, ...

On three LaMP-style sets the k records covered the user's clusters hardly better than random ones.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors

from ..base import Ranking, scored
from .record_vectors import EmbeddedProfile, VectorRetriever

MAX_CLUSTERS = 16
"""Most clusters of one user."""


class MultiInterestRetriever(VectorRetriever):
    """Retrieves records of all the user's interests, each by its weight, and within each those near to the query.

    A score is the priority p(c|u) / (2 i + 1) of the record that came as the i-th of its cluster (from 0), not its
    nearness. Of equally due clusters the one whose next record is nearer to the query comes first.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).
        n_clusters: clusters of a user; None is twice the square root of the records, 1 to `MAX_CLUSTERS`.
        seed: of the clusters.

    Raises:
        InvalidOptionError: if there is no such view.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        store: HasVectors | None = None,
        view: str = "text",
        *,
        n_clusters: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, store, view)
        self.n_clusters = n_clusters
        self.seed = seed

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """`k` records, of all interests."""
        labels, weights = self.mixture(embedded.wide)
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

    def mixture(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The cluster of each record (records,) and the weight of each cluster (clusters,)."""
        n_clusters = self.n_clusters or min(MAX_CLUSTERS, round(2 * math.sqrt(len(vectors))))
        found = centroids(vectors, n_clusters, self.seed)
        labels = nearest(vectors, found)
        return labels, np.bincount(labels, minlength=len(found)) / len(vectors)


def centroids(vectors: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.float32]:
    """One unit vector for each cluster, at most as many as there are different vectors.  # (clusters, dim)"""
    from sklearn.cluster import KMeans

    different = len(np.unique(vectors, axis=0))
    centres = KMeans(min(n_clusters, different), n_init=5, random_state=seed).fit(vectors).cluster_centers_
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.asarray(centres / np.maximum(norms, 1e-12), dtype=np.float32)


def nearest(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """The number of the centroid with the greatest inner product with each vector.  # (vectors,)"""
    return np.asarray((vectors @ centres.T).argmax(1))
