"""The database of a store, SQLite or PostgreSQL: opened, checked and made ready; every failure becomes one line.

Reads run in autocommit, each a single statement, so that each sees one state of the database and no transaction stays
open behind it. Writes run in `writing`, one transaction that is kept whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Select, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from persona.errors import StoreError
from persona.store.connecting.engines import checked_url, reading_engine, writing_engine
from persona.store.connecting.failures import READ_ONLY, explained
from persona.store.connecting.sqlite_file import is_read_only, refuse_foreign_file, state
from persona.store.migrations import is_current, migrate

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""ON CONFLICT is the same SQL on both databases, but SQLAlchemy has it in their dialects."""

_inherited: list[object] = []
"""Connections that belong to the parent process. They are neither used nor closed here: closing would end the
parent's session on a server, and drop its locks on a file."""


class Database:
    """An open store's database. Safe to use from threads, and in a child process after a fork.

    An SQLite file that may not be written, or is in a folder that may not, is opened for reading.

    Args:
        url: as in `persona.store.profile_store.ProfileStore`.
        create: likewise.

    Raises:
        StoreError: if the URL is wrong, or the database cannot be opened or is no store.
        SchemaVersionError: if it was written by a newer persona.
        MissingDependencyError: if the PostgreSQL driver is not installed.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = checked_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.name = f"{self._url.database}" if self.is_sqlite else self._url.render_as_string(hide_password=True)
        self._closed = False
        self._pid = os.getpid()
        self._statements: WeakKeyDictionary[Select[Any], tuple[str, Mapping[str, object]]] = WeakKeyDictionary()
        self._readers: list[PoolProxiedConnection] = []
        self.read_only = self.is_sqlite and is_read_only(Path(self.name))
        if self.is_sqlite:
            refuse_foreign_file(Path(self.name), create=create, read_only=self.read_only)
        self._engine, self._snapshot = self._opened()
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The URL by which another process opens it, its password included."""
        return f"sqlite:///{self.name}" if self.is_sqlite else self._url.render_as_string(hide_password=False)

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
            raise explained(error, self.name) from error

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
            StoreError: if the database does not answer, another process keeps it locked, or it can only be read.
        """
        if self.read_only:
            raise StoreError(f"{self.name} {READ_ONLY}")
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
            raise explained(error, self.name) from error

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.name} is closed: open it again")
        if self._pid != os.getpid():
            _inherited.append((self._engine.pool, self._readers))
            self._engine.dispose(close=False)
            self._readers, self._pid = [], os.getpid()
        if self._snapshot is not None and self._snapshot != state(Path(self.name)):
            # SQLite takes the file for one that never changes, and would mix what it has read with what is there now.
            self._readers.clear()
            self._engine.dispose()
            self._engine, self._snapshot = self._opened()

    def _opened(self) -> tuple[Engine, object]:
        return reading_engine(Path(self.name)) if self.read_only else (writing_engine(self._url), None)

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
        if not ready and self.read_only:
            raise StoreError(f"{self.name} holds no store of this version and {READ_ONLY}")
        if not ready:
            with self.writing() as connection:
                migrate(connection, self.name)


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
