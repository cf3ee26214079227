"""A record is one item of a user's history; a profile is all records of one user.

>>> review = Record("Moody and stylish, and McQueen is cool as ever.", target="5", time="2004-10-14")
>>> profile = Profile.from_records("critic-7", [review])
>>> len(profile), profile[0].target
(1, '5')
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from json.encoder import encode_basestring as _json_string
from types import MappingProxyType
from typing import Any

from persona.errors import DataFormatError, InvalidUserIdError

MAX_ID_LENGTH = 512
"""Longest user id and record id, in characters."""

MAX_CHARACTERS = 1_000_000
"""Longest record that is read from a file, in characters, unless another limit is given."""

VIEWS = ("text", "target", "target+text", "title+text", "turn")
"""The views of a record that can be embedded or indexed; see `Record.view`."""

SYNTHETIC = "persona:synthetic"
"""The field of a record's metadata that says that an LLM wrote it (`examples/synthetic_records.py`), and which one."""

_OPTIONAL = ("target", "time", "role", "speaker", "expires")
_MOMENT = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?)?)?)?", re.ASCII)
_DAY = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", re.ASCII)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a user's history.

    Attributes:
        text: the input side: what the user read, reviewed or wrote. Non-empty.
        target: what the user made of it (a score, a tag, a title), or None for plain text.
        time: ISO 8601, as precise as the source was: ``"2011"``, ``"2013-09"``, ``"2013-09-03"`` or a full date and
            time. Such strings sort in time order. None if unknown.
        id: unique within the user, at most 512 characters. Left empty, it becomes `content_hash`, so that the same
            content given twice is one record.
        metadata: further string fields (e.g. ``{"title": ...}`` of a news article whose target is its category).
        role: who spoke, as chats call it (``"user"``, ``"assistant"``); None if unknown or not speech.
        speaker: the speaker's name, or None.
        expires: when the record ceases to hold, ISO 8601 as `time`, in UTC; None for never. A day or a year ends it
            where that begins. A store gives the record out until then and removes it afterwards.

    Raises:
        DataFormatError: if `text` is empty or blank, a field has the wrong type, `id` is too long, `expires` is no
            such time, or a field holds what no database can store (`unstorable`).
    """

    text: str
    target: str | None = None
    time: str | None = None
    id: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_METADATA, hash=False)
    role: str | None = None
    speaker: str | None = None
    expires: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "id", *_OPTIONAL):
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not isinstance(value, str) or "\x00" in value or not value.isascii():  # a profile has thousands
                _check_string(name, value)
        if not self.text.strip():
            raise DataFormatError("a record's `text` must not be empty: leave the record out or give it text")
        if len(self.id) > MAX_ID_LENGTH:
            raise DataFormatError(f"a record's `id` must have at most {MAX_ID_LENGTH} characters, was: {len(self.id)}")
        if self.expires is not None and not _MOMENT.fullmatch(self.expires):
            raise DataFormatError(
                "a record's `expires` must be like '2027', '2027-01-31' or '2027-01-31T10:30:00+00:00' (UTC), "
                f"was: {self.expires!r:.80}"
            )
        if self.metadata is not _NO_METADATA:
            if not isinstance(self.metadata, Mapping):
                raise DataFormatError(
                    f"a record's metadata must be a mapping of strings, was: {self.metadata!r:.80} "
                    f"({type(self.metadata).__name__})"
                )
            for key, value in self.metadata.items():
                _check_string("metadata key", key)
                _check_string(f"metadata {key!r}", value)
            # Copied even if it is read-only: the mapping behind it may still change.
            object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        if not self.id:
            object.__setattr__(self, "id", self.content_hash)

    @property
    def content_hash(self) -> str:
        """BLAKE2b-128 of everything but the id, 32 hexadecimal digits.

        Ids and the staleness of vectors depend on it, so it must not change for content that a store may hold: the
        fields that version 0.2 added enter it only if they are set.
        """
        # json.dumps([text, target, time, sorted metadata]), assembled by hand in half the time: hashing is a sixth of
        # an ingest.
        metadata = ""
        if self.metadata:
            pairs = (f"[{_json_string(key)},{_json_string(value)}]" for key, value in sorted(self.metadata.items()))
            metadata = ",".join(pairs)
        content = f"{_json_string(self.text)},{_json(self.target)},{_json(self.time)},[{metadata}]"
        if self.role is not None or self.speaker is not None or self.expires is not None:
            content += f",{_json(self.role)},{_json(self.speaker)},{_json(self.expires)}"
        return hashlib.blake2b(f"[{content}]".encode(), digest_size=16).hexdigest()

    @property
    def written(self) -> str:
        """What the user wrote: the target, or the text where there is none, or a blank one."""
        return self.target if self.target is not None and self.target.strip() else self.text

    def view(self, name: str) -> str:
        """The record as one string, its first million characters (`MAX_CHARACTERS`): what is sought and embedded.

        Args:
            name: ``"text"``; ``"target"``, empty without one; ``"target+text"``, the target, a blank and the text (the
                text alone without a target); ``"title+text"``, the same with ``metadata["title"]``; or ``"turn"``, who
                spoke when: ``Ana, 8 May 2023: Hello.`` (of speaker or role and day, what is known).

        Raises:
            ValueError: if there is no view of that name.
        """
        if name == "text":
            view = self.text
        elif name == "target":
            view = self.target or ""
        elif name == "target+text":
            view = f"{self.target} {self.text}" if self.target is not None else self.text
        elif name == "title+text":
            title = self.metadata.get("title")
            view = f"{title} {self.text}" if title is not None else self.text
        elif name == "turn":
            said = ", ".join(part for part in (self.speaker or self.role, _day(self.time)) if part)
            view = f"{said}: {self.text}" if said else self.text
        else:
            raise ValueError(f"a view must be one of {', '.join(VIEWS)}, was: {name!r}")
        return view[:MAX_CHARACTERS]

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "metadata": dict(self.metadata)}

    def __reduce__(self) -> tuple[object, ...]:
        metadata = dict(self.metadata)  # a mapping proxy cannot be pickled
        return Record, (self.text, self.target, self.time, self.id, metadata, self.role, self.speaker, self.expires)


@dataclass(frozen=True, slots=True)
class Profile:
    """All records of one user, in the order given.

    Attributes:
        user_id: see `check_user_id`.
        records: oldest first where it comes from a store or `from_records`. May be empty (a cold start is no error).
        revision: grows with every change of the user's records in the store; 0 outside a store.
    """

    user_id: str
    records: tuple[Record, ...] = ()
    revision: int = 0

    def __post_init__(self) -> None:
        check_user_id(self.user_id)

    @classmethod
    def from_records(cls, user_id: str, records: Iterable[Record]) -> Profile:
        """A profile with `records` put oldest first; undated ones come first, equal times keep their order.

        Raises:
            InvalidUserIdError: if `user_id` is not a legal id.
            DataFormatError: if something is no `Record`.
        """
        return cls(user_id, tuple(sorted(records, key=_time)))

    def as_of(self, time: str) -> Profile:
        """The profile as it was known at `time`: its undated records, and those up to it (`known_at`).

        Where something is left out, the revision is 0: what was made from all records must not pass for this.

        Args:
            time: ISO 8601, as in `Record.time`.
        """
        known = tuple(record for record in self.records if known_at(record.time, time))
        return self if len(known) == len(self.records) else Profile(self.user_id, known)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


@dataclass(frozen=True, slots=True)
class ScoredRecord:
    """A record that a retriever chose, with its score (higher is better; the scale is the retriever's own)."""

    record: Record
    score: float

    def as_dict(self) -> dict[str, str | float | None]:
        """What of it a reader is shown, ready for JSON."""
        record = self.record
        shown = {"id": record.id, "time": record.time, "target": record.target, "text": record.text}
        return {**shown, "score": self.score}


def known_at(time: str | None, moment: str) -> bool:
    """Whether what is dated `time` was there at `moment`, both ISO 8601; what is undated always was.

    They are compared as far as `moment` goes, ``"2013"`` being the whole year; what is dated ``"2013"`` was there from
    its first day on.
    """
    return time is None or time[: len(moment)] <= moment


def check_user_id(user_id: object) -> str:
    """Return `user_id` if it is legal: any string of 1 to 512 characters without NUL or lone surrogates.

    Raises:
        InvalidUserIdError: otherwise. There is no default user.
    """
    if not isinstance(user_id, str):
        raise InvalidUserIdError(f"a user id must be a string, was: {user_id!r} ({type(user_id).__name__})")
    if not user_id:
        raise InvalidUserIdError("a user id must not be empty: there is no default user, name one")
    if len(user_id) > MAX_ID_LENGTH:
        raise InvalidUserIdError(f"a user id must have at most {MAX_ID_LENGTH} characters, was: {len(user_id)}")
    flaw = unstorable(user_id)
    if flaw:
        raise InvalidUserIdError(f"a user id must not hold {flaw}, was: {user_id!r}")
    return user_id


def check_size(record: Record, most: int = MAX_CHARACTERS) -> None:
    """Refuse a record of more than `most` characters, all its fields together.

    Raises:
        DataFormatError: if it has more.
    """
    fields = (record.text, record.target, *(part for pair in record.metadata.items() for part in pair))
    size = sum(len(value) for value in fields if value is not None)
    if size > most:
        raise DataFormatError(
            f"a record may have {most:,} characters, has {size:,}: cut or split it, or raise the limit "
            "(PERSONA_MAX_RECORD_CHARACTERS, max_characters=)"
        )


def unstorable(text: str) -> str | None:
    """What in `text` no UTF-8 database can store, in words: NUL or a lone surrogate. None if there is neither."""
    if "\x00" in text:
        return "NUL (\\x00)"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "a lone surrogate"
    return None


@lru_cache(maxsize=4096)
def _day(time: str | None) -> str:
    """The day of a time as people write it, ``8 May 2023``, or its month or year; empty if it is none."""
    match = _DAY.match(time or "")
    if not match or not 1 <= int(match[2] or 1) <= len(_MONTHS):
        return ""
    year, month, day = match.groups()
    return " ".join(part for part in (day and day.lstrip("0"), month and _MONTHS[int(month) - 1], year) if part)


def _json(value: str | None) -> str:
    return "null" if value is None else _json_string(value)


def _time(record: Record) -> str:
    if not isinstance(record, Record):
        raise DataFormatError(f"a profile is of records, was: {record!r:.80} ({type(record).__name__})")
    return record.time or ""


def _check_string(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise DataFormatError(f"a record's {name} must be a string, was: {value!r:.80} ({type(value).__name__})")
    flaw = unstorable(value)
    if flaw:
        raise DataFormatError(f"a record's {name} must not hold {flaw}: remove it")
