"""What is made from a user's records and kept beside them: vectors and search indexes, as rows.

Each row has the revision of the profile that it was made from. It is admitted only if nothing of the user was erased
since then, so a slow writer cannot bring back a forgotten user or a deleted record.

A *chunk* is an index of some records only, those whose ids have its number as their hash. So when a record is deleted
the other chunks stay.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Table, bindparam, delete, select, update

from persona.errors import FingerprintMismatchError
from persona.records import Record, check_user_id
from persona.store.database import insert_if_absent, insert_or_renew
from persona.store.schema import PART_TABLES, Part, encoders, part_of
from persona.store.vectors import UserVectors, check_name

_HALF = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """A search index of one user; the store does not interpret it.

    Attributes:
        user_id: whose it is.
        kind: which retriever's, e.g. ``"bm25:text"``; 1 to 512 characters.
        revision: of the profile that it was made from.
        data: the index.

    Raises:
        InvalidUserIdError: if `user_id` is not a legal id.
        InvalidOptionError: if `kind` is empty, too long, or no database can store it.
    """

    user_id: str
    kind: str
    revision: int
    data: bytes

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        check_name(self.kind, "an index's kind")


Derived = TypeVar("Derived", UserVectors, StoredIndex)

CHUNK = "adapter-chunk"
"""What the kinds of chunks begin with."""


def chunk_of(record_id: str, chunks: int) -> int:
    """The chunk that a record belongs to, of `chunks`, by a hash of its id."""
    return int.from_bytes(hashlib.blake2b(record_id.encode(), digest_size=8).digest(), "big") % chunks


def chunk_kind(maker: str, chunk: int, chunks: int) -> str:
    """The kind of a chunk that `maker` made, one of `chunks`."""
    return f"{CHUNK}:{maker}:{chunk}/{chunks}"


def chunk_head(records: Iterable[Record]) -> bytes:
    """What the data of a chunk begins with: the hashes of its records, in the order of their ids."""
    hashes = {record.id: record.content_hash for record in sorted(records, key=lambda record: record.id)}
    return json.dumps(hashes, separators=(",", ":")).encode() + b"\n"


def in_chunk(kind: str, record_id: str) -> bool:
    """Whether a chunk of that kind would hold the record."""
    chunk, chunks = map(int, kind.rpartition(":")[2].split("/"))
    return chunk_of(record_id, chunks) == chunk


def write_vectors(connection: Connection, batch: Sequence[UserVectors]) -> int:
    """Write the admitted ones of `batch`; return how many.

    Raises:
        FingerprintMismatchError: if vectors of one encoder have two lengths.
    """
    numbers = _encoder_numbers(connection, batch)

    def columns(vectors: UserVectors) -> dict[str, object]:
        return {
            "encoder": numbers[vectors.fingerprint],
            "record_ids": _joined(vectors.record_ids),
            "hashes": _joined(vectors.hashes),
            "matrix": vectors.matrix.astype(_HALF, copy=False).tobytes(),
        }

    return _write(connection, batch, lambda part: part.vectors, "encoder", columns)


def write_indexes(connection: Connection, batch: Sequence[StoredIndex]) -> int:
    """Write the admitted ones of `batch`; return how many."""
    return _write(
        connection, batch, lambda part: part.indexes, "kind", lambda index: {"kind": index.kind, "data": index.data}
    )


def vectors_of_row(user_id: str, fingerprint: str, row: Any) -> UserVectors:
    """The vectors in a row of `persona.store.queries.Queries.vectors`.

    They were checked when they came in. To check them again takes as long as to read them, so the fields are set
    directly.
    """
    _, revision, record_ids, hashes, data, dim = row
    matrix = np.frombuffer(data, _HALF).astype(np.float16, copy=False).reshape(-1, dim)
    vectors = object.__new__(UserVectors)
    values = (user_id, fingerprint, _split(record_ids), _split(hashes), matrix, revision)
    for name, value in zip(UserVectors.__slots__, values, strict=True):
        object.__setattr__(vectors, name, value)
    return vectors


def drop_records(
    connection: Connection, part: Part, user: Any, record_ids: Iterable[str], *, whole: int | None
) -> None:
    """Take records out of what was made from them; what they cannot be taken out of is deleted.

    Args:
        connection: within the transaction that deleted or changed the records.
        part: the user's part.
        user: the user's row as it was before.
        record_ids: the records.
        whole: the revision of which vectors that were up to date still are, without the records; None for none.
    """
    kinds = part.indexes.c.kind
    own, chunks = part.indexes.c.uid == user.uid, kinds.startswith(f"{CHUNK}:", autoescape=True)
    deleted = frozenset(record_ids)
    held = connection.execute(select(kinds).where(own, chunks)).scalars()
    kept = [kind for kind in held if not any(in_chunk(kind, record_id) for record_id in deleted)]
    connection.execute(delete(part.indexes).where(own, kinds.not_in(kept)))
    connection.execute(delete(part.adapters).where(part.adapters.c.uid == user.uid))
    vectors = part.vectors
    for row in connection.execute(select(vectors).where(vectors.c.uid == user.uid)).all():
        names, hashes = _split(row.record_ids), _split(row.hashes)
        left = [position for position, name in enumerate(names) if name not in deleted]
        matrix = np.frombuffer(row.matrix, _HALF).reshape(len(names), -1)
        connection.execute(
            update(vectors)
            .where(vectors.c.uid == user.uid, vectors.c.encoder == row.encoder)
            .values(
                record_ids=_joined([names[position] for position in left]),
                hashes=_joined([hashes[position] for position in left]),
                matrix=matrix[left].tobytes(),
                revision=row.revision if whole is None or row.revision < user.revision else whole,
            )
        )


def _write(
    connection: Connection,
    batch: Sequence[Derived],
    table_of: Callable[[Part], Table],
    key: str,
    columns: Callable[[Derived], dict[str, object]],
) -> int:
    """Write the admitted ones of `batch` to the table of each part, by uid and `key`; return how many."""
    by_part: defaultdict[int, list[Derived]] = defaultdict(list)
    for each in batch:
        by_part[part_of(each.user_id).number].append(each)
    written = 0
    for number in sorted(by_part):
        part = PART_TABLES[number]
        rows = [
            {"uid": uid, "revision": each.revision, **columns(each)}
            for uid, each in _admitted(connection, part, by_part[number])
        ]
        if rows:
            connection.execute(insert_or_renew(connection, table_of(part), "uid", key), rows)
        written += len(rows)
    return written


def _admitted(connection: Connection, part: Part, batch: Sequence[Derived]) -> list[tuple[int, Derived]]:
    """Those of `batch` that may be kept, with their users' uids; the users are not erased before the transaction ends.

    A user whom another transaction is changing right now is skipped: what was made from the profile before would be
    stale at once, and waiting could end in a deadlock.
    """
    users = part.users.c
    rows = connection.execute(
        select(users.uid, users.user_id, users.erased, users.revision)
        .where(users.user_id.in_(bindparam("user_ids", expanding=True)))
        .with_for_update(read=True, skip_locked=True),
        {"user_ids": list({each.user_id for each in batch})},
    )
    known = {row.user_id: row for row in rows}
    admitted = []
    for each in batch:
        user = known.get(each.user_id)
        if user is not None and user.erased <= each.revision <= user.revision:
            admitted.append((user.uid, each))
    return admitted


def _encoder_numbers(connection: Connection, batch: Sequence[UserVectors]) -> dict[str, int]:
    """The number of each encoder in `batch`, given to new ones now."""
    dims: dict[str, int] = {}
    for vectors in batch:
        _check_dim(vectors.fingerprint, vectors.dim, dims.setdefault(vectors.fingerprint, vectors.dim))
    connection.execute(
        insert_if_absent(connection, encoders),
        [{"fingerprint": fingerprint, "dim": dims[fingerprint]} for fingerprint in sorted(dims)],
    )
    numbers = {}
    for row in connection.execute(select(encoders).where(encoders.c.fingerprint.in_(list(dims)))):
        _check_dim(row.fingerprint, dims[row.fingerprint], row.dim)
        numbers[row.fingerprint] = row.encoder
    return numbers


def _check_dim(fingerprint: str, given: int, known: int) -> None:
    if given != known:
        raise FingerprintMismatchError(
            f"vectors of one encoder must have one length: {fingerprint!r} has {known}, was given {given}"
        )


def _joined(names: Sequence[str]) -> bytes:
    return "\0".join(names).encode()


def _split(names: bytes) -> tuple[str, ...]:
    return tuple(names.decode().split("\0")) if names else ()
