"""Records that fit the query and are not alike: maximal marginal relevance.

The next record is the one with the greatest

    balance * relevance(query, record)  -  (1 - balance) * greatest similarity to a record that is already chosen

(Carbonell and Goldstein, SIGIR 1998; `balance` is their lambda). Relevance comes from any retriever; its scores, of
whatever scale, are moved to 0 (the profile's worst) ... 1 (its best). Similarity of records is the inner product of
their vectors, 0 where it is negative. At ``balance`` 1 the order is the retriever's own; at 0 the first record is the
retriever's and every further one the most different.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from persona.errors import check_share
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, ScoredRecord
from persona.store.vectors import HasVectors

from ..base import ProfileRetriever, Ranking, positions, scored
from .record_vectors import EmbeddedProfile, RecordVectors


class DiverseRetriever(ProfileRetriever):
    """Retrieves by another retriever's scores, less what repeats a record that was already chosen.

    A score is the value above at the time when the record was chosen; it never rises along the result. Of equal values
    the base's order decides.

    Args:
        base: says what is relevant; asked for the whole profile. Records that it leaves out stay out.
        encoder: makes vectors, by which records are compared with one another.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).
        balance: weight of relevance, 0 to 1.

    Raises:
        InvalidOptionError: if `balance` is not within 0 and 1, or there is no such view.
    """

    def __init__(
        self,
        base: Retriever,
        encoder: RecordEncoder,
        store: HasVectors | None = None,
        view: str = "text",
        *,
        balance: float = 0.7,
    ) -> None:
        check_share(balance=balance)
        self.base = base
        self.balance = balance
        self.vectors = RecordVectors(encoder, store, view)

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """`k` records of each profile, each the best beside those before it."""
        embedded = self.vectors.embed(profiles, queries)
        rankings = self.base.retrieve_batch(profiles, queries, max(map(len, profiles)))
        return [
            self._choose(profile, ranking, own, k) if ranking else ()
            for profile, ranking, own in zip(profiles, rankings, embedded, strict=True)
        ]

    def _choose(self, profile: Profile, ranking: Sequence[ScoredRecord], embedded: EmbeddedProfile, k: int) -> Ranking:
        order = list(positions(profile, ranking))
        raw = np.array([ranked.score for ranked in ranking])
        span = raw.max() - raw.min()
        relevance = (raw - raw.min()) / span if span > 0 else np.ones(len(raw))
        vectors = embedded.wide[order]
        repeated = np.zeros(len(order))
        left = np.ones(len(order), dtype=bool)
        values = [0.0] * len(profile)
        chosen: list[int] = []
        while len(chosen) < min(k, len(order)):
            value = np.where(left, self.balance * relevance - (1 - self.balance) * repeated, -np.inf)
            best = int(value.argmax())  # the first of equal ones: the base's order
            values[order[best]] = float(value[best])
            chosen.append(order[best])
            left[best] = False
            # Not `@`, which may give equal vectors unequal sums.
            repeated = np.maximum(repeated, np.einsum("rd,d->r", vectors, vectors[best]))
        return scored(profile, chosen, values)
