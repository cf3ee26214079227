"""How far a compressed file may unpack: text and tables shrink to a twentieth or so, a file made to fill a disk to less
than a five-hundredth."""

from __future__ import annotations

import gzip
import os
from typing import IO, Any

from persona.errors import DataFormatError

RATIO = 300
"""A file may unpack to this many times its size ..."""
ALWAYS = 1 << 26
"""... or to this many bytes, whichever is more."""


class BoundedGzip(gzip.GzipFile):
    """An open gzip file that refuses to unpack for ever.

    Raises:
        DataFormatError: while reading, if it unpacks to more than `most_bytes` of its size.
    """

    def __init__(self, file: IO[bytes], path: str | os.PathLike[str]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._path, self._most = path, most_bytes(os.fstat(file.fileno()).st_size)

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        check_unpacked(self.tell(), self._most, self._path)
        return data

    def read(self, size: int | None = -1) -> Any:
        data = super().read(size)
        check_unpacked(self.tell(), self._most, self._path)
        return data


def most_bytes(size: int) -> int:
    """What a file of `size` bytes may unpack to, in bytes."""
    return max(RATIO * size, ALWAYS)


def check_unpacked(size: int, most: int, path: str | os.PathLike[str]) -> None:
    """Refuse more than `most` unpacked bytes of a file.

    Raises:
        DataFormatError: if there are more.
    """
    if size > most:
        raise DataFormatError(
            f"a compressed file may unpack to {RATIO} times its size, this one goes beyond ({most:,} bytes): "
            "unpack it yourself if it is what it should be",
            source=path,
        )
