"""JSON from files that may be large and may be broken: one value, or the elements of an array one at a time.

`JsonArray` never holds more than one element and a block of text, so that a LaMP split of a gigabyte can be
read on any machine, and it knows the line of everything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from persona.errors import DataFormatError
from persona.formats.fields import listed
from persona.formats.text_source import TextSource

MAX_ELEMENT = 1 << 28
"""Longest element of an array, in characters."""

_NEAR = 20
"""What is wrong so near to the end of the text read so far may be right in the text that follows."""


def _integer(digits: str) -> int:
    if len(digits) > 400:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in fields if names.count(name) > 1)!r:.80} comes twice")
    return fields


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant, object_pairs_hook=_fields)


def parse_line(source: TextSource, number: int, line: str) -> object:
    """The JSON value of one line of `source`.

    Raises:
        DataFormatError: if it is broken, nested too deeply, or holds NaN or a number out of all bounds.
    """
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise source.error(f"broken JSON: {error.msg}", number, error.colno) from None
    except ValueError as error:
        raise source.error(f"broken JSON: {error}", number) from None
    except RecursionError:
        raise source.error("the JSON is nested too deeply", number) from None


class JsonArray:
    """The elements of a JSON array: of ``[...]``, or of the array `key` in ``{"task": ..., key: [...]}``.

    Iterate once over (line of the element, element).

    Attributes:
        header: the other fields of the object; complete when the iteration has ended.

    Raises:
        DataFormatError: while iterating, as for `parse_line`; and if the file holds something else.
    """

    def __init__(self, source: TextSource, key: str) -> None:
        self.header: dict[str, object] = {}
        self._source = source
        self._key = key
        self._blocks = source.blocks()
        self._text = ""
        self._at = 0
        self._counted, self._line, self._column = 0, 1, 1  # a place in `_text` and its line and column

    def __iter__(self) -> Iterator[tuple[int, object]]:
        first = self._next_character()
        if first not in ("[", "{"):
            raise self._error(f"broken JSON: the file must begin with [ or {{, begins with {first!r}")
        yield from self._array() if first == "[" else self._object()
        if self._next_character():
            raise self._error("broken JSON: there is more after the end; JSON lines must be named .jsonl")

    def _object(self) -> Iterator[tuple[int, object]]:
        found = False
        for _ in self._members("{", "}"):
            key = self._value()
            if not isinstance(key, str):
                raise self._error("broken JSON: a field's name must be a string")
            self._take(":")
            if key == self._key:
                found = True
                yield from self._array()
            else:
                self.header[key] = self._value()
        if not found:
            has = listed(self.header)
            raise self._source.error(f"the file must be a list or have a list `{self._key}`, has: {has}")

    def _array(self) -> Iterator[tuple[int, object]]:
        for _ in self._members("[", "]"):
            self._next_character()
            self._count()
            yield self._line, self._value()

    def _members(self, opening: str, closing: str) -> Iterator[None]:
        """Stop at the beginning of each member between two brackets; the caller takes the member."""
        self._take(opening)
        if self._next_character() == closing:
            self._at += 1
            return
        while True:
            yield
            if self._next_character() == closing:
                self._at += 1
                return
            self._take(",")

    def _take(self, character: str) -> None:
        if self._next_character() != character:
            raise self._error(f"broken JSON: Expecting '{character}'")
        self._at += 1

    def _next_character(self) -> str:
        """The next character that is not white space, which is not taken; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if (character := self._text[self._at]) not in " \t\r\n":
                    return character
                self._at += 1
            if not self._read_on():
                return ""

    def _value(self) -> object:
        self._next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A value that goes on in the next block looks broken at its cut, or like an endless string.
                unended = error.msg.startswith("Unterminated string")
                cut = unended or error.pos > len(self._text) - _NEAR
                if cut and self._read_on():
                    continue
                raise self._error(f"broken JSON: {error.msg}", error.pos) from None
            except ValueError as error:
                raise self._error(f"broken JSON: {error}") from None
            except RecursionError:
                raise self._error("the JSON is nested too deeply") from None
            if end > len(self._text) - _NEAR and self._read_on():
                continue  # the digits of a number may go on
            self._at = end
            return value

    def _read_on(self) -> bool:
        """Drop what is taken and at least double what is left, so that long elements are not parsed often."""
        if not (block := next(self._blocks, "")):
            return False
        self._count()
        rest = self._text[self._at :]
        if len(rest) > MAX_ELEMENT:
            raise self._error(f"an element must have at most {MAX_ELEMENT} characters")
        pieces = [rest, block]
        while sum(map(len, pieces)) <= 2 * len(rest) and (block := next(self._blocks, "")):
            pieces.append(block)
        self._text, self._at, self._counted = "".join(pieces), 0, 0
        return True

    def _count(self) -> None:
        """Count lines and columns up to the next character."""
        self._line, self._column = self._position(self._at)
        self._counted = self._at

    def _position(self, at: int) -> tuple[int, int]:
        """Line and column, from 1, of the character `at`, which must not lie before what is counted."""
        lines = self._text.count("\n", self._counted, at)
        if lines:
            return self._line + lines, at - self._text.rindex("\n", self._counted, at)
        return self._line, self._column + at - self._counted

    def _error(self, message: str, at: int | None = None) -> DataFormatError:
        return self._source.error(message, *self._position(self._at if at is None else at))
