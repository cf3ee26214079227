"""The lines of an export: JSON, a user a line, plain or gzipped.

    {"persona_export": 2, "persona": "0.2.0"}
    {"family": {"key": "3f2a...", "name": "...", "prior": "..."}}
    {"user": {"user_id": "ana", "changes": 4, "records": [{"id": "r1", "text": "Moody and stylish.", "target": "5"}],
              "indexes": [{"kind": "summary:free", "behind": 0, "text": "{...}"}],
              "adapters": [{"family": "3f2a...", "version": 2, "state": "published", "behind": 1, ...}]}}
    {"end": {"users": 1, "records": 1, "indexes": 1, "adapters": 1}}

What is no text is in base64. Revisions are numbers of one store, so a file says how many changes an index or an adapter
is `behind` its user's records, and since how many `changes` of the user nothing was deleted. Without the last line, or
with other numbers in it, a file is not whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from persona.errors import DataFormatError, located
from persona.formats.fields import plain_text
from persona.formats.text_files import read_lines
from persona.records import Record, check_size, check_user_id
from persona.store.vectors import check_name
from persona.version import __version__

VERSION = 2
_LONGEST = 1 << 32
"""Longest line, in characters: that of a user with adapters of some hundred megabytes each."""


def _record(given: Any) -> Record:
    return given if isinstance(given, Record) else Record(**given)


def _fields_of(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.as_dict().items() if value not in (None, {})}


_Number = Annotated[int, Field(ge=0, lt=1 << 53)]
_Text = Annotated[str, AfterValidator(lambda text: plain_text(text, "a text"))]


class _Model(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="constants",  # a loss may be none
    )


class ExportedFamily(_Model):
    """What adapters lie over, as in the table of families."""

    key: str
    name: _Text
    prior: bytes | None = None

    @model_validator(mode="after")
    def _is_named(self) -> ExportedFamily:
        if hashlib.sha256(self.name.encode()).hexdigest() != self.key:
            raise ValueError("a family's key must be the SHA-256 of its name")
        return self


class ExportedIndex(_Model):
    """A summary, a soft prompt or another index, made `behind` changes before the user's records are as they are."""

    kind: Annotated[str, AfterValidator(lambda kind: check_name(kind, "an index's kind"))]
    behind: _Number
    text: str | None = None
    binary: bytes = b""

    @classmethod
    def of(cls, kind: str, behind: int, data: bytes) -> ExportedIndex:
        """With its data as text, where they are."""
        try:
            return cls(kind=kind, behind=behind, text=data.decode())
        except UnicodeDecodeError:
            return cls(kind=kind, behind=behind, binary=data)

    @property
    def data(self) -> bytes:
        """As the store has it."""
        return self.binary if self.text is None else self.text.encode()


class ExportedAdapter(_Model):
    """A version of an adapter, as in the table of adapters; the states are those of `persona.adapters.versions`."""

    family: str
    version: _Number
    state: Literal["published", "prior", "old", "withdrawn"]
    behind: _Number
    sha256: str | None = None
    created: _Text
    metrics: dict[str, float]
    data: bytes | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> ExportedAdapter:
        if self.sha256 != (None if self.data is None else hashlib.sha256(self.data).hexdigest()):
            raise ValueError("the numbers of an adapter must have its SHA-256: the file is damaged")
        return self


class ExportedUser(_Model):
    """All of one user: records in the order of the profile, indexes by kind, adapters by family and version."""

    user_id: Annotated[str, AfterValidator(check_user_id)]
    changes: _Number
    records: tuple[Annotated[Record, PlainValidator(_record), PlainSerializer(_fields_of)], ...] = ()
    indexes: tuple[ExportedIndex, ...] = ()
    adapters: tuple[ExportedAdapter, ...] = ()

    @model_validator(mode="after")
    def _versions_differ(self) -> ExportedUser:
        if len({(each.family, each.version) for each in self.adapters}) != len(self.adapters):
            raise ValueError(f"two adapters of {self.user_id!r:.80} have one version")
        return self


@dataclass(slots=True)
class Counts:
    """How much an export holds."""

    users: int = 0
    records: int = 0
    indexes: int = 0
    adapters: int = 0

    def add(self, user: ExportedUser) -> None:
        """Count a user."""
        self.users += 1
        self.records += len(user.records)
        self.indexes += len(user.indexes)
        self.adapters += len(user.adapters)


class Line(_Model):
    """A line, which holds one of these; the first says the version of the form and of persona."""

    persona_export: int | None = None
    persona: str | None = None
    family: ExportedFamily | None = None
    user: ExportedUser | None = None
    end: Counts | None = None

    def written(self) -> str:
        """The line with its end."""
        return self.model_dump_json(exclude_none=True) + "\n"


def first_line() -> Line:
    """The line that an export begins with."""
    return Line(persona_export=VERSION, persona=__version__)


def read_export(path: Path, *, max_characters: int) -> Iterator[ExportedFamily | ExportedUser]:
    """The families and users in an export, checked line by line.

    Args:
        path: the file.
        max_characters: longest record.

    Raises:
        DataFormatError: if it is no export, one of another version, broken, or not whole. What came before has been
            yielded by then.
    """
    counts, families, ended = Counts(), set[str](), False
    for number, text in read_lines(path, longest=_LONGEST):
        with located(path, f"line {number}"):
            if number == 1:
                _check_first(text)
            line = _parsed(text)
            if number == 1:
                continue
            if ended:
                raise DataFormatError("nothing may follow the line `end`")
            elif line.family is not None:
                families.add(line.family.key)
            elif line.user is not None:
                _check_user(line.user, families, max_characters)
                counts.add(line.user)
            elif line.end is None:
                raise DataFormatError("a line must hold a family, a user or the end, holds none")
            elif line.end != counts:
                raise DataFormatError(f"the file is not whole: it holds {counts}, and should hold {line.end}")
            else:
                ended = True
        if (done := line.family or line.user) is not None:
            yield done
    if not ended:
        raise DataFormatError("the file ends early: export or copy it again", source=path)


def _parsed(text: str) -> Line:
    try:
        return Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise DataFormatError(f"{place}: {message}" if place else message) from None
    except TypeError as error:  # of a record
        raise DataFormatError(f"the line is broken: {error}") from None


def _check_first(text: str) -> None:
    version = re.match(r'\{"persona_export": ?(\d+)', text)
    if version is None:
        raise DataFormatError("the file is no export of `persona export`: histories are read by `persona ingest`")
    if int(version[1]) != VERSION:
        raise DataFormatError(
            f"the export has version {version[1]}, this persona reads version {VERSION}: pip install --upgrade "
            "persona-llm, or export it with this one"
        )


def _check_user(user: ExportedUser, families: set[str], max_characters: int) -> None:
    for record in user.records:
        check_size(record, max_characters)
    if any(each.family not in families for each in user.adapters):
        raise DataFormatError("an adapter must follow its family")
