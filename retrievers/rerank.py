"""A second, closer look: a cross-encoder reads the query and each of the best records together.

A retriever compares what it knows of two texts separately; a cross-encoder lets every word of one see every word of
the other, at the price of one pass through a model for each pair. So a base retriever chooses `depth` records first
(Nogueira and Cho, arXiv 1901.04085).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.encoders.folder import encoder_folder
from persona.errors import InvalidOptionError, ModelLoadError, reason
from persona.protocols import Retriever
from persona.records import Profile, ScoredRecord

from .ranking import check_k, check_view, pairs

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
"""The model on the command line, if none is named."""

DEPTH = 64
"""How many records are read closely, if not told."""

_DIGITS = 5


class RerankRetriever:
    """Retrieves by a cross-encoder's scores, among the best of another retriever.

    A score is what `CrossEncoder.predict` says (0 to 1 for most models), rounded to 5 digits, so that a tie does not
    hang on the company in which a pair was read. Records with equal scores stand as the base has them. **At most
    `depth` records come back**, whatever `k` is: those behind were not read.

    Args:
        base: chooses the records to read.
        model: a folder, a hub id, or a loaded `CrossEncoder` with one label. No code of the model's is run.
        view: the view of a record that is read (`Record.view`).
        depth: at least 1.
        device: as torch knows it.

    Raises:
        ModelLoadError: if there is no such model; when it is first used, if it cannot be loaded.
        InvalidOptionError: if there is no such view, `depth` is below 1, or the model has several labels.
    """

    def __init__(
        self,
        base: Retriever,
        model: str | Path | CrossEncoder = RERANKER,
        view: str = "text",
        *,
        depth: int = DEPTH,
        device: str = "cpu",
    ) -> None:
        if depth < 1:
            raise InvalidOptionError(f"`depth` must be at least 1, was: {depth}")
        self.base = base
        self.view = check_view(view)
        self.depth = depth
        self._name = str(model) if isinstance(model, str | Path) else type(model).__name__
        self._folder = encoder_folder(model) if isinstance(model, str | Path) else None
        self._loaded: Any = None if isinstance(model, str | Path) else _one_label(model)
        self._device = device
        self._loading = threading.Lock()

    def __repr__(self) -> str:
        return f"RerankRetriever({self.base!r}, {self._name!r}, view={self.view!r}, depth={self.depth})"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """At most `k` records, those first that the cross-encoder finds most fitting.

        Raises:
            InvalidOptionError: if `k` is below 1.
        """
        return self.retrieve_batch([profile], [query], k)[0]

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair; different pairs of texts are read once, all in one call."""
        k = check_k(k)
        asked = pairs(profiles, queries)
        found = self.base.retrieve_batch(profiles, queries, self.depth)
        texts = [
            [(query, one.record.view(self.view)) for one in some] for (_, query), some in zip(asked, found, strict=True)
        ]
        different = list(dict.fromkeys(pair for some in texts for pair in some))
        scores = dict(zip(different, self._read(different), strict=True))
        results: list[tuple[ScoredRecord, ...]] = []
        for some, own in zip(found, texts, strict=True):
            order = sorted(range(len(some)), key=lambda place, own=own: -scores[own[place]])  # type: ignore[misc]
            results.append(tuple(ScoredRecord(some[place].record, scores[own[place]]) for place in order[:k]))
        return results

    def _read(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        if not texts:
            return []
        plain = [[side.encode(errors="replace").decode() for side in pair] for pair in texts]
        scores = np.asarray(self._model().predict(plain, show_progress_bar=False), dtype=np.float64).reshape(-1)
        if not np.isfinite(scores).all():
            raise ModelLoadError(f"the cross-encoder {self._name} computes nan or infinity")
        return [float(one) for one in np.round(scores, _DIGITS)]

    def _model(self) -> Any:
        with self._loading:
            if self._loaded is None:
                assert self._folder is not None
                self._loaded = _one_label(_load(self._folder, self._device))
            return self._loaded


def _one_label(model: CrossEncoder) -> CrossEncoder:
    if model.num_labels != 1:
        raise InvalidOptionError(f"a cross-encoder that ranks must have one label, was: {model.num_labels}")
    return model


def _load(folder: Path, device: str) -> CrossEncoder:
    import torch
    from sentence_transformers import CrossEncoder

    from persona.encoders.loading import quiet_loading

    try:
        with quiet_loading():
            model: CrossEncoder = CrossEncoder(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
            return model
    except Exception as error:  # on files that they cannot use transformers and its parts raise whatever they like
        raise ModelLoadError(f"the cross-encoder in {folder} cannot be loaded: {reason(error)}") from error
