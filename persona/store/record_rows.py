"""A record as columns of a table of records, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from persona.records import Record

CONTENT = ("text", "target", "time", "metadata", "role", "speaker", "expires")
"""The columns that hold what `Record.content_hash` is of."""


def content_of(record: Record) -> tuple[str | None, ...]:
    """The values of the columns `CONTENT`."""
    metadata = json.dumps(dict(record.metadata), ensure_ascii=False) if record.metadata else None
    return record.text, record.target, record.time, metadata, record.role, record.speaker, record.expires


def record_of(record_id: str, content: Sequence[Any]) -> Record:
    """The record of that id whose columns `CONTENT` have these values."""
    text, target, time, metadata, role, speaker, expires = content
    return Record(text, target, time, record_id, json.loads(metadata) if metadata else {}, role, speaker, expires)
