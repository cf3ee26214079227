"""What a GGUF file says about its model, as the package `gguf` reads it.

That takes seconds, because the package makes an object of every token, so a file is read once for each conversion, for
transformers too (`read_once`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from persona.errors import ModelLoadError, needed, reason


@dataclass(frozen=True, slots=True, eq=False)
class GgufHeader:
    """What a GGUF file says about its model.

    Attributes:
        file: the file.
        reader: of the package `gguf`.
        tensors: of that package, by name.
    """

    file: Path
    reader: Any
    tensors: dict[str, Any]

    def entry(self, key: str) -> Any:
        """An entry; None if the file has none."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it, e.g. ``"llama"``."""
        return str(self.entry("general.architecture"))

    def own(self, key: str) -> Any:
        """An entry of the architecture's own, e.g. ``"rope.scaling.type"``; None if the file has none."""
        return self.entry(f"{self.architecture}.{key}")


@contextmanager
def read_once() -> Iterator[None]:
    """While this is open, a GGUF file is parsed once: transformers does it for each of its parts.

    Raises:
        MissingDependencyError: if `gguf` is not installed.
    """
    with needed("gguf"):
        import gguf
    with ExitStack() as patches:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patches.enter_context(patch.object(gguf, name, cache(getattr(gguf, name))))
        yield


def read_header(file: Path) -> GgufHeader:
    """The header of `file`.

    Raises:
        ModelLoadError: if it is no GGUF file, or one that was cut off.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(str(file))  # a string, as transformers asks for it
    except Exception as error:  # on files that it cannot read the package raises whatever it likes
        raise ModelLoadError(f"{file} is no whole GGUF file of version 2 or 3: {reason(error)}") from error
    header = GgufHeader(file, reader, {tensor.name: tensor for tensor in reader.tensors})
    if header.entry("general.architecture") is None:
        raise ModelLoadError(f"{file} names no `general.architecture`: it holds no language model")
    return header
