"""What an error of a database means for the user, in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from persona.errors import StoreError

READ_ONLY = "can only be read: allow writing to the file and its folder, or use a copy"
DAMAGED = "it is damaged: bring back a copy"
_FAILED = "the database failed"
_FULL = "the disk is full: make room and run this again"
_LITTLE_ROOM = 1 << 20
"""Bytes on a disk with which SQLite may already fail, and then does not say why."""

_MEANINGS = {
    "database is locked": "another process is writing to it: wait until it is done and run this again",
    "due to lock timeout": "another process is writing to it: wait until it is done and run this again",
    "unable to open database file": "it cannot be opened: its folder must exist and allow writing",
    "readonly database": "it cannot be written to: allow writing to the file and its folder",
    "file is not a database": "it is no SQLite database, or a damaged one: name another file",
    "disk image is malformed": DAMAGED,
    "disk is full": _FULL,
    "disk I/O error": "the disk cannot be read or written: look at the system's log",
    "deadlock detected": "another process was changing the same users, and this one was rolled back: run it again",
    "connection failed": "the server cannot be reached: start it, or correct the URL",
}
"""What an error of a database means for the user, by a part of its message."""

_CODES = {
    "42501": "this role may not do that: let it write, or only read",
    "25006": "the server can only be read, as a standby: write to the primary",
}
"""The same by PostgreSQL's code, whose message is in the server's language."""


def meaning(message: str) -> str | None:
    """What a message of a database means; None for an unknown one."""
    return next((meaning for symptom, meaning in _MEANINGS.items() if symptom in message), None)


def explained(error: Exception, name: str) -> StoreError:
    """The error of a driver, of SQLAlchemy or of SQLite as one of the store.

    Args:
        error: what was raised.
        name: of the database; for SQLite the path of its file.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    reason = "; ".join(line.strip() for line in str(cause).splitlines() if line.strip())
    what = meaning(reason) or _CODES.get(getattr(cause, "sqlstate", None) or "")
    if "disk I/O error" in reason and shutil.disk_usage(Path(name).parent).free < _LITTLE_ROOM:
        what = _FULL
    return StoreError(f"{name}: {what} ({reason})" if what else f"{name}: {_FAILED}: {reason}")
