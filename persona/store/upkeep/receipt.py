"""Forgetting a user with a receipt: what was there, what is left when it is read back, and what no store can reach.

>>> from persona.records import Record
>>> store = ProfileStore("sqlite:///persona.db")
>>> report = store.upsert([("ana", Record("Moody and stylish.", target="5"))])
>>> receipt = forget_with_receipt(store, "ana")
>>> [(part.what, part.removed, part.left) for part in receipt.parts if part.removed], receipt.complete
([('records', 1, 0), ('ids', 1, 0)], True)

There is a receipt only if the bytes were overwritten too (`ProfileStore.forget` says where it cannot be).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from persona.records import check_user_id
from persona.store.derived import CHUNK
from persona.store.profile_store import ProfileStore
from persona.store.schema import Part, part_of
from persona.store.upkeep.expiry import now
from persona.store.upkeep.exports import noted_exports

_TABLES = {"users": "ids", "vectors": "vector matrices", "keys": "API keys"}
"""What is in the tables whose names do not say it."""

_INDEXES = {
    "summary": "summaries",
    "soft-prompt": "soft prompts",
    "neutral": "neutral texts",
    "segment": "memberships",
    CHUNK: "adapter chunks",
}
"""What the kinds of indexes are that have names like ``summary:LaMP_3``; the others are indexes."""


@dataclass(frozen=True, slots=True)
class ErasedPart:
    """One kind of thing that was erased.

    Attributes:
        what: in the plural, e.g. ``"records"`` or ``"soft prompts"``.
        removed: how many there were.
        left: how many of them were found when the database was read once more.
    """

    what: str
    removed: int
    left: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased of a user.

    Attributes:
        user_id: whom; whoever keeps a receipt keeps the id.
        time: when it was done and read back, ISO 8601, UTC.
        complete: whether nothing of what was there is left in the database.
        parts: what was in the database.
        dropped: what this process held in memory, by what it was (`persona.caches`); what is kept by a text and not by
            a user was dropped for everybody.
        not_reached: what is beyond the store, by name where it is known.
    """

    user_id: str
    time: str
    complete: bool
    parts: tuple[ErasedPart, ...]
    dropped: Mapping[str, int]
    not_reached: tuple[str, ...]


def forget_with_receipt(store: ProfileStore, user_id: str) -> Receipt:
    """`ProfileStore.forget`, and then a look at what is left. Of an unknown user there was nothing, which is no error.

    Raises:
        InvalidUserIdError: if `user_id` is not a legal id.
        StoreError: as `ProfileStore.forget`.
    """
    part = part_of(check_user_id(user_id))
    rows = store.database.rows(select(part.users.c.uid).where(part.users.c.user_id == user_id))
    # A uid is never given twice: who comes back meanwhile by the same id has another one.
    uid = rows[0][0] if rows else None
    before = _held(store, part, uid)
    dropped = store.forget(user_id).dropped
    after = _held(store, part, uid)
    return Receipt(
        user_id,
        now(),
        not any(after.values()),
        tuple(ErasedPart(what, number, after[what]) for what, number in before.items()),
        {what: number for what, number in dropped.items() if number},
        not_reached(store),
    )


def not_reached(store: ProfileStore) -> tuple[str, ...]:
    """What no command of the store erases, by name where it is known."""
    files = [f"{each.path} ({each.what}, {each.time[:10]})" for each in noted_exports(store.database)]
    log = [] if store.database.is_sqlite else ["the server's log (pg_wal), its archives and standbys"]
    return (
        *files,
        *log,
        "backups and copies of the database, other exports, folders of evaluations and trainings, the memory of other "
        "processes until they end",
    )


def _held(store: ProfileStore, part: Part, uid: int | None) -> Counter[str]:
    """How many rows there are of the user, by what they are."""
    held: Counter[str] = Counter()
    for table in [part.records, *(table for table in part.tables() if table is not part.records)]:
        name = table.name.removeprefix("persona_").removesuffix(f"_{part.number:02}")
        own = table.c.uid == uid
        if table is part.indexes:
            held.update(dict.fromkeys((*_INDEXES.values(), name), 0))
            for (kind,) in store.database.rows(select(table.c.kind).where(own)):
                held[_INDEXES.get(kind.partition(":")[0], name)] += 1
        else:
            ((number,),) = store.database.rows(select(func.count()).select_from(table).where(own))
            held[_TABLES.get(name, name)] = number
    return held
