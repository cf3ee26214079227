"""What a store asks its database, one statement for each question, so that each answer is of one moment.

Reading one user can return no other's row: each of these statements starts from the one row of `users` with that id,
and reaches everything else through its uid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ScalarSelect, Select, and_, bindparam, func, literal_column, or_, select, union_all

from persona.store.record_rows import CONTENT
from persona.store.schema import PART_TABLES, Part, encoders
from persona.store.upkeep.editing import own_records

PAGE = 1000
"""Users in one page of a stream of users."""


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """The statements that read one part, each with its parameters."""

    known: Select[Any]  # user_id
    profile: Select[Any]  # user_id
    vectors: Select[Any]  # user_id, fingerprint
    index: Select[Any]  # user_id, kind
    indexes: Select[Any]  # user_id
    user: Select[Any]  # user_id
    users: Select[Any]  # after: a uid
    stale: Select[Any]  # after, fingerprint


@cache
def queries(part: Part) -> Queries:
    """The statements of one part."""
    users, records, vectors, indexes = part.users, part.records, part.vectors, part.indexes
    one_user = users.c.user_id == bindparam("user_id")
    encoder = select(encoders.c.encoder).where(encoders.c.fingerprint == bindparam("fingerprint")).scalar_subquery()
    content = [records.c[name] for name in CONTENT]
    page = users.c.uid > bindparam("after")
    return Queries(
        known=select(literal_column("1")).where(one_user),
        profile=select(users.c.revision, users.c.expires, records.c.record_id, *content)
        .select_from(users.outerjoin(records, own_records(part)))
        .where(one_user)
        .order_by(records.c.place),
        vectors=select(
            *(users.c.expires, vectors.c.revision, vectors.c.record_ids, vectors.c.hashes, vectors.c.matrix),
            encoders.c.dim,
        )
        .select_from(users.join(vectors, vectors.c.uid == users.c.uid).join(encoders))
        .where(one_user, encoders.c.fingerprint == bindparam("fingerprint")),
        index=select(users.c.expires, indexes.c.revision, indexes.c.data)
        .select_from(users.join(indexes, indexes.c.uid == users.c.uid))
        .where(one_user, indexes.c.kind == bindparam("kind")),
        indexes=select(indexes.c.kind, indexes.c.revision, indexes.c.data)
        .select_from(users.join(indexes, indexes.c.uid == users.c.uid))
        .where(one_user)
        .order_by(indexes.c.kind),
        user=select(users.c.revision, users.c.erased, users.c.expires, users.c.records).where(one_user),
        users=select(users.c.uid, users.c.user_id).where(page).order_by(users.c.uid).limit(PAGE),
        stale=select(users.c.uid, users.c.user_id)
        .select_from(users.outerjoin(vectors, and_(vectors.c.uid == users.c.uid, vectors.c.encoder == encoder)))
        .where(page, users.c.records > 0, or_(vectors.c.revision.is_(None), vectors.c.revision < users.c.revision))
        .order_by(users.c.uid)
        .limit(PAGE),
    )


def counts() -> Select[Any]:
    """One row: users, records without those that have expired at the moment `at`, vectors and indexes."""
    every = union_all(
        *(
            select(
                select(func.count()).select_from(part.users).scalar_subquery().label("users"),
                (func.coalesce(_all_records(part), 0) - _expired_records(part)).label("records"),
                select(func.count()).select_from(part.vectors).scalar_subquery().label("vectors"),
                select(func.count()).select_from(part.indexes).scalar_subquery().label("indexes"),
            )
            for part in PART_TABLES
        )
    ).subquery()
    return select(*(func.coalesce(func.sum(column), 0) for column in every.columns))


def _all_records(part: Part) -> ScalarSelect[Any]:
    return select(func.sum(part.users.c.records)).scalar_subquery()


def _expired_records(part: Part) -> ScalarSelect[Any]:
    return (
        select(func.count())
        .select_from(part.users.join(part.records, own_records(part)))
        .where(part.users.c.expires <= bindparam("at"), part.records.c.expires <= bindparam("at"))
        .scalar_subquery()
    )


def encoders_in_use() -> Select[Any]:
    """fingerprint, dim and number of users of every encoder that there are vectors from."""
    every = union_all(
        *(
            select(part.vectors.c.encoder, func.count().label("users")).group_by(part.vectors.c.encoder)
            for part in PART_TABLES
        )
    ).subquery()
    return (
        select(encoders.c.fingerprint, encoders.c.dim, func.sum(every.c.users))
        .join(every, every.c.encoder == encoders.c.encoder)
        .group_by(encoders.c.encoder, encoders.c.fingerprint, encoders.c.dim)
        .order_by(encoders.c.encoder)
    )
