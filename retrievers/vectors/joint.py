"""Records that are chosen as a set: together they should stand for all that the user has near the query.

A set S of records is worth

    F(S) = sum over the records j of  w_j max over i in S of cos(i, j),        w = softmax(cos(q, .) / temperature)

(cosines below 0 count as 0): each record near the query is represented by the one in S that is most like it. The next
record is the one with the greatest gain F(S + i) - F(S). OutfitTransformer (Sarkar et al., arXiv 2204.04812) learns a
score of a whole set beside a target token with a ranking loss over sets. Here the query is the target, and the score is
in closed form: F is monotone and submodular, so gains never rise, greedy choice has at least 1 - 1/e of the best set's
worth (Nemhauser, Wolsey and Fisher, 1978), and no LLM has to be asked about sets of records in training. With learned
spaces (`DualSpaces`) w is softmax(IN(q) . OUT(.)), and records are compared in OUT.

    w = 0.6, 0.4 of records with cos = 0.5      gains 0.6 + 0.4 * 0.5 = 0.8, then 0.4 * (1 - 0.5) = 0.2

Unlike in `diverse` nothing is subtracted: a record far from the query has no weight, however different it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persona.errors import check_positive
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors

from ..base import Ranking, scored
from ..usefulness.spaces import DualSpaces
from .record_vectors import EmbeddedProfile, VectorRetriever

TEMPERATURE = 0.05
"""The default. On 200 training users' questions about film tags an exact reader in the LLM's place answered as well
with it as with 0.03, and better than with 0.1 and 0.2."""

NEIGHBOURHOOD = 256
"""The records nearest to the query that a set is chosen from; the others follow, nearest first, with a gain of 0."""


class JointRetriever(VectorRetriever):
    """Retrieves the set of records that represents the neighbourhood of the query best.

    A score is the gain of the record when it was chosen, 0 to 1, never rising. Of equal gains the record nearer to the
    query comes first, then the first in the profile.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).
        model: spaces of usefulness, or their folder, in place of the encoder's own; their view goes before `view`.
        temperature: of the encoder's own space, above 0. A small one leaves the nearest record alone in the
            neighbourhood, a great one makes it the whole history.

    Raises:
        InvalidOptionError: if `temperature` is not above 0, or there is no such view.
        ModelLoadError: if the folder holds no spaces.
        FingerprintMismatchError: if they were learned on vectors of another encoder.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        store: HasVectors | None = None,
        view: str = "text",
        model: DualSpaces | str | Path | None = None,
        *,
        temperature: float = TEMPERATURE,
    ) -> None:
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.spaces = None if model is None else DualSpaces.of(model, encoder)
        super().__init__(encoder, store, view if self.spaces is None else self.spaces.view)

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """`k` records, each the best beside those before it."""
        logits = embedded.similarities.astype(np.float64) / self.temperature
        if self.spaces is not None:
            logits = self.spaces.scores(embedded.query, embedded.wide).astype(np.float64)
        order = np.argsort(-logits, kind="stable")
        near = order[:NEIGHBOURHOOD]
        weights = np.exp(logits[near] - logits[near[0]])
        compared = embedded.wide[near]
        alike = np.maximum(_cosines(compared if self.spaces is None else self.spaces.out(compared)), 0.0)
        chosen, gains = greedy(weights / weights.sum(), alike, min(k, len(near)))
        values = np.zeros(len(profile))
        values[near[chosen]] = gains
        return scored(profile, [*near[chosen].tolist(), *order[len(near) :].tolist()][:k], values)


def greedy(weights: NDArray[np.float64], alike: NDArray[np.float64], k: int) -> tuple[list[int], NDArray[np.float64]]:
    """Choose rows one by one for the greatest gain in F; of equal gains the first row's.

    Args:
        weights: of what is to be represented.  # (records,)
        alike: how well each record (row) represents each (column), at least 0.  # (records, records)
        k: how many, at most all.

    Returns:
        The rows, and the gain of each.  # (k,)
    """
    covered = np.zeros(len(weights))
    left = np.ones(len(weights), dtype=bool)
    chosen: list[int] = []
    gains = np.full(k, np.inf)
    for number in range(k):
        # Rounded, so that rows that are the same but for the order of sums are equal.
        gain = np.where(left, np.round(np.maximum(alike - covered, 0.0) @ weights, 12), -1.0)
        best = int(gain.argmax())
        gains[number] = min(gain[best], gains[number - 1])
        chosen.append(best)
        left[best] = False
        covered = np.maximum(covered, alike[best])
    return chosen, gains


def _cosines(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    # Of vectors in float16, whose squares do not sum to 1 exactly.
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = (vectors / lengths).astype(np.float64)
    return np.asarray(np.round(unit @ unit.T, 6), dtype=np.float64)
