"""The vectors of one user from one encoder: one matrix, searched exactly.

>>> import numpy as np
>>> vectors = UserVectors("ana", "toy", ("r1", "r2"), ("h1", "h2"), np.eye(2, dtype=np.float16), revision=1)
>>> inner_products(vectors.matrix, np.array([0.5, 0.25], dtype=np.float32)).tolist()
[0.5, 0.25]

A user has some hundred records, so an exact scan of their own matrix takes microseconds and no approximate index is
needed. At rest the numbers are float16, half the bytes of float32: for unit vectors the error of a cosine stays below
0.001. All arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError
from persona.protocols import RecordEncoder
from persona.records import MAX_ID_LENGTH, check_user_id, unstorable

_BLOCK = 1024
"""Rows that are widened to float32 at a time: 1.5 MB at 384 dimensions, so that a block stays in the cache."""

_EXPONENT = np.uint16(0x7C00)


@dataclass(frozen=True, slots=True, eq=False)
class UserVectors:
    """One vector for each record of a user, from one encoder.

    Attributes:
        user_id: whose records they are.
        fingerprint: names the encoder, and what of a record it was given.
        record_ids: the record of each row; no id twice.
        hashes: `Record.content_hash` of each row's record when it was embedded: a record whose hash is another one by
            now has to be embedded again, the others need not be.
        matrix: float16, C-contiguous, finite.  # (records, dim)
        revision: of the profile that was embedded (`Profile.revision`). If the profile has a later one, the rows may
            lag behind its records.

    Raises:
        InvalidUserIdError: if `user_id` is none.
        InvalidOptionError: if the parts do not belong together, or `matrix` has another type or layout.
    """

    user_id: str
    fingerprint: str
    record_ids: tuple[str, ...]
    hashes: tuple[str, ...]
    matrix: NDArray[np.float16]
    revision: int

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        check_name(self.fingerprint, "an encoder's fingerprint")
        _check_matrix(self.matrix)
        lengths = (len(self.record_ids), len(self.hashes), len(self.matrix))
        if len(set(lengths)) != 1:
            raise InvalidOptionError(
                "record ids, hashes and matrix rows must be equally many, were: {}, {} and {}".format(*lengths)
            )
        if len(set(self.record_ids)) != len(self.record_ids):
            raise InvalidOptionError("the record ids of vectors must differ: leave repeated ones out")
        flaw = unstorable("".join((*self.record_ids, *self.hashes)))
        if flaw:
            raise InvalidOptionError(f"record ids and hashes must not hold {flaw}")
        if self.revision < 0:
            raise InvalidOptionError(f"`revision` must not be negative, was: {self.revision}")

    def __len__(self) -> int:
        return len(self.record_ids)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.matrix.shape[1])

    def only(self, record_ids: Container[str]) -> UserVectors:
        """The vectors of some of the records."""
        kept = [row for row, record_id in enumerate(self.record_ids) if record_id in record_ids]
        ids, hashes = (tuple(names[row] for row in kept) for names in (self.record_ids, self.hashes))
        return replace(self, record_ids=ids, hashes=hashes, matrix=self.matrix[kept])

    def rows(self, record_ids: Iterable[str]) -> NDArray[np.intp]:
        """The row number of each record, -1 for a record without a vector.  # (record_ids,)"""
        rows = {record_id: row for row, record_id in enumerate(self.record_ids)}
        return np.array([rows.get(record_id, -1) for record_id in record_ids], dtype=np.intp)


class HasVectors(Protocol):
    """What holds users' vectors: a `persona.store.profile_store.ProfileStore`."""

    def vectors(self, user_id: str, fingerprint: str) -> UserVectors | None:
        """The user's vectors from an encoder, or None."""
        ...


def inner_products(matrix: NDArray[np.float16], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inner product of every row with `query`, float32.  # (records,)

    Each depends on its row and the query alone, to the last bit, not on the rows around it: equal rows tie.

    Args:
        matrix: finite.  # (records, dim)
        query: float32.  # (dim,)

    Raises:
        InvalidOptionError: if `query` has another shape than (dim,), or is not finite.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    if query.shape != matrix.shape[1:]:
        raise InvalidOptionError(f"`query` must have the shape {matrix.shape[1:]}, was: {query.shape}")
    if not np.isfinite(query).all():
        raise InvalidOptionError("`query` must be finite: it was embedded to nan or infinity")
    scores = np.empty(len(matrix), dtype=np.float32)
    for start in range(0, len(scores), _BLOCK):
        # Not `@`: BLAS sums a row in another order at the end of a block than inside it, so that the same vector
        # twice would get two scores.
        block = matrix[start : start + _BLOCK].astype(np.float32)
        np.einsum("rd,d->r", block, query, out=scores[start : start + _BLOCK])
    return scores


def vector_fingerprint(encoder: RecordEncoder, view: str) -> str:
    """The fingerprint that vectors of records are stored with: that of the encoder, and which text it was given.

    Vectors of ``"text"`` and of ``"target+text"`` come from one encoder and yet must not be compared.

    Args:
        encoder: the encoder.
        view: the view of a record that it encoded (`Record.view`).
    """
    return f"{encoder.fingerprint}|view={view}"


def check_name(name: str, what: str) -> str:
    """`name`, if it can name an encoder or a kind of index in a store.

    Args:
        name: it must have 1 to 512 characters.
        what: what it is, for the error, e.g. ``"an encoder's fingerprint"``.

    Raises:
        InvalidOptionError: if it is empty, too long, or holds what no database can store.
    """
    if not 1 <= len(name) <= MAX_ID_LENGTH:
        raise InvalidOptionError(f"{what} must have 1 to {MAX_ID_LENGTH} characters, was: {name!r:.80}")
    flaw = unstorable(name)
    if flaw:
        raise InvalidOptionError(f"{what} must not hold {flaw}, was: {name!r:.80}")
    return name


def _check_matrix(matrix: NDArray[np.float16]) -> None:
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise InvalidOptionError(f"the matrix of vectors must have the shape (records, dim), was: {matrix.shape}")
    if matrix.dtype != np.float16:
        raise InvalidOptionError(
            f"the matrix of vectors must be float16, was: {matrix.dtype}: use .astype(numpy.float16)"
        )
    if not matrix.flags.c_contiguous:
        raise InvalidOptionError("the matrix of vectors must be C-contiguous: use numpy.ascontiguousarray")
    # Infinity and nan are the halfs whose exponent bits are all ones; `isfinite` takes five times as long to say so.
    if (matrix.view(np.uint16) & _EXPONENT == _EXPONENT).any():
        raise InvalidOptionError("the matrix of vectors must be finite: some record was embedded to nan or infinity")
