"""The database of a store, SQLite or PostgreSQL: opened, checked and made ready; every failure becomes one line.

Reads run in autocommit, each a single statement, so that each sees one state of the database and no transaction stays
open behind it. Writes run in `writing`, one transaction that is kept whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy
from sqlalchemy import Connection, Engine, Select, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from persona.errors import MissingDependencyError, StoreError
from persona.store.migrations import is_current, migrate
from persona.store.schema import meta

BUSY_SECONDS = 30
"""How long a statement waits for another process before it gives up."""

_PREPARED_STATEMENTS = 512
"""How many an SQLite connection keeps: there is one of each kind for each of the 32 parts, so Python's own 128 would
hold four kinds, and preparing a statement takes longer than running it."""

_PRAGMAS = (
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

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""ON CONFLICT is the same SQL on both databases, but SQLAlchemy has it in their dialects."""

_inherited: list[object] = []
"""Connections that belong to the parent process. They are neither used nor closed here: closing would end the
parent's session on a server, and drop its locks on a file."""


class Database:
    """An open store's database. Safe to use from threads, and in a child process after a fork.

    Args:
        url: as in `persona.store.profile_store.ProfileStore`.
        create: likewise.

    Raises:
        StoreError: if the URL is wrong, or the database cannot be opened or is no store.
        SchemaVersionError: if it was written by a newer persona.
        MissingDependencyError: if the PostgreSQL driver is not installed.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = _checked(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.name = f"{self._url.database}" if self.is_sqlite else self._url.render_as_string(hide_password=True)
        self._closed = False
        self._pid = os.getpid()
        self._statements: WeakKeyDictionary[Select[Any], tuple[str, Mapping[str, object]]] = WeakKeyDictionary()
        self._readers: list[PoolProxiedConnection] = []
        if self.is_sqlite:
            _refuse_foreign_file(Path(self.name), create=create)
        self._engine = _engine(self._url)
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections. The last process that closes an SQLite file folds its log into it."""
        self._closed = True
        if self._pid == os.getpid():
            while self._readers:
                self._readers.pop().close()
            self._engine.dispose()

    def rows(self, statement: Select[Any], parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one reading statement, as tuples of the driver's own types.

        Every request comes through here. A statement is compiled once and given to the driver, on a connection that
        is kept for reading: SQLAlchemy's pool and results take three times as long as SQLite takes to read a profile.

        Raises:
            StoreError: if the database does not answer.
        """
        self._check_usable()
        if statement not in self._statements:
            compiled = statement.compile(self._engine)
            self._statements[statement] = str(compiled), compiled.params
        sql, fixed = self._statements[statement]
        try:
            return self._fetched(sql, {**fixed, **(parameters or {})})
        except (SQLAlchemyError, self._driver_error) as error:
            raise self._explained(error) from error

    def _fetched(self, sql: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        try:
            reader = self._readers.pop()
        except IndexError:  # the first to read, or another thread is reading
            reader = self._engine.raw_connection()
        driver: Any = reader.driver_connection
        try:
            found: list[tuple[Any, ...]] = driver.execute(sql, parameters).fetchall()
        except BaseException:
            reader.invalidate()  # what is left of the answer must not reach the next reader
            if not getattr(driver, "closed", False):
                raise
        else:
            if self._readers:
                reader.close()
            else:
                self._readers.append(reader)
            return found
        # The server was restarted. The pool finds out by itself; asking before each read would double its time.
        with closing(self._engine.raw_connection()) as connection:
            driver = connection.driver_connection
            found = driver.execute(sql, parameters).fetchall()
        return found

    def pages(self, statement: Select[Any], parameters: Mapping[str, object] | None = None) -> Iterator[Any]:
        """The rows of a statement that reads one page of users, page after page.

        No statement stays open while the caller works: each page starts behind the last uid of the one before.

        Args:
            statement: its first column is the uid, in ascending order, and above the parameter `after`.
            parameters: all others.
        """
        after = 0
        while rows := self.rows(statement, {**(parameters or {}), "after": after}):
            yield from rows
            after = rows[-1][0]

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction. It is committed at the end, and rolled back if anything at all is raised.

        On SQLite it takes the write lock at once: a transaction that first reads and then asks for the lock could be
        refused it in the middle.

        Raises:
            StoreError: if the database does not answer, or another process keeps it locked.
        """
        with self.connected() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execution_options(isolation_level="READ COMMITTED")
            try:
                yield connection
            except BaseException:
                try:
                    connection.rollback()
                except SQLAlchemyError:
                    # Interrupted in the middle of a command, a PostgreSQL connection takes no other. To close it undoes
                    # the transaction too.
                    connection.invalidate()
                raise
            connection.commit()

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection in autocommit, for statements that no transaction may contain.

        Raises:
            StoreError: if the database does not answer.
        """
        self._check_usable()
        try:
            with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, self._driver_error) as error:
            raise self._explained(error) from error

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.name} is closed: open it again")
        if self._pid != os.getpid():
            _inherited.append((self._engine.pool, self._readers))
            self._engine.dispose(close=False)
            self._readers, self._pid = [], os.getpid()

    def _prepare(self) -> None:
        """Check the database, and make or migrate its tables."""
        with self.connected() as connection:
            if not self.is_sqlite:
                encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
                if encoding != "UTF8":
                    raise StoreError(
                        f"a store needs a database in UTF8, {self.name} is in {encoding}: "
                        "make one with CREATE DATABASE ... ENCODING 'UTF8'"
                    )
            ready = is_current(connection, self.name)
        if not ready:
            with self.writing() as connection:
                migrate(connection, self.name)

    def _explained(self, error: Exception) -> StoreError:
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        reason = "; ".join(line.strip() for line in reason.splitlines() if line.strip())
        meaning = _meaning(reason)
        if "disk I/O error" in reason and shutil.disk_usage(Path(self.name).parent).free < _LITTLE_ROOM:
            meaning = _FULL
        return StoreError(f"{self.name}: {meaning} ({reason})" if meaning else f"{self.name}: {_FAILED}: {reason}")


_FAILED = "the database failed"
_DAMAGED = "it is damaged: bring back a copy"
_FULL = "the disk is full: make room and run this again"
_LITTLE_ROOM = 1 << 20
"""Bytes on a disk with which SQLite may already fail, and then does not say why."""
_MEANINGS = {
    "database is locked": "another process is writing to it: wait until it is done and run this again",
    "due to lock timeout": "another process is writing to it: wait until it is done and run this again",
    "unable to open database file": "it cannot be opened: its folder must exist and allow writing",
    "readonly database": "it cannot be written to: allow writing to the file and its folder",
    "file is not a database": "it is no SQLite database, or a damaged one: name another file",
    "disk image is malformed": _DAMAGED,
    "disk is full": _FULL,
    "disk I/O error": "the disk cannot be read or written: look at the system's log",
    "deadlock detected": "another process was changing the same users, and this one was rolled back: run it again",
    "connection failed": "the server cannot be reached: start it, or correct the URL",
}
"""What an error of a database means for the user, by a part of its message."""


def _meaning(message: str) -> str | None:
    return next((meaning for symptom, meaning in _MEANINGS.items() if symptom in message), None)


def _checked(url: str) -> URL:
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


def _refuse_foreign_file(path: Path, *, create: bool) -> None:
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
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: {_meaning(str(error)) or f'{_FAILED}: {error}'}") from error
    except UnicodeDecodeError as error:  # names of tables, or the message about them
        raise StoreError(f"{path}: {_DAMAGED} ({error.reason})") from error
    if tables and meta.name not in tables:
        raise StoreError(f"{path} is an SQLite database, but no store of persona: name another file")


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {"pool_pre_ping": True, "skip_autocommit_rollback": True}  # a server may be restarted
    if url.get_backend_name() == "sqlite":
        connect = {"timeout": BUSY_SECONDS, "cached_statements": _PREPARED_STATEMENTS}
        options = {"paramstyle": "named", "connect_args": connect}
    try:
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", **options)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a PostgreSQL store needs the package {error.name}: pip install 'persona-llm[postgres]'"
        ) from error
    is_sqlite = engine.dialect.name == "sqlite"
    sqlalchemy.event.listen(engine, "connect", _set_pragmas if is_sqlite else _set_session)
    return engine


def _set_pragmas(connection: sqlite3.Connection, _: object) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            return
        except sqlite3.OperationalError as error:
            # The one lock for which SQLite does not wait by itself: another process is turning the same new file to
            # WAL, or is the last to close it.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def set_lock_timeout(connection: Any, seconds: float) -> None:
    """Have statements on this PostgreSQL connection wait for locks this long, instead of for ever."""
    connection.execute(f"SET lock_timeout = {round(1000 * seconds)}")


def _set_session(connection: Any, _: object) -> None:
    set_lock_timeout(connection, BUSY_SECONDS)


def insert_if_absent(connection: Connection, table: Table) -> Any:
    """An INSERT that leaves alone what has the same key."""
    return _INSERTS[connection.dialect.name](table).on_conflict_do_nothing()


def insert_or_renew(connection: Connection, table: Table, *key: str) -> Any:
    """An INSERT that replaces a row with the same `key`, unless that row has a later `revision`."""
    statement = _INSERTS[connection.dialect.name](table)
    given = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    return statement.on_conflict_do_update(
        index_elements=key, set_=given, where=table.c.revision <= statement.excluded.revision
    )


def insert_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> None:
    """Add many rows, the way that is fastest: SQLAlchemy takes longer over the parameters than SQLite over the rows."""
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", list(rows))
        return
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
