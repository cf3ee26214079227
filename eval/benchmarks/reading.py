"""Values of foreign JSON, each with its place, so that an error says where a file is wrong.

>>> Part({"qa": [{"question": 7}]}, "locomo10.json")["qa"].parts[0]["question"].text
Traceback (most recent call last):
    ...
persona.errors.DataFormatError: locomo10.json, qa 0, question: a string must stand here, was: 7 (int)
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NoReturn

from persona.errors import DataFormatError, InvalidUserIdError
from persona.formats.fields import described, listed, short_text
from persona.formats.parquet import parquet_rows
from persona.formats.text_files import open_text, parse_json, read_lines
from persona.records import Record, unstorable

ENDINGS = (".json", ".jsonl", ".parquet")
"""Of tables as benchmarks are published: the same rows as JSON, JSON lines or Parquet."""


@dataclass(frozen=True, slots=True)
class Part:
    """A value of a file.

    Attributes:
        value: as JSON has it.
        source: the file.
        place: where in it, e.g. ``"qa 3, question"``; empty for the whole.
    """

    value: Any
    source: str
    place: str = ""

    def __getitem__(self, key: str) -> Part:
        """The value of a key.

        Raises:
            DataFormatError: if this is no object, or has no such key.
        """
        if key not in self.mapping:
            self.refuse(f"`{key}` must stand here, there is: {listed(self.mapping)}")
        return self._inner(key, self.mapping[key])

    def get(self, key: str) -> Part | None:
        """The value of a key; None if there is none, or it is null."""
        value = self.mapping.get(key)
        return None if value is None else self._inner(key, value)

    @property
    def mapping(self) -> Mapping[str, Any]:
        """This as an object."""
        if not isinstance(self.value, Mapping):
            self.refuse(f"an object must stand here, was: {described(self.value)}")
        return self.value

    @property
    def items(self) -> Iterator[tuple[str, Part]]:
        """Keys and values of this as an object."""
        return ((key, self._inner(key, value)) for key, value in self.mapping.items())

    @property
    def parts(self) -> list[Part]:
        """The elements of this as a list."""
        if not isinstance(self.value, list):
            self.refuse(f"a list must stand here, was: {described(self.value)}")
        before, _, last = self.place.rpartition(", ")
        return [
            Part(each, self.source, ", ".join(filter(None, (before, f"{last} {index}".strip()))))
            for index, each in enumerate(self.value)
        ]

    @property
    def text(self) -> str:
        """This as a string that a database can store; it may be empty."""
        if not isinstance(self.value, str):
            self.refuse(f"a string must stand here, was: {described(self.value)}")
        if flaw := unstorable(self.value):
            self.refuse(f"the text must not hold {flaw}: remove it")
        return self.value

    @property
    def filled(self) -> str:
        """This as a string that is not blank."""
        if not self.text.strip():
            self.refuse("the text must not be empty")
        return self.text

    @property
    def short(self) -> str:
        """This as a string, or a number as its digits."""
        with self.located():
            return short_text(self.value, "the value")

    @property
    def number(self) -> int:
        """This as a whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.refuse(f"a whole number must stand here, was: {described(self.value)}")
        return self.value

    def moment(self, form: str, like: str) -> str:
        """This as a time of that form (`datetime.strptime`), in ISO 8601.

        Args:
            form: as `strptime` takes it.
            like: a time of that form, for the error.
        """
        try:
            return datetime.strptime(self.text.strip(), form).isoformat(timespec="seconds")
        except ValueError:
            self.refuse(f"a time must be like {like!r}, was: {self.text!r:.80}")

    @property
    def json(self) -> Part:
        """What the JSON in this string says."""
        with self.located():
            return Part(parse_json(self.text), self.source, self.place)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Let an error about data or user ids in the block say that it is here."""
        try:
            yield
        except (DataFormatError, InvalidUserIdError) as error:
            if isinstance(error, DataFormatError) and error.source is not None:
                raise
            self.refuse(str(error))

    def refuse(self, why: str) -> NoReturn:
        """Raise a `DataFormatError` that names this place."""
        raise DataFormatError(why, source=self.source, place=self.place or None)

    def _inner(self, name: str, value: Any) -> Part:
        return Part(value, self.source, f"{self.place}, {name}" if self.place else f"{name:.80}")


def read_json(path: str | PathLike[str]) -> Part:
    """A JSON file, which may be gzipped.

    Raises:
        DataFormatError: if it cannot be read.
    """
    with open_text(path) as text:
        whole = Part(None, fspath(path))
        with whole.located():
            return Part(parse_json(text.read()), fspath(path))


def read_json_lines(path: str | PathLike[str]) -> Iterator[Part]:
    """The lines of a JSON lines file.

    Raises:
        DataFormatError: if it cannot be read.
    """
    for number, line in read_lines(path):
        place = Part(None, fspath(path), f"line {number}")
        with place.located():
            yield Part(parse_json(line), fspath(path), f"line {number}")


def read_table(path: str | PathLike[str]) -> Iterator[Part]:
    """The rows of a CSV file with a header, as objects of strings; comment lines may stand before the header.

    Raises:
        DataFormatError: if it cannot be read, or a row has another number of cells than the header.
    """
    previous = csv.field_size_limit(2**31 - 1)  # a cell may hold a conversation
    try:
        with open_text(path) as text:
            rows, header = csv.reader(text, strict=True), list[str]()
            try:
                for row in rows:
                    place = Part(None, fspath(path), f"line {rows.line_num}")
                    if not row or (not header and row[0].startswith("#")):
                        continue
                    if header and len(row) != len(header):
                        place.refuse(f"a row must have {len(header)} cells as the header has, has {len(row)}")
                    if header:
                        yield Part(dict(zip(header, row, strict=True)), place.source, place.place)
                    header = header or row
            except csv.Error as error:
                Part(None, fspath(path), f"line {rows.line_num}").refuse(f"broken CSV: {error}")
    finally:
        csv.field_size_limit(previous)


def files_in(path: Path, pattern: str) -> list[Path]:
    """The files of a folder that fit a pattern, by name.

    Raises:
        DataFormatError: if there is none.
    """
    found = sorted(path.glob(pattern))
    if not found:
        raise DataFormatError(f"the folder must hold {pattern}, holds none", source=fspath(path))
    return found


def table_rows(path: str | PathLike[str]) -> Iterator[Part]:
    """The rows of a file, each an object with its place.

    Raises:
        DataFormatError: if the file has another ending than `ENDINGS`, or cannot be read.
    """
    ending = Path(path).suffix
    if ending == ".json":
        yield from read_json(path).parts
    elif ending == ".jsonl":
        yield from read_json_lines(path)
    elif ending == ".parquet":
        rows = parquet_rows(fspath(path), check=lambda names: None)
        yield from (Part(row, fspath(path), f"row {number}") for number, row in enumerate(rows))
    else:
        raise DataFormatError(f"a table must end in {', '.join(ENDINGS)}, was: {ending!r}", source=fspath(path))


def table_files(path: str | PathLike[str], name: str) -> list[Path]:
    """The files of a table: `path` itself, or the files in that folder whose name is `name`, or begins with it.

    Several parts of a table (``test-00000-of-00002.parquet``) come in order.

    Raises:
        DataFormatError: if there is none, or the same table lies there in two forms.
    """
    place = Path(path)
    if not place.is_dir():
        return [place]
    found = sorted(
        each
        for each in place.rglob(f"{name}*")
        if each.suffix in ENDINGS and each.name.removeprefix(name)[:1] in (".", "-", "_")
    )
    if not found:
        there = listed(sorted(each.name for each in place.iterdir()))
        raise DataFormatError(f"the folder must hold {name}.json, .jsonl or .parquet, holds: {there}", source=place)
    if len({each.suffix for each in found}) > 1:
        names = listed(each.name for each in found)
        raise DataFormatError(f"a table must lie there in one form, {name} lies there as {names}", source=place)
    return found


def turns_of(messages: Iterable[Part], name: str, *, time: str | None = None) -> list[Record]:
    """Messages ``{"role": ..., "content": ...}`` as records, those without text left out.

    Args:
        messages: of one conversation, oldest first.
        name: of the conversation; the ids of its records begin with it.
        time: when it was.

    Raises:
        DataFormatError: if something is no message.
    """
    records = []
    for number, message in enumerate(messages):
        role, text = message["role"].filled, message["content"].text
        if text.strip():
            with message.located():
                about = {"conversation": name}
                records.append(Record(text, time=time, id=f"{name}:{number}", role=role, metadata=about))
    return records


def said(name: str, number: int, role: str, text: Part, *, time: str | None = None) -> Record:
    """One turn as a record."""
    with text.located():
        return Record(text.filled, time=time, id=f"{name}:{number}", role=role, metadata={"conversation": name})
