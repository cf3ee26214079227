"""Everything that a store holds on one user: what `persona show` prints, and what `forget` erases.

>>> held = holdings(store, "ana")                                                               # doctest: +SKIP
>>> [(index.kind, index.fresh, index.size) for index in held.indexes]                           # doctest: +SKIP
[('bm25:text', True, 4120), ('summary:LaMP_3', False, 913)]

It reads the tables themselves, so that a new kind of index, or a table that some later part adds for users' data
(`persona.store.schema.user_table`), appears by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from persona.errors import UnknownUserError
from persona.records import Profile, check_user_id
from persona.store.schema import encoders, families, part_of

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True)
class HeldVectors:
    """One matrix: the encoder's fingerprint, how many records it holds vectors of, and whether it lags behind."""

    fingerprint: str
    rows: int
    dim: int
    revision: int
    fresh: bool
    size: int


@dataclass(frozen=True, slots=True)
class HeldIndex:
    """One index, summary, soft prompt or other derived datum.

    Attributes:
        kind: whose it is, e.g. ``"bm25:text"`` or ``"summary:LaMP_3"``.
        revision: of the profile that it was made from.
        fresh: whether that is the profile's revision now.
        size: in bytes.
        content: what it says, where it is JSON; None for binary data.
    """

    kind: str
    revision: int
    fresh: bool
    size: int
    content: Any = None


@dataclass(frozen=True, slots=True)
class HeldAdapter:
    """One version of an adapter: of which family, in which state, made when and how good."""

    family: str
    version: int
    state: str
    revision: int
    fresh: bool
    created: str
    size: int
    metrics: Any = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is held on a user.

    Attributes:
        profile: the records, oldest first.
        vectors: by encoder.
        indexes: by kind.
        adapters: by family and version.
        others: rows in further tables, by the table's name without its part.
    """

    profile: Profile
    vectors: tuple[HeldVectors, ...]
    indexes: tuple[HeldIndex, ...]
    adapters: tuple[HeldAdapter, ...]
    others: Mapping[str, int]


def holdings(store: ProfileStore, user_id: str) -> Holdings:
    """Everything that `store` holds on a user.

    Raises:
        InvalidUserIdError: if `user_id` is not a legal id.
        UnknownUserError: if the store does not know the user.
        StoreError: if the database fails.
    """
    part = part_of(check_user_id(user_id))
    profile = store.profile(user_id)
    asked = {"user_id": user_id}
    users, vectors, indexes, adapters = part.users, part.vectors, part.indexes, part.adapters
    mine = users.c.user_id == user_id
    if not store.database.rows(select(users.c.uid).where(mine), asked):
        raise UnknownUserError(f"the store holds nothing on {user_id!r}: `persona ingest` puts histories in")
    matrices = store.database.rows(
        select(encoders.c.fingerprint, encoders.c.dim, vectors.c.revision, func.length(vectors.c.matrix).label("size"))
        .select_from(users.join(vectors, vectors.c.uid == users.c.uid).join(encoders))
        .where(mine)
        .order_by(encoders.c.fingerprint),
        asked,
    )
    derived = store.database.rows(
        select(indexes.c.kind, indexes.c.revision, indexes.c.data)
        .select_from(users.join(indexes, indexes.c.uid == users.c.uid))
        .where(mine)
        .order_by(indexes.c.kind),
        asked,
    )
    trained = store.database.rows(
        select(
            families.c.name,
            adapters.c.version,
            adapters.c.state,
            adapters.c.revision,
            adapters.c.created,
            func.coalesce(func.length(adapters.c.payload), 0).label("size"),
            adapters.c.metrics,
        )
        .select_from(users.join(adapters, adapters.c.uid == users.c.uid).join(families))
        .where(mine)
        .order_by(families.c.name, adapters.c.version),
        asked,
    )
    known = {users, part.records, vectors, indexes, adapters}
    others = {}
    for table in part.tables():
        if table not in known:
            rows = store.database.rows(
                select(func.count()).select_from(users.join(table, table.c.uid == users.c.uid)).where(mine), asked
            )
            others[table.name.removeprefix("persona_").removesuffix(f"_{part.number:02}")] = int(rows[0][0])
    now = profile.revision
    return Holdings(
        profile,
        tuple(
            HeldVectors(fingerprint, size // (2 * dim), dim, revision, revision == now, size)
            for fingerprint, dim, revision, size in matrices
        ),
        tuple(
            HeldIndex(kind, revision, revision == now, len(data), _content(bytes(data)))
            for kind, revision, data in derived
        ),
        tuple(
            HeldAdapter(
                family, version, state, revision, revision == now, created, int(size), _content(metrics.encode())
            )
            for family, version, state, revision, created, size, metrics in trained
        ),
        others,
    )


def _content(data: bytes) -> Any:
    """What JSON says; None for anything else."""
    if data[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(data)
    except ValueError:
        return None
