"""The beginning of a GGUF file: what model it holds, without its tensors and without its vocabulary.

A header is the magic bytes ``GGUF``, the version, the numbers of tensors and of entries; then the entries (a key, the
type of the value, the value); then a line for each tensor (name, shape, type, offset). After that, aligned, come the
numbers (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Reading it takes milliseconds; the package
`gguf` takes seconds, because it makes an object of every token.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from persona.errors import ModelLoadError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_FLOAT32 = 0
_ALIGNMENT = 32
_MOST_BYTES = 2**26
"""Of one key or text. Chat templates have some thousands."""

_MOST_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies.

    Attributes:
        shape: as torch has it, the fastest dimension last.
        kind: the number of its type.
        offset: of its first byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int:
        """How many numbers it stands for."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about its model.

    Attributes:
        file: the file.
        entries: those that are one number or one text, by key.
        tensors: by name.
    """

    file: Path
    entries: Mapping[str, object]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it, e.g. ``"llama"``."""
        return str(self.entries["general.architecture"])

    def own(self, key: str) -> object:
        """An entry of the architecture's own, e.g. ``"rope.scaling.type"``; None if the file has none."""
        return self.entries.get(f"{self.architecture}.{key}")

    def float32(self, name: str) -> tuple[float, ...]:
        """The numbers of a tensor that is stored in float32.

        Raises:
            ModelLoadError: if it is stored in another type.
        """
        tensor = self.tensors[name]
        if tensor.kind != _FLOAT32:
            raise ModelLoadError(f"{self.file}: the tensor {name} must be stored in float32")
        with self.file.open("rb") as stream:
            stream.seek(tensor.offset)
            return struct.unpack(f"<{tensor.size}f", stream.read(4 * tensor.size))


def read_header(file: Path) -> GgufHeader:
    """The header of `file`.

    Raises:
        ModelLoadError: if it is no GGUF file, or one that was cut off.
    """
    try:
        with file.open("rb") as stream:
            header = _header(stream, file)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ModelLoadError(f"{file} is cut off or damaged: its GGUF header cannot be read") from error
    except ModelLoadError:
        raise
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read: {error.strerror or error}") from error
    if not isinstance(header.entries.get("general.architecture"), str):
        raise ModelLoadError(f"{file} names no `general.architecture`: it holds no language model")
    return header


def _header(stream: BinaryIO, file: Path) -> GgufHeader:
    if stream.read(4) != _MAGIC:
        raise ModelLoadError(f"{file} is no GGUF file: it does not begin with {_MAGIC.decode()}")
    version, n_tensors, n_entries = struct.unpack("<IQQ", stream.read(20))
    if version not in _VERSIONS:
        raise ModelLoadError(f"{file} is of version {version} of GGUF, and only 2 and 3 are read: convert it anew")
    entries: dict[str, object] = {}
    for _ in range(n_entries):
        key = _text(stream)
        value = _value(stream, _integer(stream, "<I"))
        if value is not None:
            entries[key] = value
    lines = [_tensor(stream) for _ in range(n_tensors)]
    alignment = entries.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise struct.error(f"an alignment of {alignment}")
    start = -(-stream.tell() // alignment) * alignment
    tensors = {name: GgufTensor(each.shape, each.kind, start + each.offset) for name, each in lines}
    return GgufHeader(file, entries, tensors)


def _tensor(stream: BinaryIO) -> tuple[str, GgufTensor]:
    """A line of the table, its offset counted from the first number."""
    name, n_dimensions = _text(stream), _integer(stream, "<I")
    if n_dimensions > _MOST_DIMENSIONS:
        raise struct.error(f"a tensor of {n_dimensions} dimensions")
    shape = tuple(_integer(stream, "<Q") for _ in range(n_dimensions))
    return name, GgufTensor(shape[::-1], _integer(stream, "<I"), _integer(stream, "<Q"))


def _value(stream: BinaryIO, kind: int) -> object:
    """A number or a text; of an array only its end is looked for."""
    if kind == _TEXT:
        return _text(stream)
    if kind != _ARRAY:
        return struct.unpack(_format(kind), stream.read(struct.calcsize(_format(kind))))[0]
    inner, length = _integer(stream, "<I"), _integer(stream, "<Q")
    if inner == _TEXT:
        for _ in range(length):
            _text(stream)
    else:
        stream.seek(length * struct.calcsize(_format(inner)), 1)
    return None


def _integer(stream: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(form, stream.read(struct.calcsize(form)))
    return int(number)


def _text(stream: BinaryIO) -> str:
    length = _integer(stream, "<Q")
    data = stream.read(length) if length <= _MOST_BYTES else b""
    if len(data) < length:
        raise struct.error(f"a text of {length} bytes")
    return data.decode("utf-8")


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise struct.error(f"values of type {kind}")
    return _FORMATS[kind]
