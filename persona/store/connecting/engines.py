"""SQLAlchemy's engines for the two databases, from the URL of a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from persona.errors import MissingDependencyError, StoreError
from persona.store.connecting import waiting
from persona.store.connecting.sqlite_file import PRAGMAS, READING_PRAGMAS, reading_mode, set_pragmas, state
from persona.store.connecting.waiting import set_lock_timeout

_PREPARED_STATEMENTS = 512
"""How many an SQLite connection keeps: there is one of each kind for each of the 32 parts, so Python's own 128 would
hold four kinds, and preparing a statement takes longer than running it."""


def checked_url(url: str) -> URL:
    """`url`, with an SQLite path made absolute: a later `chdir` must not open a second database.

    Raises:
        StoreError: if it names no database that a store can be in.
    """
    if not isinstance(url, str):
        raise StoreError(f"a store's URL must be a string like sqlite:///file.db, was: {url!r:.80}")
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        # The path is not decoded as part of a URL: it is what the shell and other programs call the file.
        path = rest.removeprefix("/")
        if path in ("", ":memory:") or path == rest or "?" in path or "\0" in path:
            raise StoreError(f"an SQLite store is a file: use the form sqlite:///file.db, was: {url!r}")
        return URL.create("sqlite", database=os.path.abspath(path))
    with suppress(ArgumentError, ValueError):
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgresql+psycopg"):
            return parsed.set(drivername="postgresql+psycopg")
    # What follows the scheme may hold a password.
    given = f"{scheme}://..." if separator else repr(url)
    raise StoreError(
        f"a store's URL must have the form sqlite:///file.db or postgresql+psycopg://user@host/name, was: {given}"
    )


def writing_engine(url: URL) -> Engine:
    """Connections to a database that is read and written.

    Raises:
        MissingDependencyError: if the PostgreSQL driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, PRAGMAS)
    try:
        # A server may be restarted while the pool holds connections to it.
        options = {"pool_pre_ping": True, "skip_autocommit_rollback": True}
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", **options)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a PostgreSQL store needs the package {error.name}: pip install 'persona-llm[postgres]'"
        ) from error
    sqlalchemy.event.listen(engine, "connect", lambda new, _: set_lock_timeout(new, waiting.BUSY_SECONDS))
    return engine


def reading_engine(path: Path) -> tuple[Engine, object]:
    """Connections to an SQLite file that cannot be written, and its `state` where they are good for that one alone.

    Raises:
        StoreError: as `reading_mode`.
    """
    mode = reading_mode(path)
    url = URL.create("sqlite", database=path.as_uri(), query={**mode, "uri": "true"})
    return _sqlite_engine(url, READING_PRAGMAS), state(path) if "immutable" in mode else None


def _sqlite_engine(url: URL, pragmas: Sequence[str]) -> Engine:
    connect = {"timeout": waiting.BUSY_SECONDS, "cached_statements": _PREPARED_STATEMENTS}
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", paramstyle="named", connect_args=connect)
    sqlalchemy.event.listen(engine, "connect", lambda new, _: set_pragmas(new, pragmas))
    return engine
