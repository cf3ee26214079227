"""The users of a store in the order of their ids, a page at a time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Select, bindparam, case, func, select

from persona.store.database import Database
from persona.store.schema import PART_TABLES, Part
from persona.store.upkeep.editing import own_records
from persona.store.upkeep.expiry import now


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user of a store.

    Attributes:
        user_id: the id.
        records: how many records there are that have not expired.
        revision: of the profile (`Profile.revision`).
    """

    user_id: str
    records: int
    revision: int


def users_in_order(database: Database, after: str, page: int) -> Iterator[StoredUser]:
    """The users whose ids come after `after`, streamed by code points.

    Args:
        database: the store's.
        after: an id, known or not; the empty string for all.
        page: users of one part that are read at a time.
    """
    parts = (_of_part(database, part, after, page) for part in PART_TABLES)
    return heapq.merge(*parts, key=attrgetter("user_id"))


def _of_part(database: Database, part: Part, after: str, page: int) -> Iterator[StoredUser]:
    while rows := database.rows(_page(part), {"after": after, "at": now(), "page": page}):
        yield from (StoredUser(*row) for row in rows)
        after = rows[-1][0]


@cache
def _page(part: Part) -> Select[Any]:
    users = part.users.c
    expired = (
        select(func.count()).where(own_records(part), part.records.c.expires <= bindparam("at")).correlate(part.users)
    )
    records = case((users.expires <= bindparam("at"), users.records - expired.scalar_subquery()), else_=users.records)
    return (
        select(users.user_id, records, users.revision)
        .where(users.user_id > bindparam("after"))
        .order_by(users.user_id)
        .limit(bindparam("page"))
    )
