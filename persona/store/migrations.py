"""Making a store's tables in an empty database, and migrating the tables of an older version.

A store is migrated when it is opened: in place, in one transaction, without a question and without a notice, since it
adds tables and empty columns, which takes both databases milliseconds whatever the store holds (from version 3, which
was not published, the records are read once). A process that is
killed leaves the old version, and the next one starts again. Processes with older code that have the store open go on;
they refuse it when they open it again.
"""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import Connection, select, update

from persona.errors import SchemaVersionError, StoreError
from persona.store.schema import PART_TABLES, PARTS, SCHEMA_VERSION, Part, meta, metadata, parts


def is_current(connection: Connection, name: str) -> bool:
    """Whether the database holds a store of `SCHEMA_VERSION`; False for an older store and an empty database.

    Raises:
        SchemaVersionError: if it was written by a newer persona.
        StoreError: if its version is no number.
    """
    return _version(connection, name) == SCHEMA_VERSION


def migrate(connection: Connection, name: str) -> None:
    """Bring the database to `SCHEMA_VERSION`, within a transaction that holds off every other writer.

    Raises:
        SchemaVersionError: as `is_current`.
        StoreError: likewise.
    """
    if connection.dialect.name == "postgresql":  # SQLite holds the write lock already
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('persona_meta'))")
    version = _version(connection, name)  # another process may have been faster
    if version == SCHEMA_VERSION:
        return
    # The tables that are missing: all of them, those for keys before version 5, those for adapters in version 1.
    metadata.create_all(connection, checkfirst=bool(version))
    if version:
        if version < 4:
            connection.exec_driver_sql(f"ALTER TABLE {parts.name} ADD COLUMN deletions_due INTEGER NOT NULL DEFAULT 0")
            for part in PART_TABLES:
                _add_columns(connection, part, version)
        connection.execute(update(meta).where(meta.c.key == "schema_version").values(value=str(SCHEMA_VERSION)))
    else:
        connection.execute(meta.insert(), {"key": "schema_version", "value": str(SCHEMA_VERSION)})
        connection.execute(
            parts.insert(), [{"part": number, "revision_floor": 0, "rewrites_due": 0} for number in range(PARTS)]
        )
    if connection.dialect.name == "postgresql":
        _keep_out_of_statistics(connection)


def _version(connection: Connection, name: str) -> int:
    """The schema version of the database; 0 if it holds no store."""
    if not sqlalchemy.inspect(connection).has_table(meta.name):
        return 0
    version = connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    if version is None or not version.isdecimal() or int(version) < 1:
        raise StoreError(f"{name} is damaged: its schema version must be a number, was: {version!r}")
    if int(version) > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{name} has schema version {version}, this persona knows versions up to {SCHEMA_VERSION}: "
            "pip install --upgrade persona-llm"
        )
    return int(version)


def _add_columns(connection: Connection, part: Part, version: int) -> None:
    postgresql = connection.dialect.name == "postgresql"
    records, users, name = part.records.name, part.users.name, 'TEXT COLLATE "C"' if postgresql else "TEXT"
    if version < 3:
        for column, kind in (("role", "TEXT"), ("speaker", "TEXT"), ("expires", name)):
            connection.exec_driver_sql(f"ALTER TABLE {records} ADD COLUMN {column} {kind}")
    elif postgresql:
        connection.exec_driver_sql(f"ALTER TABLE {records} ALTER COLUMN expires TYPE {name}")
    connection.exec_driver_sql(f"ALTER TABLE {users} ADD COLUMN expires {name}")
    for index in part.users.indexes:
        index.create(connection)
    if version == 3:
        connection.exec_driver_sql(
            f"UPDATE {users} SET expires = (SELECT min(expires) FROM {records} WHERE {records}.uid = {users}.uid) "
            f"WHERE uid IN (SELECT uid FROM {records} WHERE expires IS NOT NULL)"
        )


def _keep_out_of_statistics(connection: Connection) -> None:
    """Keep texts and ids out of PostgreSQL's statistics: ANALYZE would copy them where `forget` does not reach."""
    for table in metadata.sorted_tables:
        if "part" in table.info:
            columns = [column.name for column in table.columns if column.type.python_type in (str, bytes)]
            changes = ", ".join(f"ALTER COLUMN {name} SET STATISTICS 0" for name in columns)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} {changes}")
