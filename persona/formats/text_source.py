"""A UTF-8 text file, plain or gzipped, read from start to end; all that can be wrong with it is one error.

The bytes decide whether a file is gzipped, not its name.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from os import PathLike, fspath
from types import TracebackType

from persona.errors import DataFormatError

BLOCK = 1 << 20
"""Bytes read at a time."""
MAX_LINE = 1 << 26
"""Longest line of a file of lines, in characters; a longer one is no line and would fill the memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class TextSource:
    """The text of a file, in blocks or lines. A context manager; `close` it otherwise.

    Args:
        path: the file. A UTF-8 byte order mark is dropped.

    Attributes:
        path: as given.
        start: the beginning of the text, without white space: what it looks like before it is read.

    Raises:
        DataFormatError: here and while reading, if the file is missing, a folder, unreadable, empty, not
            UTF-8, an HTML page, or a gzip file that is broken or ends early.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = fspath(path)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._lines_decoded = 0
        self._ended = False
        try:
            self._raw: BufferedIOBase = open(self.path, "rb")  # noqa: SIM115 (closed by `close`)
            magic = self._raw.read(len(_GZIP_MAGIC))
            self._raw.seek(0)
        except (OSError, ValueError) as error:
            raise DataFormatError(f"the file cannot be read: {_reason(error)}", source=self.path) from None
        if self.path.endswith(".gz") and magic and magic != _GZIP_MAGIC:
            self._raw.close()
            raise DataFormatError("the file is named .gz and is no gzip file: rename it", source=self.path)
        self._file: BufferedIOBase = gzip.GzipFile(fileobj=self._raw) if magic == _GZIP_MAGIC else self._raw
        try:
            self._first = self._checked_first()
        except DataFormatError:
            self.close()
            raise
        self.start = self._first.lstrip()[:1000]

    def __enter__(self) -> TextSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def blocks(self) -> Iterator[str]:
        """The text in pieces of about `BLOCK` bytes, none of them empty. Can be gone through once."""
        block, self._first = self._first, ""
        while block:
            yield block
            block = self._read()

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines that are not blank, with their numbers from 1. Only a line feed ends a line.

        Raises:
            DataFormatError: if a line is longer than `MAX_LINE`.
        """
        number = 1
        unfinished: list[str] = []
        length = 0
        for block in self.blocks():
            *finished, rest = block.split("\n")
            if finished:
                finished[0] = "".join((*unfinished, finished[0]))
                unfinished, length = [], 0
                for line in finished:
                    if line and not line.isspace():
                        yield number, line
                    number += 1
            unfinished.append(rest)
            length += len(rest)
            if length > MAX_LINE:
                raise self.error(f"a line must have at most {MAX_LINE} characters: is this JSON lines?", number)
        line = "".join(unfinished)
        if line and not line.isspace():
            yield number, line

    def error(self, message: str, line: int | None = None, column: int | None = None) -> DataFormatError:
        """A `DataFormatError` that names the file and the place in it."""
        place = None if line is None else f"line {line}" + (f", column {column}" if column is not None else "")
        return DataFormatError(message, source=self.path, place=place)

    def _checked_first(self) -> str:
        first = self._read().removeprefix("\ufeff")
        while not first.strip():  # white space alone says nothing yet
            more = self._read()
            if not more:
                raise self.error("the file is empty")
            if len(first) > MAX_LINE:
                raise self.error(f"the file begins with {MAX_LINE} blanks and more: is it the right one?")
            first += more
        if first.lstrip().startswith("<"):
            raise self.error(
                "an HTML page stands where JSON should: the download went wrong (LaMP's server answers a "
                "wrong path with a page and status 200); download the file again"
            )
        return first

    def _read(self) -> str:
        """The next block of text; empty at the end of the file only."""
        text = ""
        while not text and not self._ended:
            try:
                data = self._file.read(BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise self._gzip_error(error) from None
            except OSError as error:
                raise self.error(f"the file cannot be read: {_reason(error)}") from None
            self._ended = not data
            text = self._decode(data)
        if "\x00" in text:
            line = self._lines_decoded + text.count("\n", 0, text.index("\x00")) + 1
            raise self.error("the file must be UTF-8 text and holds NUL bytes: is it UTF-16, or no text?", line)
        self._lines_decoded += text.count("\n")
        return text

    def _decode(self, data: bytes) -> str:
        if not self._lines_decoded:
            for mark, encoding in _BYTE_ORDER_MARKS.items():
                if data.startswith(mark):
                    raise self.error(f"the file must be UTF-8 and is {encoding}: convert it, e.g. with iconv")
        try:
            return self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            line = self._lines_decoded + before.count(b"\n") + 1
            byte = f"0x{error.object[error.start]:02x}"
            raise self.error(f"the file must be UTF-8, byte {byte} is not: convert it, e.g. with iconv", line) from None

    def _gzip_error(self, error: Exception) -> DataFormatError:
        after = f" (after line {self._lines_decoded})" if self._lines_decoded else ""
        if isinstance(error, EOFError):
            return self.error(f"the gzip file ends early{after}: download or copy it again")
        return self.error(f"the gzip file is broken{after}: {error}")


def _reason(error: OSError | ValueError) -> str:
    """The system's words, without number and path."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
