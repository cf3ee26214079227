"""A user's history as a memory of what the user did: matched on what was given, read out by what was made of it.

A record is a pair: its text is the *key* (the review that was read, the article, the post) and its target is the
*value* (the score, the category, the reply). A query resembles keys, never values, so it is compared with
`Record.text` alone, whatever view other retrievers search (DHAP, Ma et al., SIGIR 2021: keys are encoded posts, values
the responses). As in DHAP the memory is read by attention over the keys, and a value has the attention of all its keys:

    a_j = softmax_j(key_j . query / temperature)          m(v) = sum of a_j over the records j whose value is v

    keys near the query    0.62 -> "5"   0.60 -> "2"   0.58 -> "5"     m("5") = 0.68, m("2") = 0.32

The records come by the weight of their value, and within it by their own: first what this user most probably does on
such input, shown by the nearest cases. Where every value is another (titles, replies) this is the order of the keys.
A record without a target says nothing of what the user does, and is never returned.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from persona.errors import check_positive
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors

from ..base import Ranking, scored
from .record_vectors import EmbeddedProfile, VectorRetriever

TEMPERATURE = 0.1
"""The default. At 0.1 the weightiest value is a left-out record's own in 0.832 of news articles and 0.391 of film
reviews (60 training users each; at 0.02 in 0.820 and 0.331, at 0.2 in 0.819 and 0.398)."""


class KeyValueRetriever(VectorRetriever):
    """Retrieves the records whose value the memory gives the most weight for the query.

    A score is the weight m(v) of the record's value, above 0 and at most 1. At most as many records come back as have
    a target.

    Args:
        encoder: makes the vectors of queries, and of texts that the store has none of.
        store: where vectors of the view ``text`` are read from; None encodes every record anew.
        temperature: above 0. A small one listens to the nearest keys alone, a great one to the most frequent value.

    Raises:
        InvalidOptionError: if `temperature` is not above 0.
    """

    def __init__(
        self, encoder: RecordEncoder, store: HasVectors | None = None, *, temperature: float = TEMPERATURE
    ) -> None:
        check_positive(temperature=temperature)
        self.temperature = temperature
        super().__init__(encoder, store)

    def values(self, profile: Profile, query: str) -> tuple[tuple[str, float], ...]:
        """The memory as it is read: each value with its weight, the weightiest first; weights sum to 1."""
        (embedded,) = self.vectors.embed([profile], [query])
        weights = _by_value(profile, self._attention(profile, embedded))
        return tuple(sorted(weights.items(), key=lambda item: -item[1]))

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """At most `k` records with a target, those of the weightiest value first."""
        attention = self._attention(profile, embedded)
        weights = _by_value(profile, attention)
        scores = [weights.get(record.target or "", 0.0) for record in profile]
        answered = [position for position, record in enumerate(profile) if record.target]
        # The nearest key first among equal weights, then the first in the profile.
        order = sorted(answered, key=lambda position: (-scores[position], -attention[position]))
        return scored(profile, order[:k], scores)

    def _attention(self, profile: Profile, embedded: EmbeddedProfile) -> NDArray[np.float64]:
        """a_j of each record, 0 for one without a target.  # (records,)"""
        held = np.array([bool(record.target) for record in profile], dtype=bool)
        attention = np.zeros(len(held))
        if held.any():
            logits = embedded.similarities[held].astype(np.float64) / self.temperature
            powers = np.exp(logits - logits.max())
            attention[held] = powers / powers.sum()
        return attention


def _by_value(profile: Profile, attention: NDArray[np.float64]) -> dict[str, float]:
    """m(v) of each value."""
    weights: defaultdict[str, float] = defaultdict(float)
    for record, share in zip(profile, attention.tolist(), strict=True):
        if record.target:
            weights[record.target] += share
    return dict(weights)
