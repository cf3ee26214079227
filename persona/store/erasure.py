"""Forgetting a user: first the rows, then the bytes.

The rows are deleted in one transaction, from every table of the user's part, and cannot be read from then on.
Then their bytes in the database's pages go: the part's tables are rewritten, and the old pages are zeroed (SQLite) or
their files dropped (PostgreSQL). If that cannot be finished, because another session holds the tables or the process is
killed, the part stays marked, and the next `forget` on that database finishes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, delete, select, update

from persona.errors import StoreError
from persona.store.connecting import waiting
from persona.store.connecting.waiting import set_lock_timeout
from persona.store.database import Database
from persona.store.schema import PART_TABLES, Part, parts

_LOCK_SECONDS = 1
"""How long one try waits for PostgreSQL's exclusive lock: everyone who reads the part queues up behind it."""


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """How much was erased.

    Attributes:
        records: records of the user.
        vectors: matrices, one for each encoder.
        indexes: search indexes.
        others: rows of other tables.
        adapters: versions of adapters.
        dropped: pieces that this process kept in memory, by what they were (`persona.caches`).
    """

    records: int = 0
    vectors: int = 0
    indexes: int = 0
    others: int = 0
    adapters: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)


def delete_user(connection: Connection, part: Part, user_id: str) -> ForgetReport:
    """Delete every row of the user, and mark the part so that the bytes follow."""
    # Waits for ingests that have read the floor and may be about to create the user below the new floor.
    floor = connection.execute(
        select(parts.c.revision_floor).where(parts.c.part == part.number).with_for_update()
    ).scalar_one()
    user = connection.execute(
        select(part.users.c.uid, part.users.c.revision).where(part.users.c.user_id == user_id).with_for_update()
    ).one_or_none()
    if user is None:
        return ForgetReport()
    deleted = {
        table: connection.execute(delete(table).where(table.c.uid == user.uid)).rowcount for table in part.tables()
    }
    connection.execute(
        update(parts)
        .where(parts.c.part == part.number)
        .values(rewrites_due=parts.c.rewrites_due + 1, revision_floor=max(floor, user.revision))
    )
    del deleted[part.users]
    records, vectors, indexes, adapters = map(deleted.pop, (part.records, part.vectors, part.indexes, part.adapters))
    return ForgetReport(records, vectors, indexes, sum(deleted.values()), adapters)


def overwrite_deleted(database: Database, *, records: bool = False) -> int:
    """Rewrite every part that is marked; how many were.

    Args:
        database: the store's.
        records: also parts of which no user was forgotten, but records were deleted or had expired.

    Raises:
        StoreError: if another session blocks it for longer than `waiting.BUSY_SECONDS`.
    """
    rewrite = _rewrite_sqlite if database.is_sqlite else _rewrite_postgresql
    due = parts.c.rewrites_due + (parts.c.deletions_due if records else 0)
    marked = database.rows(select(parts.c.part, parts.c.rewrites_due, parts.c.deletions_due).where(due > 0))
    for number, rewrites, deletions in marked:
        rewrite(database, PART_TABLES[number])
        with database.writing() as connection:
            for column, seen in ((parts.c.rewrites_due, rewrites), (parts.c.deletions_due, deletions)):
                # If the number has grown, rows were deleted meanwhile that this rewriting may have missed.
                all_done = (parts.c.part == number) & (column == seen)
                connection.execute(update(parts).where(all_done).values({column: 0}))
    return len(marked)


def _rewrite_sqlite(database: Database, part: Part) -> None:
    """Copy the rows out, empty the tables, copy the rows in, and fold the log into the file.

    Emptied pages are zeroed as a whole (`secure_delete`), which also takes what was left in their unused bytes.
    VACUUM would do the same for the whole database instead of one part.
    """
    with database.connected() as connection:
        # Every user comes back with the same uid, but not before all were gone. Only outside a transaction does this
        # setting take effect.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            for table in part.tables():
                connection.exec_driver_sql(f"CREATE TABLE persona_kept AS SELECT * FROM {table.name}")
                connection.exec_driver_sql(f"DELETE FROM {table.name}")
                connection.exec_driver_sql(f"INSERT INTO {table.name} SELECT * FROM persona_kept")
                connection.exec_driver_sql("DROP TABLE persona_kept")
            connection.exec_driver_sql("COMMIT")
        finally:
            connection.rollback()  # nothing after a COMMIT
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    if busy:
        raise _unfinished(database, "another process is reading the database")


def _rewrite_postgresql(database: Database, part: Part) -> None:
    """Run VACUUM FULL until no dead row is kept for the sake of an older transaction."""
    deadline = time.monotonic() + waiting.BUSY_SECONDS
    while not _vacuumed(database, part):
        if time.monotonic() > deadline:
            raise _unfinished(database, "another session has had a transaction open since before")
        time.sleep(0.1)


def _vacuumed(database: Database, part: Part) -> bool:
    """Whether one VACUUM FULL got the part's tables to itself and left no dead row in them."""
    tables = part.tables()
    dead_rows: list[int] = []

    def count(notice: Any) -> None:
        # One line for each table comes back, "3 dead row versions cannot be removed yet", in the server's language: the
        # number is all that is read. A table that this role may not vacuum is left out with a warning only.
        number = re.search(r"\d+", notice.message_detail or "")
        if notice.severity_nonlocalized == "INFO" and number:
            dead_rows.append(int(number.group()))

    with database.connected() as connection:
        driver: Any = connection.connection.driver_connection
        driver.add_notice_handler(count)
        try:
            set_lock_timeout(driver, _LOCK_SECONDS)
            connection.exec_driver_sql(f"VACUUM (FULL, VERBOSE) {', '.join(table.name for table in tables)}")
        except sqlalchemy.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            return False
        finally:
            driver.remove_notice_handler(count)
            set_lock_timeout(driver, waiting.BUSY_SECONDS)
    if len(dead_rows) != len(tables):
        raise _unfinished(database, "this role does not own the tables")
    return not any(dead_rows)


def _unfinished(database: Database, reason: str) -> StoreError:
    return StoreError(
        f"{database.name}: the user's rows are deleted, but their bytes could not be overwritten: {reason}; "
        "end it and call forget once more"
    )
