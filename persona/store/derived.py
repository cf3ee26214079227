"""What is made from a user's records and kept beside them: vectors and search indexes, as rows.

Each row says from which revision of the profile it was made. It is admitted only if nothing of the user has been erased
since: so neither a forgotten user nor a deleted record comes back by way of a slow writer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, select, update

from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.records import check_user_id
from persona.store.database import insert_if_absent, insert_or_renew
from persona.store.schema import PART_TABLES, Part, encoders, part_of
from persona.store.vectors import UserVectors

MAX_KIND_LENGTH = 512

KEPT_KINDS = ("forgotten-entities",)
"""Indexes that were not made from records and stay when some are deleted: what a user wants forgotten for good."""


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """A search index of one user; the store does not look inside.

    Attributes:
        user_id: whose it is.
        kind: which retriever's, e.g. ``"bm25:text"``; 1 to 512 characters.
        revision: of the profile that it was made from.
        data: the index.

    Raises:
        InvalidUserIdError: if `user_id` is none.
        InvalidOptionError: if `kind` is empty, too long, or holds NUL.
    """

    user_id: str
    kind: str
    revision: int
    data: bytes

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        if not 1 <= len(self.kind) <= MAX_KIND_LENGTH or "\0" in self.kind:
            raise InvalidOptionError(
                f"an index's kind must have 1 to {MAX_KIND_LENGTH} characters and no NUL, was: {self.kind!r:.80}"
            )


_new = object.__new__
_set_index = {name: StoredIndex.__dict__[name].__set__ for name in StoredIndex.__slots__}
_set_vectors = {name: UserVectors.__dict__[name].__set__ for name in UserVectors.__slots__}
_HALF = np.dtype("<f2")

Derived = TypeVar("Derived", UserVectors, StoredIndex)


def write_vectors(connection: Connection, batch: Sequence[UserVectors]) -> int:
    """Put the admitted ones of `batch` in; return how many.

    Raises:
        FingerprintMismatchError: if vectors of one encoder have two lengths.
    """
    numbers = _encoder_numbers(connection, batch)
    written = 0
    for part, some in _by_part(batch):
        rows = [
            {
                "uid": uid,
                "encoder": numbers[vectors.fingerprint],
                "revision": vectors.revision,
                "record_ids": _joined(vectors.record_ids),
                "hashes": _joined(vectors.hashes),
                "matrix": _matrix_bytes(vectors.matrix),
            }
            for uid, vectors in _admitted(connection, part, some)
        ]
        if rows:
            connection.execute(insert_or_renew(connection, part.vectors, "uid", "encoder"), rows)
        written += len(rows)
    return written


def write_indexes(connection: Connection, batch: Sequence[StoredIndex]) -> int:
    """Put the admitted ones of `batch` in; return how many."""
    written = 0
    for part, some in _by_part(batch):
        rows = [
            {"uid": uid, "kind": index.kind, "revision": index.revision, "data": index.data}
            for uid, index in _admitted(connection, part, some)
        ]
        if rows:
            connection.execute(insert_or_renew(connection, part.indexes, "uid", "kind"), rows)
        written += len(rows)
    return written


def vectors_from_row(user_id: str, fingerprint: str, row: Any) -> UserVectors:
    """A row of `persona.store.queries.Queries.vectors`.

    It was checked when it came in. To check it again takes as long as to search it, so the fields are set directly.
    """
    revision, record_ids, hashes, matrix, dim = row
    vectors = _new(UserVectors)
    _set_vectors["user_id"](vectors, user_id)
    _set_vectors["fingerprint"](vectors, fingerprint)
    _set_vectors["record_ids"](vectors, _split(record_ids))
    _set_vectors["hashes"](vectors, _split(hashes))
    numbers = np.frombuffer(matrix, _HALF).astype(np.float16, copy=False)
    _set_vectors["matrix"](vectors, numbers.reshape(-1, dim))
    _set_vectors["revision"](vectors, revision)
    return vectors


def index_from_row(user_id: str, kind: str, row: Any) -> StoredIndex:
    """A row of `persona.store.queries.Queries.index`.

    It was checked when it came in: its fields are set directly, in a fifth of the time that `StoredIndex` takes.
    """
    index = _new(StoredIndex)
    _set_index["user_id"](index, user_id)
    _set_index["kind"](index, kind)
    _set_index["revision"](index, row[0])
    _set_index["data"](index, row[1])
    return index


def drop_records(connection: Connection, part: Part, user: Any, revision: int, record_ids: Iterable[str]) -> None:
    """Take deleted records out of what was made from them; what they cannot be taken out of is deleted.

    Args:
        connection: within the transaction that deleted the records.
        part: the user's part.
        user: the user's row as it was before.
        revision: the user's revision from now on.
        record_ids: the deleted records.
    """
    connection.execute(
        delete(part.indexes).where(part.indexes.c.uid == user.uid, part.indexes.c.kind.not_in(KEPT_KINDS))
    )
    connection.execute(delete(part.adapters).where(part.adapters.c.uid == user.uid))
    vectors, gone = part.vectors, frozenset(record_ids)
    for row in connection.execute(select(vectors).where(vectors.c.uid == user.uid)).all():
        names, hashes = _split(row.record_ids), _split(row.hashes)
        kept = [place for place, name in enumerate(names) if name not in gone]
        matrix = np.frombuffer(row.matrix, dtype="<f2").reshape(len(names), -1)
        connection.execute(
            update(vectors)
            .where(vectors.c.uid == user.uid, vectors.c.encoder == row.encoder)
            .values(
                record_ids=_joined([names[place] for place in kept]),
                hashes=_joined([hashes[place] for place in kept]),
                matrix=matrix[kept].tobytes(),
                # What held every record before holds every record that is left.
                revision=revision if row.revision == user.revision else row.revision,
            )
        )


def _admitted(connection: Connection, part: Part, batch: Sequence[Derived]) -> list[tuple[int, Derived]]:
    """Those of `batch` that may be kept, with their users' uids; the users are not erased before the transaction ends.

    A user whom another transaction is changing at this moment is passed over: what was made from the profile before
    would be stale at once, and to wait here could be to wait for one who waits for us.
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


def _by_part(batch: Sequence[Derived]) -> list[tuple[Part, list[Derived]]]:
    dealt: defaultdict[int, list[Derived]] = defaultdict(list)
    for each in batch:
        dealt[part_of(each.user_id).number].append(each)
    return [(PART_TABLES[number], dealt[number]) for number in sorted(dealt)]


def _joined(names: Sequence[str]) -> bytes:
    return "\0".join(names).encode()


def _split(names: bytes) -> tuple[str, ...]:
    return tuple(names.decode().split("\0")) if names else ()


def _matrix_bytes(matrix: NDArray[np.float16]) -> bytes:
    return matrix.astype("<f2", copy=False).tobytes()
