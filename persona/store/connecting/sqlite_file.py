"""The file of an SQLite store: whether it is one, whether it may be written, and how it is set up."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

from persona.errors import StoreError
from persona.store.connecting import waiting
from persona.store.connecting.failures import DAMAGED, explained
from persona.store.schema import meta

PRAGMAS = (
    # Takes effect in a new database only. Records have some hundred bytes, matrices some ten thousand: with SQLite's
    # own 4096 both would be cut into more pieces, with 16384 a small change would write more.
    "PRAGMA page_size = 8192",
    # Readers do not wait for a writer, and a killed writer leaves nothing to undo.
    "PRAGMA journal_mode = WAL",
    # NORMAL: a transaction outlives the death of the process at once, and a power cut once its log has been
    # checkpointed. The database is whole after either. What a power cut can take is a last ingest or embedding, which
    # can be run again; `forget` ends with a checkpoint, so what it erased does not come back.
    "PRAGMA synchronous = NORMAL",
    # Deleted bytes are overwritten with zeros. Not enough by itself, see `persona.store.schema`.
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -16384",
    # The log of a large ingest grows as large; it need not keep that size.
    "PRAGMA journal_size_limit = 67108864",
    # Sorting and the like must not leave a user's words in temporary files.
    "PRAGMA temp_store = MEMORY",
)

READING_PRAGMAS = tuple(pragma for pragma in PRAGMAS if "cache_size" in pragma or "temp_store" in pragma)

_BESIDE = ("-wal", "-shm")
"""What is added to its name for the files beside it: the log of changes, and the memory that processes share."""


def is_read_only(path: Path) -> bool:
    """Whether there is a file that this process cannot write to, or not make the files beside it that writing needs."""

    def writable(file: Path) -> bool:
        # Of the user that files are opened as. A read-only mount answers no to root too.
        return os.access(file, os.W_OK, effective_ids=os.access in os.supports_effective_ids)

    beside = [Path(f"{path}{ending}") for ending in _BESIDE]
    return path.is_file() and not (writable(path) and (writable(path.parent) or all(map(writable, beside))))


def reading_mode(path: Path) -> dict[str, str]:
    """How SQLite can read a file that it may not write.

    It needs two files beside it even to read. Where they are not there and cannot be made, the file must be taken for
    one that nobody writes to; what changes it all the same is found by `Database`.

    Raises:
        StoreError: if one of the two is missing and the other holds changes.
    """
    log, shared = (Path(f"{path}{ending}") for ending in _BESIDE)
    if shared.exists() or os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return {"mode": "ro"}
    if log.exists() and log.stat().st_size:
        raise StoreError(
            f"{path} can only be read, and its last changes are in {log.name}: copy both to a folder that can be "
            "written, and open the copy"
        )
    return {"immutable": "1"}


def state(path: Path) -> object:
    """Changes when the file is replaced, or someone writes to it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, Path(f"{path}{_BESIDE[0]}").exists()


def refuse_foreign_file(path: Path, *, create: bool, read_only: bool) -> None:
    """Leave another program's database as it is, before any setting of ours is written to it.

    Raises:
        StoreError: if `path` is an SQLite database with other tables, or no SQLite database; or if it does not exist
            and is not to be made.
    """
    if not create and not path.exists():
        raise StoreError(
            f"there is no store at {path}: create one with `persona ingest FILE`, or name another with --store"
        )
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        mode = urlencode(reading_mode(path) if read_only else {"mode": "rw"})
        with closing(sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=waiting.BUSY_SECONDS)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise explained(error, str(path)) from error
    except UnicodeDecodeError as error:  # names of tables, or the message about them
        raise StoreError(f"{path}: {DAMAGED} ({error.reason})") from error
    if tables and meta.name not in tables:
        raise StoreError(f"{path} is an SQLite database, but no store of persona: name another file")


def set_pragmas(connection: sqlite3.Connection, pragmas: Sequence[str]) -> None:
    """Prepare a new connection."""
    deadline = time.monotonic() + waiting.BUSY_SECONDS
    while True:
        try:
            for pragma in pragmas:
                connection.execute(pragma)
            return
        except sqlite3.OperationalError as error:
            # The one lock for which SQLite does not wait by itself: another process is turning the same new file to
            # WAL, or is the last to close it.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
