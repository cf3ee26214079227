"""Which turns of long conversations a question is about: a weighted sum of five signals.

==============  ======================================================================================================
`tokens`        MaxSim of the turn, speaker and day included (`persona.retrievers.models.late_interaction`)
`words`         BM25+ of the turn with its neighbours, by the beginnings of words (`passages`)
`speaker`       1 where the question names who speaks, and not everybody who does
`length`        log of the turn's characters: short turns say little that is asked for
`conversation`  mean of the three best `tokens` in the turn's conversation: what is asked stands near to what fits
==============  ======================================================================================================

Each signal is centred over the profile; all but `speaker` are divided by their standard deviation, so that they have a
common scale (a sum of reciprocal ranks loses how far ahead the best is). The weights can be learned
(`examples/learned_weights.py`).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.records import Profile

from ..base import ProfileRetriever, Ranking, best_first
from ..models.late_interaction import CACHE_BYTES, LateInteractionRetriever
from ..words.tokens import words
from .passages import NEIGHBOURS, PassageRetriever, conversations

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

_BEST = 3
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight of each signal; the module says what they are.

    The defaults are round numbers. Weights that were learned from seven long conversations are near to them.
    """

    tokens: float = 1.0
    words: float = 1.0
    speaker: float = 2.0
    length: float = 0.5
    conversation: float = 0.5


class ConversationRetriever(ProfileRetriever):
    """Retrieves turns of conversations.

    A score is the weighted sum of the signals: 0 for the average record of the profile. Records with equal scores stand
    in profile order. Records that are no turns are ranked too, each for itself.

    Args:
        model: of the token vectors, as `LateInteractionRetriever` takes it.
        weights: of the signals.
        neighbours: how many turns before a turn, and after it, are searched with it.
        cache_bytes: how much of the turns' token vectors is kept in memory.
        device: as torch knows it.

    Raises:
        ModelLoadError: if there is no such model; when it is first used, if it cannot be loaded.
        MissingDependencyError: if it is ``"minilm"`` and the package is not installed.
        InvalidOptionError: if `neighbours` or `cache_bytes` is negative.
    """

    def __init__(
        self,
        model: str | Path | MultiVectorEncoder = "minilm",
        weights: Weights = Weights(),
        *,
        neighbours: int = NEIGHBOURS,
        cache_bytes: int = CACHE_BYTES,
        device: str = "cpu",
    ) -> None:
        self.weights = weights
        self.tokens = LateInteractionRetriever(model, "turn", cache_bytes=cache_bytes, device=device)
        self.passages = PassageRetriever(neighbours=neighbours)

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        """The `k` records with the greatest weighted sums."""
        scores = self.signals(profile, query) @ np.array(astuple(self.weights))
        return best_first(profile, np.round(scores, _DIGITS), k)

    def signals(self, profile: Profile, query: str) -> NDArray[np.float64]:
        """The signals of every record of a profile that is not empty, in the order of `Weights`.  # (records, 5)"""
        tokens = _scaled(self.tokens.scores(profile, query))
        best = np.empty(len(profile))
        for own in conversations(profile):
            best[own] = np.sort(tokens[own])[-_BEST:].mean()
        passages = self.passages.scores(profile, query)
        lengths = np.log([len(record.text) for record in profile])
        speaker = _named(profile, query)
        return np.stack([tokens, _scaled(passages), speaker - speaker.mean(), _scaled(lengths), _scaled(best)], axis=1)


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """With mean 0 and standard deviation 1; zeros where all are equal."""
    centred = values - values.mean()
    deviation = float(values.std())
    return centred / deviation if deviation > 1e-9 else np.zeros(len(values))


def _named(profile: Profile, query: str) -> NDArray[np.float64]:
    """1 for records whose speaker's name has a word that the query has.  # (records,)"""
    asked = set(words(query))
    names = {record.speaker: not asked.isdisjoint(words(record.speaker or "")) for record in profile}
    return np.array([names[record.speaker] for record in profile], dtype=np.float64)
