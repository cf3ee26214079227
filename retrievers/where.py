"""Only some of a user's records: conditions on time, label and metadata, exact for every retriever.

>>> where = Where.parse("time>=2011 and label=5")
>>> where.matches(Record("Moody and stylish.", target="5", time="2011-10-14"))
True

`WhereRetriever` hands its retriever the part of the profile that fits, and nothing else: so what comes back is what the
retriever would find if these records were the user's whole history (BM25's word weights too are those of the part).
A user has some hundred records: filtering takes tens of microseconds, and no index over the fields is needed.

Conditions are joined by ``and``. One is ``FIELD OP VALUE``:

- FIELD is ``time``, ``label`` (`Record.target`), or the name of a metadata field; ``meta.time`` and ``meta.label`` are
  metadata fields of these names.
- OP is one of ``= != < <= > >=`` or ``in``, which takes values with commas between.
- VALUE is a word, or anything between double quotes: ``category="science & technology"``.

A time is compared as far as the value goes: ``time<=2011`` and ``time=2011`` hold in all of 2011. A record that knows
less than the value asks (``2011`` against ``2011-05``) counts as before it, as in the order of a profile. Two numbers
are compared as numbers, else a field as the string it is, case included; a value that is a number is never less or
greater than a word. A record without the field fits ``!=`` and nothing else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from persona.errors import DataFormatError, InvalidOptionError
from persona.formats.fields import number_in
from persona.formats.times import moment_of
from persona.protocols import Retriever
from persona.records import Profile, Record

from .base import ProfileRetriever, Ranking

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
OPERATORS = (*_OPERATORS, "in")
_VALUE = r'"[^"]*"|[^\s",=<>!][^\s",]*'
_CONDITION = re.compile(
    rf"\s*(?P<field>[^\s=!<>\"]+)(?:\s*(?P<op><=|>=|!=|=|<|>)\s*(?P<value>{_VALUE})"
    rf"|\s+in\s+(?P<values>(?:{_VALUE})(?:\s*,\s*(?:{_VALUE}))*))(?=\s|$)",
    re.IGNORECASE,
)
_AND = re.compile(r"\s+and\s+(?=\S)", re.IGNORECASE)
_RULE = "a filter is FIELD OP VALUE, joined by `and`, e.g. time>=2011 and label=5"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a record.

    Attributes:
        field: ``"time"``, ``"label"`` or a metadata field.
        op: one of `OPERATORS`.
        values: what the field is compared with; several for ``in`` only.

    Raises:
        InvalidOptionError: if `op` is none, there is not one value, or a value of ``time`` is no ISO 8601 date.
    """

    field: str
    op: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.field:
            raise InvalidOptionError("a filter's field must not be empty: name time, label or a metadata field")
        if self.op not in OPERATORS:
            raise InvalidOptionError(f"a filter's operator must be one of {' '.join(OPERATORS)}, was: {self.op!r}")
        if not self.values or (self.op != "in" and len(self.values) != 1):
            raise InvalidOptionError(f"a filter with {self.op} needs one value, was: {self.values}")
        if self.field == "time" and (written := tuple(map(_time, self.values))) != self.values:
            raise InvalidOptionError(
                f"in a condition times must be as records have them, {written}, was: {self.values}"
            )

    def matches(self, record: Record) -> bool:
        """Whether the record fits."""
        value = _field(record, self.field)
        if value is None:
            return self.op == "!="
        compare = _OPERATORS["=" if self.op == "in" else self.op]
        if self.field == "time":
            return any(compare(value[: len(wanted)], wanted) for wanted in self.values)
        return any(_compared(compare, value, wanted) for wanted in self.values)


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions that a record must all fit; none fits every record."""

    conditions: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Where:
        """From the form that the command line takes; the module says how it is written.

        Raises:
            InvalidOptionError: if it cannot be read; says from where on.
        """
        conditions = []
        start = 0
        while True:
            match = _CONDITION.match(text, start)
            if match is None:
                rest = text[start:].strip()
                raise InvalidOptionError(f"{_RULE}, could not read: {rest or text!r}")
            listed = match["values"] if match["values"] is not None else match["value"]
            values = [value.strip('"') for value in re.findall(_VALUE, listed)]
            if match["field"] == "time":
                values = [_time(value) for value in values]
            conditions.append(Condition(match["field"], match["op"] or "in", tuple(values)))
            start = match.end()
            if not text[start:].strip():
                return cls(tuple(conditions))
            conjunction = _AND.match(text, start)
            if conjunction is None:
                raise InvalidOptionError(f"{_RULE}, could not read: {text[start:].strip()!r}")
            start = conjunction.end()

    def matches(self, record: Record) -> bool:
        """Whether the record fits all conditions."""
        return all(condition.matches(record) for condition in self.conditions)

    def absent(self, profile: Profile) -> tuple[str, ...]:
        """The fields that are asked for and that no record of the profile has: misspelt ones, most likely."""
        fields = dict.fromkeys(condition.field for condition in self.conditions)
        return tuple(field for field in fields if all(_field(record, field) is None for record in profile))

    def part(self, profile: Profile) -> Profile:
        """The profile with the records that fit, in their order; the profile itself if all do."""
        kept = tuple(record for record in profile if self.matches(record))
        return profile if len(kept) == len(profile) else Profile(profile.user_id, kept, profile.revision)


class WhereRetriever(ProfileRetriever):
    """Retrieves from the records that fit, by another retriever: fewer than `k` where fewer fit.

    Args:
        base: ranks them.
        where: the conditions, or their written form.

    Raises:
        InvalidOptionError: if `where` cannot be read.
    """

    def __init__(self, base: Retriever, where: Where | str) -> None:
        self.base = base
        self.where = Where.parse(where) if isinstance(where, str) else where

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """At most `k` records of each profile that fit; a profile object that comes several times is filtered once."""
        parts = {id(profile): profile for profile in profiles}
        parts = {key: self.where.part(profile) for key, profile in parts.items()}
        return self.base.retrieve_batch([parts[id(profile)] for profile in profiles], queries, k)


def _field(record: Record, field: str) -> str | None:
    if field == "time":
        return record.time
    if field == "label":
        return record.target
    return record.metadata.get(field.removeprefix("meta."))


def _compared(compare: Callable[[Any, Any], bool], value: str, wanted: str) -> bool:
    numbers = number_in(value), number_in(wanted)
    if None not in numbers:
        return compare(*numbers)
    if compare in (operator.eq, operator.ne):
        return compare(value, wanted)
    return numbers == (None, None) and compare(value, wanted)


def _time(value: str) -> str:
    try:
        return moment_of(value)
    except DataFormatError as error:
        raise InvalidOptionError(f"in a filter {error}") from None
