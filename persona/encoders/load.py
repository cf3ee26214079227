"""Record encoders by name.

>>> load_encoder("hashing:512")
HashingEncoder(dim=512)
>>> load_encoder("minilm")
SentenceTransformerEncoder('minilm')
"""

from __future__ import annotations

from pathlib import Path

from persona.encoders.hashing import HashingEncoder as HashingEncoder
from persona.encoders.sentence import DTYPES
from persona.encoders.sentence import SentenceTransformerEncoder as SentenceTransformerEncoder
from persona.errors import InvalidOptionError
from persona.protocols import RecordEncoder

HASHING = "hashing"


def load_encoder(
    name: str | Path,
    *,
    batch_tokens: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    like: str = "",
) -> RecordEncoder:
    """The encoder called `name`.

    Args:
        name: ``"minilm"``; ``"hashing"`` or ``"hashing:DIM"``, which needs no model; or the folder or hub id of a
            sentence-transformers model.
        batch_tokens: as the other options, see `SentenceTransformerEncoder`; the hashing encoder ignores them.
        like: fingerprint of an encoder. If it is this model in another dtype than ``"auto"`` takes on this machine, its
            dtype is taken, so that a user embedder from one machine works on another.

    Raises:
        ModelLoadError: if there is no such model.
        MissingDependencyError: if it is ``"minilm"`` and its package is not installed.
        InvalidOptionError: if `name` is neither a string nor a path, or an option is out of range.
    """
    if not isinstance(name, str | Path):
        raise InvalidOptionError(f"an encoder's name must be a string or a path, was: {name!r:.80}")
    kind, colon, dim = str(name).partition(":")
    if kind == HASHING:
        if colon and not (dim.isascii() and dim.isdigit()):
            raise InvalidOptionError(f"a hashing encoder is `hashing` or `hashing:DIM`, was: {str(name)!r}")
        return HashingEncoder(int(dim)) if colon else HashingEncoder()

    def load(dtype: str) -> SentenceTransformerEncoder:
        return SentenceTransformerEncoder(name, batch_tokens=batch_tokens, dtype=dtype, device=device, workers=workers)

    encoder = load(dtype)
    model, _, wanted = like.rpartition(":")
    if dtype == "auto" and wanted in DTYPES and encoder.fingerprint.rpartition(":")[0] == model:
        return load(wanted)
    return encoder
