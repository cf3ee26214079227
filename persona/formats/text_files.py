"""UTF-8 text files, plain or gzipped, read a piece at a time: their lines, or the elements of a JSON array.

LaMP's splits are arrays of up to some gigabytes, so `read_elements` never holds more than one element and a block of
text. (`ijson` reads them as fast, but replaces lone surrogates without a word, and its memory grows with the square of
the depth of a file that is broken.)
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from os import PathLike
from typing import IO, TextIO, cast

from persona.errors import DataFormatError, located
from persona.formats.archives import open_member
from persona.formats.unpacking import BoundedGzip

BLOCK = 1 << 20
"""Characters of a JSON array read at a time."""
MAX_LINE = 1 << 26
"""Longest line, in characters: a longer one is no line and would fill the memory."""
MAX_ELEMENT = 1 << 28
"""Longest element of an array, in characters."""
MAX_BLANK = 1 << 20
"""Most blanks and empty lines in a row, in characters: more are no text, and might go on for hours."""

_GZIP_MAGIC = b"\x1f\x8b"
_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_END = object()
_TOO_DEEP = "the JSON is nested too deeply"
_TOO_LONG = f"there may be {MAX_BLANK:,} characters, there are more: is this the right file?"
_TOO_BLANK = f"there may be {MAX_BLANK:,} blanks or empty lines in a row, there are more: is this the right file?"


@contextmanager
def open_text(path: str | PathLike[str], member: str | None = None) -> Iterator[TextIO]:
    """The text of a file, or of a `member` of a ZIP archive; a byte order mark is dropped.

    The bytes decide whether a file is gzipped, not its name.

    Raises:
        DataFormatError: here and while reading, if the file is missing, a folder, unreadable, empty, not UTF-8, an
            HTML page, or a gzip file that is broken, ends early, or unpacks to far more than its size.
    """
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(_opened(path) if member is None else open_member(path, member))
            with TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as text:
                _check_beginning(text, path)
                yield text
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise DataFormatError(
            f"the file must be UTF-8 text, byte {byte} is not: convert it, e.g. with iconv", source=path
        ) from None
    except EOFError:
        raise DataFormatError("the gzip file ends early: download or copy it again", source=path) from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataFormatError(f"the gzip file is broken: {error}", source=path) from None
    except OSError as error:
        raise DataFormatError(f"the file cannot be read: {_reason(error)}", source=path) from None


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzipped."""
    try:
        file: IO[bytes] = open(path, "rb")  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:
        raise DataFormatError(f"the file cannot be read: {_reason(error)}", source=path) from None
    with file:
        magic = file.read(len(_GZIP_MAGIC))
        file.seek(0)
        yield cast("IO[bytes]", BoundedGzip(file, path)) if magic == _GZIP_MAGIC else file


def read_lines(path: str | PathLike[str], *, longest: int | None = None) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without their ends, with their numbers from 1. Only a line feed ends a line.

    Args:
        path: the file.
        longest: a line must have fewer characters; None for `MAX_LINE`.

    Raises:
        DataFormatError: as `open_text`; and if a line is too long, or `MAX_BLANK` characters in a row are blank.
    """
    longest = longest or MAX_LINE
    with open_text(path) as text:
        number = blank = 0
        while line := text.readline(longest):
            number += 1
            if len(line) == longest:
                message = f"a line must have less than {longest} characters: is this JSON lines?"
                raise DataFormatError(message, source=path, place=f"line {number}")
            if not line.isspace():
                blank = 0
                yield number, line.rstrip("\r\n")
            elif (blank := blank + len(line)) > MAX_BLANK:
                raise DataFormatError(_TOO_BLANK, source=path, place=f"line {number}")


def read_elements(path: str | PathLike[str], key: str, member: str | None = None) -> Iterator[object]:
    """The elements of a JSON array: of ``[...]``, or of the array `key` in ``{"task": "LaMP_6", key: [...]}``.

    Args:
        path: the file.
        key: as above.
        member: the file in it, if it is a ZIP archive.

    Raises:
        DataFormatError: as `open_text`; and if the file holds something else, is broken JSON or nested too deeply, or
            an element is longer than `MAX_ELEMENT`.
    """
    with open_text(path, member) as text:
        buffer = text.read(BLOCK)
        opening = re.match(rf'\s*(\{{\s*("\w+"\s*:\s*"[^"\\]*"\s*,\s*)*"{key}"\s*:\s*)?\[', buffer)
        if opening is None:
            message = f"the file must be a JSON list or an object with a list `{key}`, begins with"
            raise DataFormatError(f"{message} {buffer.lstrip()[:40]!r}", source=path)
        at, index = opening.end(), 0
        while True:
            flaw = None
            try:
                element, end = _next_element(buffer, at, first=index == 0)
            except RecursionError:
                raise DataFormatError(_TOO_DEEP, source=path, place=f"element {index}") from None
            except ValueError as error:
                element, end, flaw = None, len(buffer), getattr(error, "msg", error)
            # What is cut off at the end of the buffer looks broken or, if it is a number like 1e-5, like a shorter one.
            if len(buffer) - end <= 2:
                if len(buffer) - len(buffer.rstrip()) > MAX_BLANK:
                    flaw = _TOO_BLANK
                elif len(buffer) - at > MAX_ELEMENT:
                    flaw = f"an element must have at most {MAX_ELEMENT} characters"
                elif more := text.read(max(BLOCK, len(buffer) - at)):  # doubled: no element is parsed often
                    buffer, at = buffer[at:] + more, 0
                    continue
            if flaw is not None:
                raise DataFormatError(f"broken JSON: {flaw}", source=path, place=f"element {index}")
            if element is _END:
                break
            yield element
            at, index = end, index + 1
        rest = buffer[end:] + text.read(MAX_BLANK)
        with located(path, "after the list"):
            if text.read(1):
                raise DataFormatError(_TOO_LONG)
            parse_json(f'{{"": []{rest}' if opening[1] else f"[]{rest}")


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        DataFormatError: if it is broken or nested too deeply.
    """
    try:
        return _DECODER.decode(text)
    except ValueError as error:
        raise DataFormatError(f"broken JSON: {error}") from None
    except RecursionError:
        raise DataFormatError(_TOO_DEEP) from None


def _next_element(buffer: str, at: int, *, first: bool) -> tuple[object, int]:
    """The element behind `at` and where it ends; `_END` for the bracket that ends the array."""
    at = _skip_blanks(buffer, at)
    if buffer[at : at + 1] == "]":
        return _END, at + 1
    if not first:
        if buffer[at : at + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", buffer, at)
        at = _skip_blanks(buffer, at + 1)
    return _DECODER.raw_decode(buffer, at)


def _skip_blanks(buffer: str, at: int) -> int:
    blanks = _BLANKS.match(buffer, at)
    return at if blanks is None else blanks.end()


def _check_beginning(text: TextIO, path: str | PathLike[str]) -> None:
    blank = 0
    while (beginning := text.read(1000)) and beginning.isspace():
        blank += len(beginning)
        if blank > MAX_BLANK:
            raise DataFormatError(_TOO_BLANK, source=path)
    if not beginning:
        raise DataFormatError("the file is empty", source=path)
    if beginning.lstrip().startswith("<"):
        raise DataFormatError(
            "the file is an HTML page: the download went wrong (LaMP's server answers a wrong path with a page and "
            "status 200); download it again",
            source=path,
        )
    text.seek(0)


def _reason(error: OSError | ValueError) -> str:
    """The system's words, without number and path."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
