"""Records that have expired: nothing reads them from that moment on, and the next write removes them.

A user's row says when the next of their records expires, so a reader knows by one comparison whether there is anything
to leave out, and a writer finds whom to tidy up without looking at the others. As long as something expired is still
there, what was made from all of the user's records (summaries, soft prompts, adapters) is not given out either: it
would be gone had the record been deleted.
"""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Select, bindparam, literal_column, select, union_all

from persona.errors import InvalidOptionError
from persona.store.schema import PART_TABLES
from persona.store.upkeep.editing import delete_records

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LONGEST = timedelta(days=2_000_000)
_DURATION = re.compile(rf"(\d{{1,7}})([{''.join(_UNITS)}])", re.ASCII)


def now() -> str:
    """This moment as `Record.expires` writes it, so that strings compare as times do."""
    return moment(time.time())


def moment(seconds: float) -> str:
    """A time in seconds since 1970, likewise."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def has_expired(expires: str | None, at: str) -> bool:
    """Whether a record, or a user's next one, has expired `at` a moment. A day or year ends where it begins."""
    return expires is not None and expires <= at


def duration(text: str) -> timedelta:
    """A duration like ``90d``, ``12h`` or ``2w``.

    Raises:
        InvalidOptionError: if it has another form, is 0, or takes some thousand years.
    """
    match = _DURATION.fullmatch(text.strip())
    length = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else timedelta()
    if not timedelta() < length < _LONGEST:
        raise InvalidOptionError(f"a duration must be like 90d, 12h, 30m or 2w, was: {text!r}")
    return length


def due_parts() -> Select[Any]:
    """The numbers of the parts that hold something expired at the moment `at`."""
    every = [
        select(literal_column(str(part.number)).label("part"))
        .select_from(part.users)
        .where(part.users.c.expires <= bindparam("at"))
        .limit(1)
        .subquery()
        for part in PART_TABLES
    ]
    return select(union_all(*(select(each.c.part) for each in every)).subquery().c.part)


def remove_expired(connection: Connection, at: str) -> int:
    """Delete what has expired, within a transaction; how many records. A user whom another one is changing is left."""
    removed = 0
    for (number,) in connection.execute(_DUE, {"at": at}).all():
        part = PART_TABLES[number]
        due = select(part.users).where(part.users.c.expires <= at).with_for_update(skip_locked=True)
        for user in connection.execute(due).all():
            records = part.records.c
            expired = select(records.record_id).where(records.uid == user.uid, records.expires <= at)
            removed += delete_records(connection, part, user, connection.execute(expired).scalars().all())
    return removed


_DUE = due_parts()
