"""Late interaction: a text is many vectors, one for each token, and every token of the query finds its own match.

    score(query, record) = sum over the query's tokens q of max over the record's tokens r of q . r      (MaxSim)

(ColBERT, Khattab and Zaharia, SIGIR 2020). A single vector has to stand for all that a record says, and with many
facts in one text it cannot (Weller et al., arXiv 2508.21038; ``examples/limit.py``). Here none is.
The price is memory: a record of 50 tokens of 128 numbers is 13 kB in float16 instead of one vector's 0.3.

Models are those of sentence-transformers' `MultiVectorEncoder`. A single-vector model's folder does too: its token
vectors are used as they are before pooling, which it was not trained for.

Token vectors are made from the text and kept in memory, those used last; nothing is stored.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.caches import TextCache, register
from persona.errors import check_least
from persona.records import Profile

from ..base import ProfileRetriever, Ranking, best_first, check_view, view_texts
from .own_model import LOADING, OwnModel, encodable, float32_weights

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

CACHE_BYTES = 256 * 2**20
"""How much of the records' token vectors is kept in memory by default."""

_DIGITS = 5
_BATCH = 16


class LateInteractionRetriever(ProfileRetriever):
    """Retrieves the records with the greatest MaxSim.

    A score is the sum over the query's tokens, each -1 to 1 (for a model that says ``meanmaxsim``, their mean), rounded
    to 5 digits, so that a tie does not hang on the batch in which a text was encoded. Records with equal scores stand
    in profile order. Safe to use from threads.

    Args:
        model: ``"minilm"``, a folder, a hub id, or a loaded `MultiVectorEncoder`. No code of the model's is run.
        view: the view of a record that is compared (`Record.view`).
        cache_bytes: how much is kept in memory, the last profile apart; 0 encodes for each query anew.
        device: as torch knows it.

    Raises:
        ModelLoadError: if there is no such model; when it is first used, if it cannot be loaded.
        MissingDependencyError: if it is ``"minilm"`` and the package is not installed.
        InvalidOptionError: if there is no such view, or `cache_bytes` is negative.
    """

    def __init__(
        self,
        model: str | Path | MultiVectorEncoder = "minilm",
        view: str = "text",
        *,
        cache_bytes: int = CACHE_BYTES,
        device: str = "cpu",
    ) -> None:
        check_least(0, cache_bytes=cache_bytes)
        self.view = check_view(view)
        self.model = OwnModel(model, _load, device, spare="pooler.")
        self._cache = _TokenVectors(cache_bytes)
        # To join and widen a profile's token vectors takes longer than to compare them with a query.
        self._joined = TextCache("joined token vectors of a profile", self._join, int(cache_bytes > 0))

    @property
    def fingerprint(self) -> str:
        """Names the model."""
        return f"mv:{self.model.fingerprint}:float32"

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """The `k` records of each profile with the greatest MaxSim; equal queries are encoded once."""
        different = list(dict.fromkeys(queries))
        tokens = dict(zip(different, self._encode(different, "query"), strict=True))
        return [
            best_first(profile, self._scores(tokens[query], self._joined(tuple(view_texts(profile, self.view)))), k)
            for profile, query in zip(profiles, queries, strict=True)
        ]

    def scores(self, profile: Profile, query: str) -> NDArray[np.float64]:
        """The MaxSim of every record of a profile that is not empty, in profile order.  # (records,)"""
        return self._scores(self._encode([query], "query")[0], self._joined(tuple(view_texts(profile, self.view))))

    def _scores(self, query: NDArray[np.float16], records: _Joined) -> NDArray[np.float64]:
        """MaxSim of a query (tokens, dim) with each of the records.  # (records,)"""
        best = np.maximum.reduceat(query.astype(np.float32) @ records.tokens.T, records.starts, axis=1)
        totals = best.sum(0, dtype=np.float64)
        if str(self.model.get().similarity_fn_name) == "meanmaxsim":
            totals /= len(query)
        return np.asarray(np.round(totals, _DIGITS), dtype=np.float64)

    def _join(self, texts: Sequence[str]) -> _Joined:
        """The token vectors of all texts."""
        records = self._records(texts)
        return _Joined(np.concatenate(records).astype(np.float32), np.cumsum([0, *map(len, records[:-1])]))

    def _records(self, texts: Sequence[str]) -> list[NDArray[np.float16]]:
        cached = {text: self._cache.get(text) for text in texts}
        known = {text: matrix for text, matrix in cached.items() if matrix is not None}
        missing = [text for text in cached if text not in known]
        for text, matrix in zip(missing, self._encode(missing, "document"), strict=True):
            known[text] = matrix
            self._cache.put(text, matrix)
        return [known[text] for text in texts]

    def _encode(self, texts: Sequence[str], side: str) -> list[NDArray[np.float16]]:
        """Token vectors of each text, float16.  # each (tokens, dim)"""
        if not texts:
            return []
        model = self.model.get()
        encode = model.encode_query if side == "query" else model.encode_document
        vectors = encode(encodable(texts), batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False)
        matrices = [np.asarray(matrix, dtype=np.float16) for matrix in vectors]
        # A model may skip punctuation, and with it all that a text has: such a text is like nothing.
        dim = next((matrix.shape[1] for matrix in matrices if len(matrix)), 1)
        return [matrix if len(matrix) else np.zeros((1, dim), np.float16) for matrix in matrices]


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """The token vectors of several texts, one after the other (tokens, dim), and where each begins (texts,)."""

    tokens: NDArray[np.float32]
    starts: NDArray[np.int64]


class _TokenVectors:
    """The token vectors of the texts used last, by text, bounded by their bytes. Safe to use from threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._matrices: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._lock = threading.Lock()
        register(self, "token vectors of records")

    def drop(self, user_id: str) -> int:
        """Drop the vectors of all texts, whosever they are; of how many."""
        with self._lock:
            dropped = len(self._matrices)
            self._matrices.clear()
            self.n_bytes = 0
        return dropped

    def get(self, text: str) -> NDArray[np.float16] | None:
        with self._lock:
            if text in self._matrices:
                self._matrices.move_to_end(text)
            return self._matrices.get(text)

    def put(self, text: str, matrix: NDArray[np.float16]) -> None:
        with self._lock:
            if text in self._matrices:
                return
            self._matrices[text] = matrix
            self.n_bytes += matrix.nbytes
            while self.n_bytes > self.max_bytes:
                self.n_bytes -= self._matrices.popitem(last=False)[1].nbytes


def _load(folder: Path, device: str) -> MultiVectorEncoder:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    weights = float32_weights()
    if _is_multi_vector(folder):
        return MultiVectorEncoder(str(folder), device=device, model_kwargs=weights, **LOADING).eval()
    # `MultiVectorEncoder(folder)` would put an untrained layer behind a single-vector model.
    transformer = Transformer(str(folder), model_kwargs={**weights, **LOADING}, processor_kwargs=LOADING)
    unit = Normalize(module_input_name="token_embeddings", module_output_name="token_embeddings")
    return MultiVectorEncoder(modules=[transformer, MultiVectorMask(), unit], device=device).eval()


def _is_multi_vector(folder: Path) -> bool:
    if (folder / "artifact.metadata").is_file():  # a ColBERT of Stanford's, which has a layer behind the transformer
        return True
    path = folder / "config_sentence_transformers.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("model_type") == "MultiVectorEncoder")
    except (OSError, ValueError, AttributeError):
        return False
