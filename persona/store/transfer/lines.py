"""The lines of an export: JSON, one thing a line, plain or gzipped.

    {"persona_export": 1, "persona": "0.2.0"}
    {"family": {"key": "3f2a...", "name": "...", "prior": null}}
    {"user": {"id": "ana", "changes": 4}}
    {"record": {"id": "r1", "text": "Moody and stylish.", "target": "5", "time": "2004-10-14"}}
    {"index": {"kind": "summary:free", "behind": 0, "text": "{...}"}}
    {"adapter": {"family": "3f2a...", "version": 2, "state": "published", "behind": 1, ..., "base64": "..."}}
    {"end": {"users": 1, "records": 1, "indexes": 1, "adapters": 1}}

Records, indexes and adapters belong to the user above them. Revisions are numbers of one store, so a file says how many
changes an index or an adapter is `behind` its user's records, and since how many `changes` of the user nothing was
deleted. Without the last line, or with other numbers in it, a file is not whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from persona.errors import DataFormatError, PersonaError
from persona.formats.fields import described, plain_text
from persona.formats.text_files import parse_json, read_lines
from persona.records import Record, check_size, check_user_id
from persona.store.vectors import check_name
from persona.version import __version__

VERSION = 1
STATES = ("published", "prior", "old", "withdrawn")
"""States of adapters (`persona.adapters.versions`)."""
_LONGEST = 1 << 30
"""Longest line, in characters: that of an adapter of some hundred megabytes."""


@dataclass(frozen=True, slots=True)
class ExportedFamily:
    """What adapters lie over, as in the table of families."""

    key: str
    name: str
    prior: bytes | None


@dataclass(frozen=True, slots=True)
class ExportedIndex:
    """A summary, a soft prompt or another index, made `behind` changes before the user's records are as they are."""

    kind: str
    behind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ExportedAdapter:
    """A version of an adapter, as in the table of adapters; `metrics` is JSON."""

    family: str
    version: int
    state: str
    behind: int
    sha256: str | None
    created: str
    metrics: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class ExportedUser:
    """All of one user.

    Attributes:
        user_id: the id.
        changes: of the user's records since something was deleted.
        records: in the order of the profile.
        indexes: by kind.
        adapters: by family and version.
    """

    user_id: str
    changes: int
    records: tuple[Record, ...] = ()
    indexes: tuple[ExportedIndex, ...] = ()
    adapters: tuple[ExportedAdapter, ...] = ()


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


def first_line() -> str:
    """The line that an export begins with."""
    return _line({"persona_export": VERSION, "persona": __version__})


def last_line(counts: Counts) -> str:
    """The line that it ends with."""
    return _line({"end": asdict(counts)})


def family_line(family: ExportedFamily) -> str:
    """The line of a family."""
    prior = None if family.prior is None else base64.b64encode(family.prior).decode()
    return _line({"family": {"key": family.key, "name": family.name, "prior": prior}})


def user_lines(user: ExportedUser) -> Iterator[str]:
    """The lines of a user."""
    yield _line({"user": {"id": user.user_id, "changes": user.changes}})
    for record in user.records:
        given = {each.name: getattr(record, each.name) for each in fields(Record)}
        given["metadata"] = dict(record.metadata) or None
        yield _line({"record": {name: value for name, value in given.items() if value is not None}})
    for index in user.indexes:
        yield _line({"index": {"kind": index.kind, "behind": index.behind, **_written(index.data)}})
    for adapter in user.adapters:
        given = {each.name: getattr(adapter, each.name) for each in fields(ExportedAdapter) if each.name != "data"}
        data = {} if adapter.data is None else {"base64": base64.b64encode(adapter.data).decode()}
        yield _line({"adapter": {**given, "metrics": json.loads(adapter.metrics), **data}})


def read_export(path: Path, *, max_characters: int) -> Iterator[ExportedFamily | ExportedUser]:
    """The families and users in an export, checked line by line.

    Args:
        path: the file.
        max_characters: longest record.

    Raises:
        DataFormatError: if it is no export, one of a later version, broken, or not whole. What came before has been
            yielded by then.
    """
    counts, reader, ended = Counts(), _Reader(max_characters), False
    for number, line in read_lines(path, longest=_LONGEST):
        try:
            if ended:
                raise DataFormatError("nothing may follow the line `end`")
            value = _object(parse_json(line), "a line")
            if number == 1:
                _check_first(value)
                continue
            ((what, content),) = value.items()
            done = reader.read(what, _object(content, f"`{what}`"))
            if isinstance(done, ExportedUser):
                counts.add(done)
            ended = what == "end"
            if ended and content != asdict(counts):
                raise DataFormatError(f"the file is not whole: it holds {asdict(counts)}, and should hold {content}")
        except (ValueError, TypeError, KeyError) as error:
            known = isinstance(error, PersonaError)
            message = str(error) if known else f"the line is broken ({type(error).__name__}: {error})"
            raise DataFormatError(message, source=path, place=f"line {number}") from None
        if done is not None:
            yield done
    if not ended:
        raise DataFormatError("the file ends early: export or copy it again", source=path)


class _Reader:
    """Puts the lines of a user together."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._families: set[str] = set()
        self._user: tuple[str, int] | None = None
        self._records: list[Record] = []
        self._indexes: list[ExportedIndex] = []
        self._adapters: list[ExportedAdapter] = []

    def read(self, what: str, value: Mapping[str, Any]) -> ExportedFamily | ExportedUser | None:
        """Take one line; the family in it, or the user that it ends."""
        if what == "family":
            family = _family(value)
            self._families.add(family.key)
            return family
        if what in ("user", "end"):
            done = self._done()
            self._user = None if what == "end" else (check_user_id(value["id"]), _number(value["changes"]))
            return done
        if self._user is None:
            raise DataFormatError(f"`{what}` must follow a user")
        if what == "record":
            self._records.append(Record(**value))
            check_size(self._records[-1], self._max_characters)
        elif what == "index":
            data = value["text"].encode() if "text" in value else _bytes(value["base64"])
            check_name(value["kind"], "an index's kind")
            self._indexes.append(ExportedIndex(value["kind"], _number(value["behind"]), data))
        elif what == "adapter":
            self._adapters.append(_adapter(value))
            if value["family"] not in self._families:
                raise DataFormatError("an adapter must follow its family")
        else:
            raise DataFormatError(f"a line is of a family, user, record, index or adapter, was: {what!r:.80}")
        return None

    def _done(self) -> ExportedUser | None:
        if self._user is None:
            return None
        if len({(each.family, each.version) for each in self._adapters}) != len(self._adapters):
            raise DataFormatError(f"two adapters of {self._user[0]!r:.80} have one version")
        done = ExportedUser(*self._user, tuple(self._records), tuple(self._indexes), tuple(self._adapters))
        self._records, self._indexes, self._adapters = [], [], []
        return done


def _check_first(value: Mapping[str, Any]) -> None:
    version = value.get("persona_export")
    if not isinstance(version, int):
        raise DataFormatError("the file is no export of `persona export`: histories are read by `persona ingest`")
    if version > VERSION:
        raise DataFormatError(
            f"the export has version {version}, this persona knows versions up to {VERSION}: "
            "pip install --upgrade persona-llm"
        )


def _family(value: Mapping[str, Any]) -> ExportedFamily:
    prior = None if value["prior"] is None else _bytes(value["prior"])
    family = ExportedFamily(plain_text(value["key"], "key"), plain_text(value["name"], "name"), prior)
    if hashlib.sha256(family.name.encode()).hexdigest() != family.key:
        raise DataFormatError("a family's key must be the SHA-256 of its name")
    return family


def _adapter(value: Mapping[str, Any]) -> ExportedAdapter:
    data = _bytes(value["base64"]) if "base64" in value else None
    if (None if data is None else hashlib.sha256(data).hexdigest()) != value["sha256"]:
        raise DataFormatError("the numbers of an adapter must have its SHA-256: the file is damaged")
    if value["state"] not in STATES:
        raise DataFormatError(
            f"the state of an adapter must be one of {', '.join(STATES)}, was: {value['state']!r:.80}"
        )
    return ExportedAdapter(
        family=plain_text(value["family"], "family"),
        version=_number(value["version"]),
        state=value["state"],
        behind=_number(value["behind"]),
        sha256=value["sha256"],
        created=plain_text(value["created"], "created"),
        metrics=json.dumps({str(name): float(number) for name, number in value["metrics"].items()}),
        data=data,
    )


def _line(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _written(data: bytes) -> dict[str, str]:
    with suppress(UnicodeDecodeError):
        return {"text": data.decode()}
    return {"base64": base64.b64encode(data).decode()}


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataFormatError(f"{what} must be a JSON object, was: {described(value)}")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise DataFormatError(f"a number must be whole and not negative, was: {described(value)}")
    return value


def _bytes(value: str) -> bytes:
    return base64.b64decode(value, validate=True)
