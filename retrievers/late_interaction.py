"""Late interaction: a text is many vectors, one for each token, and every token of the query finds its own match.

    score(query, record) = sum over the query's tokens q of max over the record's tokens r of q . r      (MaxSim)

(ColBERT, Khattab and Zaharia, SIGIR 2020). A single vector has to stand for all that a record says, and with many
facts in one text it cannot (Weller et al., arXiv 2508.21038; `persona.eval.limit` shows it); here nothing is averaged.
The price is memory: a record of 50 tokens of 128 numbers is 13 kB in float16 instead of one vector's 0.3.

Models are those of sentence-transformers' `MultiVectorEncoder`. A single-vector model's folder does too: its token
vectors are used as they are before pooling, which it was not trained for.

Token vectors are made from the text and kept in memory, those used last; nothing is stored.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona.encoders.folder import describe, encoder_folder
from persona.errors import InvalidOptionError, ModelLoadError, reason
from persona.records import Profile, ScoredRecord

from .cache import ByteBoundedCache
from .ranking import check_k, check_view, pairs, scored, view_texts

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

CACHE_BYTES = 256 * 2**20
"""How much of the records' token vectors is kept in memory, if not told."""

_DIGITS = 5
_BATCH = 16


class LateInteractionRetriever:
    """Retrieves the records with the greatest MaxSim.

    A score is the sum over the query's tokens, each -1 to 1 (for a model that says ``meanmaxsim``, their mean), rounded
    to 5 digits, so that a tie does not hang on the company in which a text was encoded. Records with equal scores stand
    in profile order. Safe to use from threads.

    Args:
        model: ``"minilm"``, a folder, a hub id, or a loaded `MultiVectorEncoder`. No code of the model's is run.
        view: the view of a record that is compared (`Record.view`).
        cache_bytes: how much is kept in memory; 0 encodes for each query anew.
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
        if cache_bytes < 0:
            raise InvalidOptionError(f"`cache_bytes` must be at least 0, was: {cache_bytes}")
        self.view = check_view(view)
        self._name = str(model) if isinstance(model, str | Path) else type(model).__name__
        self._folder = encoder_folder(model) if isinstance(model, str | Path) else None
        self._loaded: Any = None if isinstance(model, str | Path) else model
        self._device = device
        self._loading = threading.Lock()
        self._cache: ByteBoundedCache[NDArray[np.float16]] = ByteBoundedCache(cache_bytes)

    def __repr__(self) -> str:
        return f"LateInteractionRetriever({self._name!r}, view={self.view!r})"

    @property
    def fingerprint(self) -> str:
        """Names the model, if it came from a folder."""
        return f"mv:{self._name if self._folder is None else describe(self._folder)}:float32"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """The `k` records with the greatest MaxSim.

        Raises:
            InvalidOptionError: if `k` is below 1.
        """
        return self.retrieve_batch([profile], [query], k)[0]

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair. A profile object that stands several times in a row is read once."""
        k = check_k(k)
        asked = pairs(profiles, queries)
        wanted = list(dict.fromkeys(query for profile, query in asked if profile.records))
        tokens = dict(zip(wanted, self._encode(wanted, "query"), strict=True))
        results: list[tuple[ScoredRecord, ...]] = []
        read: Profile | None = None
        joined, starts = np.empty((0, 0), np.float32), np.empty(0, np.intp)
        for profile, query in asked:
            if not profile.records:
                results.append(())
                continue
            if profile is not read:
                rows = self._records(view_texts(profile, self.view))
                starts = np.cumsum([0, *map(len, rows[:-1])])
                joined, read = np.concatenate(rows).astype(np.float32), profile
            scores = self._scores(tokens[query].astype(np.float32), joined, starts)
            results.append(scored(profile, (-scores).argsort(kind="stable")[:k].tolist(), scores))
        return results

    def _scores(
        self, query: NDArray[np.float32], joined: NDArray[np.float32], starts: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """MaxSim of a query (tokens, dim) with records whose tokens stand one after the other.  # (records,)"""
        best = np.maximum.reduceat(query @ joined.T, starts, axis=1)
        totals = best.sum(0, dtype=np.float64)
        if str(self._model().similarity_fn_name) == "meanmaxsim":
            totals /= len(query)
        return np.asarray(np.round(totals, _DIGITS), dtype=np.float64)

    def _records(self, texts: Sequence[str]) -> list[NDArray[np.float16]]:
        keys = [hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest() for text in texts]
        known = {key: self._cache.get(key) for key in keys}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        made = self._encode(list(missing.values()), "document")
        for key, new in zip(missing, made, strict=True):
            known[key] = new
            self._cache.put(key, new, new.nbytes)
        return [matrix for key in keys if (matrix := known[key]) is not None]

    def _encode(self, texts: Sequence[str], side: str) -> list[NDArray[np.float16]]:
        """Token vectors of each text, float16.  # each (tokens, dim)"""
        if not texts:
            return []
        model = self._model()
        encode = model.encode_query if side == "query" else model.encode_document
        plain = [text.encode(errors="replace").decode() for text in texts]
        found = encode(plain, batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False)
        matrices = [np.asarray(one, dtype=np.float16) for one in found]
        # A model may skip punctuation, and with it all that a text has: such a text is like nothing.
        dim = next((one.shape[1] for one in matrices if len(one)), 1)
        return [one if len(one) else np.zeros((1, dim), np.float16) for one in matrices]

    def _model(self) -> Any:
        with self._loading:
            if self._loaded is None:
                assert self._folder is not None
                self._loaded = _load(self._folder, self._device)
            return self._loaded


def _load(folder: Path, device: str) -> MultiVectorEncoder:
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    from persona.encoders.loading import quiet_loading

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    # Left out, the type would be the stored one's, and the fingerprint says float32.
    weights: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
    try:
        with quiet_loading():
            if _is_multi_vector(folder):
                return MultiVectorEncoder(str(folder), device=device, model_kwargs=weights, **options).eval()
            # `MultiVectorEncoder(folder)` would put an untrained layer behind a single-vector model.
            transformer = Transformer(str(folder), model_kwargs={**weights, **options}, processor_kwargs=options)
            unit = Normalize(module_input_name="token_embeddings", module_output_name="token_embeddings")
            return MultiVectorEncoder(modules=[transformer, MultiVectorMask(), unit], device=device).eval()
    except Exception as error:  # on files that they cannot use transformers and its parts raise whatever they like
        raise ModelLoadError(f"the late-interaction model in {folder} cannot be loaded: {reason(error)}") from error


def _is_multi_vector(folder: Path) -> bool:
    if (folder / "artifact.metadata").is_file():  # a ColBERT of Stanford's, which has a layer behind the transformer
        return True
    path = folder / "config_sentence_transformers.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("model_type") == "MultiVectorEncoder")
    except (OSError, ValueError, AttributeError):
        return False
