"""Files that everybody's data were written to, noted in the store: `forget` cannot reach them, and says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import bindparam, delete, select

from persona.store.database import Database
from persona.store.schema import meta
from persona.store.upkeep.expiry import now

_KEY = "export:"


@dataclass(frozen=True, slots=True)
class NotedExport:
    """A file or folder that is still there.

    Attributes:
        path: where.
        what: it holds, e.g. ``"user vectors"``.
        time: when it was written, ISO 8601.
    """

    path: Path
    what: str
    time: str


def note_export(database: Database, path: Path, what: str) -> None:
    """Note that everybody's data were written to `path`; a store that can only be read notes nothing."""
    if database.read_only:
        return
    key, value = f"{_KEY}{path.absolute()}", json.dumps({"what": what, "time": now()})
    with database.writing() as connection:
        connection.execute(delete(meta).where(meta.c.key == key))
        connection.execute(meta.insert(), {"key": key, "value": value})


def noted_exports(database: Database) -> tuple[NotedExport, ...]:
    """What was noted and is still there, as far as this machine can see."""
    found = []
    for key, value in database.rows(_NOTED, {"prefix": f"{_KEY}%"}):
        path = Path(key.removeprefix(_KEY))
        if path.exists():
            found.append(NotedExport(path, **json.loads(value)))
    return tuple(found)


_NOTED = select(meta.c.key, meta.c.value).where(meta.c.key.like(bindparam("prefix"))).order_by(meta.c.key)
