"""Changing and deleting records of a user, with what was made from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Update, and_, bindparam, delete, func, literal_column, select, update

from persona.records import Record
from persona.store.database import insert_if_absent
from persona.store.derived import drop_records
from persona.store.record_rows import CONTENT, content_of
from persona.store.schema import RECORDS_PER_USER, Part, parts

KEYS_AT_ONCE = 500
"""Keys in one list of a query: PostgreSQL plans long ones badly, and SQLite has a limit."""


def locked_user(connection: Connection, part: Part, user_id: str) -> Any:
    """The user's row, locked against every other writer; None if there is none."""
    users = part.users
    return connection.execute(select(users).where(users.c.user_id == user_id).with_for_update()).one_or_none()


def locked_floor(connection: Connection, part: Part) -> int:
    """The revision that new users of the part start at; held, so that nobody is forgotten and made again below it."""
    floor = select(parts.c.revision_floor).where(parts.c.part == part.number).with_for_update(read=True)
    return int(connection.execute(floor).scalar_one())


def add_users(connection: Connection, part: Part, user_ids: Sequence[str], floor: int) -> None:
    """Make those of the users that there are not, without records, at the part's `locked_floor`."""
    born = {"revision": floor, "erased": floor + 1, "records": 0, "appended": 0}
    rows = [{"user_id": user_id, **born} for user_id in user_ids]
    connection.execute(insert_if_absent(connection, part.users), rows)


def delete_records(connection: Connection, part: Part, user: Any, record_ids: Sequence[str]) -> int:
    """Delete some of a user's records; how many there were.

    Their vectors go with them, and the user's indexes and adapters as a whole. The part is marked, so that the bytes
    are overwritten when next that is done.

    Args:
        connection: within a transaction.
        part: the user's part.
        user: the user's row (`locked_user`).
        record_ids: the records; unknown ids are skipped.
    """
    records = part.records
    deleted = sum(
        connection.execute(
            delete(records).where(
                records.c.uid == user.uid, records.c.record_id.in_(record_ids[start : start + KEYS_AT_ONCE])
            )
        ).rowcount
        for start in range(0, len(record_ids), KEYS_AT_ONCE)
    )
    if deleted:
        _erase_derived(connection, part, user, record_ids, records=user.records - deleted)
    return deleted


def edit_record(connection: Connection, part: Part, user: Any, record: Record) -> None:
    """Give the record of that id another content. What was made from the old one goes, as if it were deleted.

    Args:
        connection: within a transaction.
        part: the user's part.
        user: the user's row (`locked_user`).
        record: with the id of one that is there.
    """
    records = part.records
    connection.execute(
        update(records)
        .where(records.c.uid == user.uid, records.c.record_id == record.id)
        .values(hash=bytes.fromhex(record.content_hash), **dict(zip(CONTENT, content_of(record), strict=True)))
    )
    _erase_derived(connection, part, user, [record.id], records=user.records)


def _erase_derived(connection: Connection, part: Part, user: Any, record_ids: Sequence[str], *, records: int) -> None:
    """Give the user a new revision, which nothing that was made from `record_ids` is admitted to."""
    revision = user.revision + 1
    connection.execute(
        update(part.users)
        .where(part.users.c.uid == user.uid)
        .values(revision=revision, erased=revision, records=records)
    )
    connection.execute(renew_expiry(part), {"its_uid": user.uid})
    # Vectors of all that is left are vectors of all, unless one was changed, which has none now.
    whole = revision if records < user.records else None
    drop_records(connection, part, user, record_ids, whole=whole)
    more = parts.c.deletions_due + 1
    connection.execute(update(parts).where(parts.c.part == part.number).values(deletions_due=more))


def own_records(part: Part) -> ColumnElement[bool]:
    """The records of a row of the part's users: one range of places."""
    # As numbers in the text, for parameters would hide from PostgreSQL that the range is narrow.
    width: ColumnElement[int] = literal_column(str(RECORDS_PER_USER))
    uid, place = part.users.c.uid, part.records.c.place
    return and_(place >= uid * width, place < (uid + literal_column("1")) * width)


@cache
def renew_expiry(part: Part) -> Update:
    """Note at the user `its_uid` when the next of their records expires."""
    earliest = select(func.min(part.records.c.expires)).where(own_records(part)).correlate(part.users)
    return update(part.users).where(part.users.c.uid == bindparam("its_uid")).values(expires=earliest.scalar_subquery())
