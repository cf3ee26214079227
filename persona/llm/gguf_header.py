"""The beginning of a GGUF file: what model it holds, without its tensors and without its vocabulary.

A header is the magic bytes ``GGUF``, the version, the numbers of tensors and of entries, then the entries: a key, the
type of the value, the value (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Reading one takes
milliseconds; the package `gguf` takes seconds, because it makes an object of every token.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from persona.errors import ModelLoadError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_MOST_BYTES = 2**26
"""Of one key or text. Chat templates have some thousands."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about its model.

    Attributes:
        architecture: as llama.cpp calls it, e.g. ``"llama"``.
        parts: how many files the model is split into.
    """

    architecture: str
    parts: int


def read_header(file: Path) -> GgufHeader:
    """The header of `file`.

    Raises:
        ModelLoadError: if it is no GGUF file, or one that was cut off.
    """
    try:
        with file.open("rb") as stream:
            entries = _entries(stream, file)
    except (struct.error, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{file} is cut off or damaged: its GGUF header cannot be read") from error
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read: {error.strerror or error}") from error
    architecture, parts = entries.get("general.architecture"), entries.get("split.count", 1)
    if not isinstance(architecture, str):
        raise ModelLoadError(f"{file} names no `general.architecture`: it holds no language model")
    return GgufHeader(architecture, parts if isinstance(parts, int) else 1)


def _entries(stream: BinaryIO, file: Path) -> dict[str, object]:
    """The entries that are one number or one text."""
    if stream.read(4) != _MAGIC:
        raise ModelLoadError(f"{file} is no GGUF file: it does not begin with {_MAGIC.decode()}")
    version, _, count = struct.unpack("<IQQ", stream.read(20))
    if version not in _VERSIONS:
        raise ModelLoadError(f"{file} is of version {version} of GGUF, and only 2 and 3 are read: convert it anew")
    entries: dict[str, object] = {}
    for _ in range(count):
        key = _text(stream)
        (kind,) = struct.unpack("<I", stream.read(4))
        value = _value(stream, kind)
        if value is not None:
            entries[key] = value
    return entries


def _value(stream: BinaryIO, kind: int) -> object:
    if kind == _TEXT:
        return _text(stream)
    if kind != _ARRAY:
        return _number(stream, kind)
    inner, length = struct.unpack("<IQ", stream.read(12))
    if inner == _TEXT:
        for _ in range(length):
            _text(stream)
    else:
        stream.seek(length * struct.calcsize(_format(inner)), 1)
    return None


def _number(stream: BinaryIO, kind: int) -> object:
    form = _format(kind)
    return struct.unpack(form, stream.read(struct.calcsize(form)))[0]


def _text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    data = stream.read(length) if length <= _MOST_BYTES else b""
    if len(data) < length:
        raise struct.error(f"a text of {length} bytes")
    return data.decode("utf-8")


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise struct.error(f"values of type {kind}")
    return _FORMATS[kind]
