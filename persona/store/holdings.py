"""Everything that a store holds on one user: what `persona show` prints, and what `forget` erases.

>>> from persona.records import Record
>>> store = ProfileStore("sqlite:///persona.db")
>>> report = store.upsert([("ana", Record("Moody and stylish.", target="5"))])
>>> held = holdings(store, "ana")
>>> len(held.profile), held.vectors, held.indexes
(1, (), ())

It reads the tables themselves, so a new kind of index, or a table added by another module for users' data
(`persona.store.schema.user_table`), appears by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, func, select

from persona.records import Profile
from persona.store.derived import CHUNK, chunk_head, in_chunk
from persona.store.profile_store import ProfileStore
from persona.store.queries import queries
from persona.store.schema import Part, encoders, families, part_of
from persona.store.upkeep.expiry import has_expired, now


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
        fresh: whether that is the profile's revision now; of a chunk, whether it holds the chunk's records as they are.
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
    """One version of an adapter: of which family, in which state, made when and how good.

    Attributes:
        family: the family's whole name, which lists every adapted layer.
        family_key: the same in 12 characters (`persona.adapters.family.Family.key`).
    """

    family: str
    family_key: str
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
        profile: the records that have not expired, oldest first.
        expired: records that have expired and were not removed yet. Until then nothing is read that was made from all
            of the user's records, and it is not listed.
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
    expired: int = 0

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "user_id": self.profile.user_id,
            "revision": self.profile.revision,
            "records": [record.as_dict() for record in self.profile],
            "expired": self.expired,
            **{name: [asdict(each) for each in getattr(self, name)] for name in ("vectors", "indexes", "adapters")},
            "others": dict(self.others),
        }


def holdings(store: ProfileStore, user_id: str) -> Holdings:
    """Everything that `store` holds on a user.

    Raises:
        InvalidUserIdError: if `user_id` is not a legal id.
        UnknownUserError: if the store does not know the user.
        StoreError: if the database fails.
    """
    store.check_known(user_id)
    profile, part, read = store.profile(user_id), part_of(user_id), store.database.rows
    parameters, revision = {"user_id": user_id}, profile.revision
    ((*_, next_expiry, records),) = read(queries(part).user, parameters)
    due = has_expired(next_expiry, now())
    return Holdings(
        profile,
        tuple(
            HeldVectors(name, size // (2 * dim), dim, made_from, made_from == revision, size)
            for name, dim, made_from, size in read(_vectors(part, user_id))
        ),
        tuple(
            HeldIndex(kind, made_from, _fresh(profile, kind, made_from, data), len(data), _content(data))
            for kind, made_from, data in ([] if due else read(queries(part).indexes, parameters))
        ),
        () if due else tuple(_held_adapter(row, revision) for row in read(_adapters(part, user_id))),
        {
            table.name.removeprefix("persona_").removesuffix(f"_{part.number:02}"): len(
                read(select(table.c.uid).where(_own(part, table, user_id)))
            )
            for table in part.tables()
            if table not in (part.users, part.records, part.vectors, part.indexes, part.adapters)
        },
        expired=records - len(profile) if due else 0,
    )


def _fresh(profile: Profile, kind: str, made_from: int, data: bytes) -> bool:
    if not kind.startswith(f"{CHUNK}:"):
        return made_from == profile.revision
    return data.startswith(chunk_head(record for record in profile if in_chunk(kind, record.id)))


def _held_adapter(row: tuple[Any, ...], revision: int) -> HeldAdapter:
    name, key, version, state, made_from, created, size, metrics = row
    fresh = made_from == revision
    return HeldAdapter(name, key[:12], version, state, made_from, fresh, created, size, json.loads(metrics))


def _own(part: Part, table: Table, user_id: str) -> ColumnElement[bool]:
    """The rows of the user in one of the part's tables."""
    return table.c.uid == select(part.users.c.uid).where(part.users.c.user_id == user_id).scalar_subquery()


def _vectors(part: Part, user_id: str) -> Select[Any]:
    vectors = part.vectors
    return (
        select(encoders.c.fingerprint, encoders.c.dim, vectors.c.revision, func.length(vectors.c.matrix).label("size"))
        .select_from(vectors.join(encoders))
        .where(_own(part, vectors, user_id))
        .order_by(encoders.c.fingerprint)
    )


def _adapters(part: Part, user_id: str) -> Select[Any]:
    adapters = part.adapters.c
    return (
        select(
            families.c.name,
            families.c.key,
            adapters.version,
            adapters.state,
            adapters.revision,
            adapters.created,
            func.coalesce(func.length(adapters.payload), 0).label("size"),
            adapters.metrics,
        )
        .select_from(part.adapters.join(families))
        .where(_own(part, part.adapters, user_id))
        .order_by(families.c.name, adapters.version)
    )


def _content(data: bytes) -> Any:
    """What JSON says; None for anything else."""
    if data[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(data)
    except ValueError:
        return None
