"""Relevance filters: they say which of a user's records have to do with a question, perhaps none.

A retriever ranks and always has k records to give; whether any of them has to do with the question is another matter.
What a cosine of 0.35 means depends on the question: a long review has that with any other review, "What is 17 * 3?"
with nothing. So the similarity s of a record is mapped by a function that depends on the query and rises with s:

    f(s; q) = sigmoid(a(q) s + b(q)),   a = softplus(.) > 0,   (a, b) from a small network that reads the query

and one threshold on f serves all queries (Cosine Adapter, Rossi et al., arXiv 2408.04887; here in its linear form).
`persona.retrievers.relevance.training` fits it. Since f rises with s, the order of the records is never changed. Of the
query the network reads the vector and the writing style (`persona.encoders.style`): what users ask of a task is worded
alike, and a sentence encoder throws that away.

**Untrained**, s is measured by what two texts that have nothing to do with one another have in this encoder's space:

    z = (s - mean) / std       mean and std over all pairs of some 120 general questions

so that one threshold fits encoders whose cosines differ (backgrounds of the query, of the record and of both told a
task's own questions from another's worse). At z >= 2.5 nine in ten questions of another domain find nothing there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.encoders.style import STYLE_DIM, style_vector
from persona.errors import InvalidOptionError, check_made_for
from persona.files import learned, save_learned
from persona.protocols import RecordEncoder
from persona.store.vectors import vector_fingerprint

from ..vectors.record_vectors import EmbeddedProfile
from .general import GENERAL_QUESTIONS

UNTRAINED = "untrained"
"""The name of the filter that needs no training."""

UNTRAINED_THRESHOLD = 2.5
"""The least z that passes by default."""

NAME = "relevance"
"""Of a filter's two files, ``relevance.safetensors`` and ``relevance.json``."""
_FORMAT = 2

_SHAPES = ("hidden.weight", "hidden.bias", "out.weight", "out.bias")


class RelevanceFilter(ABC):
    """Says which records have to do with a query.

    Attributes:
        threshold: records below it do not pass.
        fingerprint: of the vectors that it reads (`persona.store.vectors.vector_fingerprint`).
        view: the view of a record that it reads.
    """

    threshold: float
    fingerprint: str
    view: str

    @abstractmethod
    def scores(self, embedded: EmbeddedProfile) -> NDArray[np.float64]:
        """How relevant each record is; rises with its similarity to the query.  # (records,)"""

    def passes(self, embedded: EmbeddedProfile) -> NDArray[np.bool_]:
        """Which records are relevant.  # (records,)"""
        return self.scores(embedded) >= self.threshold


class UntrainedFilter(RelevanceFilter):
    """Passes what is nearer to the query than texts are that have nothing to do with one another.

    Args:
        encoder: makes the vectors.
        view: the view of a record that is compared.
        threshold: the least z that passes.
        background: at least 3 texts on different matters.

    Raises:
        InvalidOptionError: if there are fewer.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        view: str = "text",
        *,
        threshold: float = UNTRAINED_THRESHOLD,
        background: Sequence[str] = GENERAL_QUESTIONS,
    ) -> None:
        if len(background) < 3:
            raise InvalidOptionError(f"a background needs at least 3 texts, was: {len(background)}")
        self.threshold = threshold
        self.view = view
        self.fingerprint = vector_fingerprint(encoder, view)
        vectors = encoder.encode(list(background))
        similarities = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
        self._mean = float(similarities.mean())
        # An encoder that finds all texts alike, or all unlike, has no spread to measure by.
        self._spread = max(float(similarities.std()), 1e-6)

    def scores(self, embedded: EmbeddedProfile) -> NDArray[np.float64]:
        """z of each record."""
        return (embedded.similarities.astype(np.float64) - self._mean) / self._spread


class TrainedFilter(RelevanceFilter):
    """Passes what a small network that reads the query finds near enough to it.

    Args:
        weights: ``hidden.weight`` (width, dim + STYLE_DIM), ``hidden.bias`` (width,), ``out.weight`` (2, width),
            ``out.bias`` (2,); float32.
        threshold: within 0 and 1.
        fingerprint: of the vectors that it was trained on.
        view: the view of a record that it was trained on.
        notes: what else is known of the training, for `save`.

    Raises:
        InvalidOptionError: if the weights do not fit together or are not finite.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        threshold: float,
        fingerprint: str,
        view: str = "text",
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        shapes = [weights[name].shape if name in weights else None for name in _SHAPES]
        width, read = shapes[0] if shapes[0] and len(shapes[0]) == 2 else (0, 0)
        if width and read <= STYLE_DIM:
            raise InvalidOptionError(
                f"a filter reads a query's vector and its style, more than {STYLE_DIM} numbers, was: {read}"
            )
        if not width or shapes[1:] != [(width,), (2, width), (2,)]:
            raise InvalidOptionError(
                f"the weights of a filter must fit together, was: {dict(zip(_SHAPES, shapes, strict=True))}"
            )
        if not all(np.isfinite(weights[name]).all() for name in _SHAPES) or not np.isfinite(threshold):
            raise InvalidOptionError("the weights and the threshold of a filter must be finite")
        self.weights = {name: np.asarray(weights[name], dtype=np.float32) for name in _SHAPES}
        self.threshold = threshold
        self.fingerprint = fingerprint
        self.view = view
        self.notes = dict(notes or {})

    def line(self, read: NDArray[np.float32]) -> tuple[float, float]:
        """a(q), which is above 0, and b(q).

        Args:
            read: what `read_queries` makes of the query.  # (dim + STYLE_DIM,)
        """
        hidden = np.tanh(self.weights["hidden.weight"] @ read + self.weights["hidden.bias"])
        raw, offset = (self.weights["out.weight"] @ hidden + self.weights["out.bias"]).astype(np.float64)
        return float(np.logaddexp(0.0, raw)), float(offset)

    def scores(self, embedded: EmbeddedProfile) -> NDArray[np.float64]:
        """f(s; q) of each record, 0 to 1."""
        slope, offset = self.line(read_queries(embedded.query[None], [embedded.text])[0])
        return np.asarray(_sigmoid(slope * embedded.similarities.astype(np.float64) + offset), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write ``relevance.safetensors`` and ``relevance.json`` into `folder`, which is made if it is not there."""
        config = {
            "format": _FORMAT,
            "encoder": self.fingerprint,
            "view": self.view,
            "threshold": self.threshold,
            "training": self.notes,
        }
        save_learned(folder, NAME, self.weights, config)

    @classmethod
    def load(cls, folder: Path) -> TrainedFilter:
        """Read what `save` wrote.

        Raises:
            ModelLoadError: if `folder` holds no filter, or one of another format.
        """
        hint = f"relevance filter: make one with `persona train filter`, or use {UNTRAINED!r}"
        with learned(folder, NAME, _FORMAT, hint) as (weights, config):
            return cls(weights, float(config["threshold"]), config["encoder"], config["view"], config["training"])


def read_queries(vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
    """What a `TrainedFilter` reads of queries: their vectors and their styles.  # (queries, dim + STYLE_DIM)

    Args:
        vectors: float32.  # (queries, dim)
        texts: the queries.
    """
    return np.concatenate([vectors, np.stack([style_vector(text) for text in texts])], axis=1)


def load_filter(name: str | Path, encoder: RecordEncoder, *, threshold: float | None = None) -> RelevanceFilter:
    """The filter called `name`: ``"untrained"``, or a folder that `persona train filter` made.

    Args:
        name: which.
        encoder: makes the vectors of queries and records.
        threshold: in place of the filter's own.

    Raises:
        InvalidOptionError: if the name is empty.
        ModelLoadError: if the folder holds none.
        FingerprintMismatchError: if it was trained on vectors of another encoder.
    """
    if not str(name).strip():
        raise InvalidOptionError(f"a filter must be {UNTRAINED!r} or a folder, was: {str(name)!r}")
    if name == UNTRAINED:
        return UntrainedFilter(encoder, threshold=UNTRAINED_THRESHOLD if threshold is None else threshold)
    loaded = TrainedFilter.load(Path(name))
    check_fits(loaded, encoder)
    if threshold is not None:
        loaded.threshold = threshold
    return loaded


def check_fits(relevance: RelevanceFilter, encoder: RecordEncoder) -> None:
    """Refuse a filter of another encoder's vectors.

    Raises:
        FingerprintMismatchError: if it is one.
    """
    given, fix = vector_fingerprint(encoder, relevance.view), "name that encoder, or train a filter for this one"
    check_made_for("the relevance filter", relevance.fingerprint, given, fix)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)), dtype=np.float64)
