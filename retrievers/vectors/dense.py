"""Retrieval by meaning: the records whose vectors have the greatest inner product with the query's, exactly.

A user has some hundred records, so the search is a scan of the user's own matrix: tens of microseconds, no index to
build, and no other user's vector within reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from persona.records import Profile

from ..base import Ranking, best_first, scored
from .record_vectors import VectorRetriever


class DenseRetriever(VectorRetriever):
    """Retrieves the records that are nearest to the query in the encoder's space.

    A score is the inner product of two unit vectors, -1 to 1. Records with equal scores stand in profile order.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from, those of this encoder and view only; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).

    Raises:
        InvalidOptionError: if there is no such view.
    """

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """The `k` records of each profile nearest to its query, with one call of the encoder."""
        embedded = self.vectors.embed(profiles, queries, trust_revision=True)
        results = []
        for profile, query, own in zip(profiles, queries, embedded, strict=True):
            scores = own.similarities
            best = np.argsort(-scores, kind="stable")[:k].tolist()
            if own.made_from(profile, best):
                results.append(scored(profile, best, scores))
            else:  # other records under the revision of the stored ones
                (checked,) = self.vectors.embed([profile], [query])
                results.append(best_first(profile, checked.similarities, k))
        return results
