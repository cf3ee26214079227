"""Interests of many users in the place of a user's own, for users with few records: kNN-Embed's neighbours.

Three records say little about what someone likes. Given `SharedInterests`, the clusters are those of many users, and
the weights are smoothed by the users whose weights are most like this one's (El-Kishky et al., arXiv 2205.06205):

    p(c|u) = (1 - l) p_mle(c|u) + l * mean over the neighbours v of p_mle(c|v),    l = prior / (prior + records)

Of the neighbours only these weights are there: no record and no text of another user can come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError, check_made_for
from persona.protocols import RecordEncoder
from persona.retrievers import MultiInterestRetriever
from persona.retrievers.vectors.multi_interest import centroids, nearest
from persona.store.vectors import HasVectors


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
        found = centroids(np.concatenate(users), n_clusters, seed)
        weights = [np.bincount(nearest(own, found), minlength=len(found)) / len(own) for own in users]
        return cls(fingerprint, found, np.stack(weights))

    def smoothed(self, own: NDArray[np.float64], n_records: int) -> NDArray[np.float64]:
        """p(c|u) of a user with `n_records` records and p_mle `own`.  # (clusters,) -> (clusters,)

        The neighbours are the users with the greatest cosine to `own`.
        """
        likeness = self.weights @ own / np.linalg.norm(self.weights, axis=1)
        closest = np.argsort(-likeness, kind="stable")[: self.neighbours]
        share = self.prior / (self.prior + n_records)
        return np.asarray((1 - share) * own + share * self.weights[closest].mean(0), dtype=np.float64)


class SharedInterestRetriever(MultiInterestRetriever):
    """Retrieves records of all the interests that many users share, by the user's smoothed weights."""

    def __init__(self, interests: SharedInterests, encoder: RecordEncoder, store: HasVectors | None = None) -> None:
        super().__init__(encoder, store)
        check_made_for("what is shared", interests.fingerprint, self.vectors.fingerprint, "make the interests anew")
        self.interests = interests

    def mixture(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The shared cluster of each record, and the smoothed weights."""
        labels = nearest(vectors, self.interests.centroids)
        own = np.bincount(labels, minlength=len(self.interests.centroids)) / len(vectors)
        return labels, self.interests.smoothed(own, len(vectors))
