"""A closer reading: a cross-encoder reads the query and each of the best records together.

A retriever compares what it knows of two texts separately; a cross-encoder lets every word of one see every word of
the other, at the price of one pass through a model for each pair. So a base retriever chooses `depth` records first
(Nogueira and Cho, arXiv 1901.04085).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.errors import InvalidOptionError, ModelLoadError, check_least
from persona.protocols import Retriever
from persona.records import Profile, ScoredRecord

from ..base import ProfileRetriever, Ranking, check_view
from .own_model import LOADING, OwnModel, encodable, float32_weights

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
"""The default model, from the hub."""

_DIGITS = 5


class RerankRetriever(ProfileRetriever):
    """Retrieves by a cross-encoder's scores, among the best of another retriever.

    A score is what `CrossEncoder.predict` says (0 to 1 for most models), rounded to 5 digits, so that a tie does not
    hang on the batch in which a pair was read. Records with equal scores stand as the base has them. **At most
    `depth` records come back**, whatever `k` is: those behind were not read.

    Args:
        base: chooses the records to read.
        model: a folder, a hub id, or a loaded `CrossEncoder` with one label. No code of the model's is run.
        view: the view of a record that is read (`Record.view`).
        depth: at least 1.
        device: as torch knows it.

    Raises:
        ModelLoadError: if there is no such model; when it is first used, if it cannot be loaded.
        InvalidOptionError: if there is no such view, `depth` is below 1, or (when first used) the model has several
            labels.
    """

    def __init__(
        self,
        base: Retriever,
        model: str | Path | CrossEncoder = RERANKER,
        view: str = "text",
        *,
        depth: int = 64,
        device: str = "cpu",
    ) -> None:
        check_least(1, depth=depth)
        self.base = base
        self.view = check_view(view)
        self.depth = depth
        self.model = OwnModel(model, _load, device)

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """At most `k` records of each profile, the best by the cross-encoder first; all pairs are read in one call."""
        rankings = self.base.retrieve_batch(profiles, queries, self.depth)
        pairs = [
            [(query, ranked.record.view(self.view)) for ranked in ranking]
            for query, ranking in zip(queries, rankings, strict=True)
        ]
        different = list(dict.fromkeys(pair for own in pairs for pair in own))
        scores = dict(zip(different, self._read(different), strict=True))
        results = []
        for ranking, own in zip(rankings, pairs, strict=True):
            read = [ScoredRecord(ranked.record, scores[pair]) for ranked, pair in zip(ranking, own, strict=True)]
            results.append(tuple(sorted(read, key=lambda ranked: -ranked.score)[:k]))
        return results

    def _read(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        model: Any = self.model.get()
        if model.num_labels != 1:
            raise InvalidOptionError(f"a cross-encoder that ranks must have one label, was: {model.num_labels}")
        predicted = model.predict([encodable(pair) for pair in pairs], show_progress_bar=False)
        scores = np.asarray(predicted, dtype=np.float64).reshape(-1)
        if not np.isfinite(scores).all():
            raise ModelLoadError(f"the cross-encoder {self.model.name} computes nan or infinity")
        return [float(score) for score in np.round(scores, _DIGITS)]


def _load(folder: Path, device: str) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    model: CrossEncoder = CrossEncoder(str(folder), device=device, model_kwargs=float32_weights(), **LOADING)
    return model
