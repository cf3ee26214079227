"""A record as columns of a table of records, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from persona.records import Record

CONTENT = ("text", "target", "time", "metadata", "role", "speaker", "expires")
"""The columns that hold what `Record.content_hash` is of."""

_NO_METADATA: MappingProxyType[str, str] = MappingProxyType({})
_new = object.__new__
_set_id, _set_text, _set_target, _set_time, _set_metadata, _set_role, _set_speaker, _set_expires = (
    Record.__dict__[name].__set__ for name in ("id", *CONTENT)
)


def content_of(record: Record) -> tuple[str | None, ...]:
    """The values of the columns `CONTENT`."""
    metadata = json.dumps(dict(record.metadata), ensure_ascii=False) if record.metadata else None
    return record.text, record.target, record.time, metadata, record.role, record.speaker, record.expires


def record_of(record_id: str, content: Sequence[Any]) -> Record:
    """The record of that id whose columns `CONTENT` have these values.

    They were checked when they came in. To check them again takes longer than to read them (14 ms for 10,000 records,
    a tenth of what a request takes with an LLM that answers in 100 ms), so the fields are set directly.
    """
    text, target, time, metadata, role, speaker, expires = content
    record = _new(Record)
    _set_id(record, record_id)
    _set_text(record, text)
    _set_target(record, target)
    _set_time(record, time)
    _set_metadata(record, MappingProxyType(json.loads(metadata)) if metadata else _NO_METADATA)
    _set_role(record, role)
    _set_speaker(record, speaker)
    _set_expires(record, expires)
    return record
