"""Retrieval in rounds: after each one the query is what the records fetched so far leave unanswered.

Ada-Retrieval (Li et al., arXiv 2401.06633) fetches in several rounds and adapts the vector of the user to what earlier
rounds brought. Here, without training, the directions of the fetched records are taken out of the query:

    q_(t+1) = q - strength * P_t q,        P_t the projection onto the span of all records fetched so far

    q = (0.8, 0.6), records a = (1, 0), b = (0.8, -0.6), c = (0, 1)      by similarity a (0.8), c (0.6), b (0.28)
    strength 0.5 after a: q = (0.4, 0.6)                                 c (0.6)
    after c as well: q = (0.4, 0.3)                                      b (0.14)

At `strength` 0 this is `dense`; at 1 the query is orthogonal to everything fetched, as in orthogonal matching pursuit.
`diverse` compares records with one another; here a record loses only what of the *query* others answer already.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from persona.errors import check_share
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors

from ..base import Ranking, check_k, scored
from .record_vectors import EmbeddedProfile, VectorRetriever

_SAME = 1e-3
"""A record of which less than this is new spans no direction of its own (vectors are float16)."""


class RoundsRetriever(VectorRetriever):
    """Retrieves round by round, each with a query from which the last ones' records have been subtracted.

    A score is the inner product with the query of the record's round, or the score before it where that is less.
    Records with equal scores in a round stand in profile order.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).
        batch: records that a round fetches.
        strength: share of the covered directions that is subtracted, 0 to 1.

    Raises:
        InvalidOptionError: if `batch` is below 1, `strength` is not within 0 and 1, or there is no such view.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        store: HasVectors | None = None,
        view: str = "text",
        *,
        batch: int = 1,
        strength: float = 0.25,
    ) -> None:
        check_share(strength=strength)
        self.batch = check_k(batch)
        self.strength = strength
        super().__init__(encoder, store, view)

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """The `k` records in the order in which the rounds fetch them."""
        vectors = embedded.wide.astype(np.float64)
        query = embedded.query.astype(np.float64)
        values = embedded.similarities.astype(np.float64)
        left = np.ones(len(profile), dtype=bool)
        basis: list[NDArray[np.float64]] = []
        scores = np.full(len(profile), np.inf)
        order: list[int] = []
        while len(order) < min(k, len(profile)):
            found = np.argsort(-np.where(left, values, -np.inf), kind="stable")[: min(self.batch, left.sum())].tolist()
            least = scores[order[-1]] if order else np.inf
            for position in found:
                scores[position] = min(values[position], least)
                left[position] = False
                new = vectors[position] - sum(((vectors[position] @ axis) * axis for axis in basis), np.zeros(1))
                if (length := float(np.linalg.norm(new))) > _SAME:
                    basis.append(new / length)
                    covered = self.strength * float(query @ basis[-1])
                    # Rounded, so that equal vectors keep equal values.
                    values = np.round(values - covered * np.einsum("rd,d->r", vectors, basis[-1]), 9)
            order += found
        return scored(profile, order[:k], scores)
