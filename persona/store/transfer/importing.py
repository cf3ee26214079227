"""Taking in an export: checked as a whole before anything is written, then some users in each transaction.

An import that was stopped is run again: what is there already stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from persona.records import MAX_CHARACTERS
from persona.store.database import insert_if_absent
from persona.store.derived import StoredIndex, write_indexes
from persona.store.profile_store import ProfileStore
from persona.store.schema import families, part_of
from persona.store.transfer.lines import Counts, ExportedFamily, ExportedUser, read_export
from persona.store.upkeep.editing import locked_user
from persona.store.upsert import Chunk, IngestReport, Upsert, chunks

_RECORDS_AT_ONCE, _USERS_AT_ONCE, _BYTES_AT_ONCE = 10_000, 500, 1 << 26
"""About as much is written in one transaction."""

_RECORDS = ("users", "added", "changed", "unchanged", "expired")


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        users: users in the file.
        records: what became of their records.
        indexes: summaries, soft prompts and other indexes that were put in.
        adapters: versions of adapters that were put in; a user who has adapters of that family keeps those.
    """

    users: int
    records: IngestReport
    indexes: int
    adapters: int


def check_export(path: Path, *, max_characters: int = MAX_CHARACTERS) -> tuple[Counts, tuple[ExportedFamily, ...]]:
    """How much a file holds, and the families of its adapters; nothing is written.

    Raises:
        DataFormatError: as `read_export`.
    """
    counts, found = Counts(), []
    for each in read_export(path, max_characters=max_characters):
        if isinstance(each, ExportedUser):
            counts.add(each)
        else:
            found.append(each)
    return counts, tuple(found)


def import_users(store: ProfileStore, path: Path, *, max_characters: int = MAX_CHARACTERS) -> ImportReport:
    """Put everything in a file into a store: new users as they were, known ones as an `upsert` of their records would.

    A summary, a soft prompt or an adapter that was made from earlier records stays as far behind as it was. What the
    user's records in this store have gone beyond is left out.

    Args:
        store: the store.
        path: a file of `export_users`.
        max_characters: longest record.

    Raises:
        DataFormatError: as `read_export`; nothing is written then.
    """
    check_export(path, max_characters=max_characters)
    done = Counter[str]()
    for families_before, batch in _batches(path, max_characters):
        with store.database.writing() as connection:
            if families_before:
                rows = [{"key": each.key, "name": each.name, "prior": each.prior} for each in families_before]
                connection.execute(insert_if_absent(connection, families), rows)
            batch_done = _put(connection, batch)
        done += batch_done
    users, added, changed, unchanged, expired = (done[name] for name in _RECORDS)
    records = IngestReport(users, added, changed, unchanged, expired)
    return ImportReport(records.users, records, done["indexes"], done["adapters"])


def _batches(path: Path, max_characters: int) -> Iterator[tuple[list[ExportedFamily], list[ExportedUser]]]:
    found: list[ExportedFamily] = []
    users: list[ExportedUser] = []
    records = size = 0
    for each in read_export(path, max_characters=max_characters):
        if isinstance(each, ExportedFamily):
            found.append(each)
            continue
        users.append(each)
        records += len(each.records)
        size += sum(len(adapter.data or b"") for adapter in each.adapters)
        if records >= _RECORDS_AT_ONCE or len(users) >= _USERS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield found, users
            found, users, records, size = [], [], 0, 0
    if found or users:
        yield found, users


def _put(connection: Connection, users: Sequence[ExportedUser]) -> Counter[str]:
    """Put users in, within one transaction; what was done."""
    new = {user.user_id for user in users if locked_user(connection, part_of(user.user_id), user.user_id) is None}
    upsert = Upsert(connection)
    for chunk in chunks((user.user_id, record) for user in users for record in user.records):
        upsert.add(chunk)
    upsert.add(Chunk({user.user_id: {} for user in users if not user.records}))
    report = upsert.finish()
    numbers = {row.key: row.family for row in connection.execute(select(families.c.key, families.c.family))}
    indexes, adapters = [], 0
    for user in users:
        row, revision = _row(connection, user, new=user.user_id in new)
        indexes += [
            StoredIndex(user.user_id, index.kind, max(0, revision - index.behind), index.data)
            for index in user.indexes
            if row.erased <= revision - index.behind
        ]
        adapters += _put_adapters(connection, user, row, revision, numbers)
    done = Counter({name: getattr(report, name) for name in _RECORDS})
    return done + Counter(indexes=write_indexes(connection, indexes) if indexes else 0, adapters=adapters)


def _row(connection: Connection, user: ExportedUser, *, new: bool) -> tuple[Any, int]:
    """The user's row, and the revision of which what was made from the exported records is."""
    part = part_of(user.user_id)
    row = locked_user(connection, part, user.user_id)
    if new and user.records:
        revision = row.erased + user.changes
        connection.execute(update(part.users).where(part.users.c.uid == row.uid).values(revision=revision))
        return row, revision
    # With further records in the store, what was made without them is behind by one change at least.
    return row, row.revision - (row.records != len(user.records))


def _put_adapters(connection: Connection, user: ExportedUser, row: Any, revision: int, numbers: dict[str, int]) -> int:
    adapters = part_of(user.user_id).adapters
    own = select(adapters.c.family).where(adapters.c.uid == row.uid).distinct()
    there = set(connection.execute(own).scalars())
    rows = [
        {
            "uid": row.uid,
            "family": numbers[each.family],
            "version": each.version,
            "state": each.state,
            "revision": revision - each.behind,
            "sha256": each.sha256,
            "created": each.created,
            "metrics": json.dumps(each.metrics),
            "payload": each.data,
        }
        for each in user.adapters
        if numbers[each.family] not in there and row.erased <= revision - each.behind
    ]
    if rows:
        connection.execute(adapters.insert(), rows)
    return len(rows)
