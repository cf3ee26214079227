"""The vectors of one user from one encoder: one matrix, searched exactly.

>>> import numpy as np
>>> vectors = UserVectors("ana", "toy", ("r1", "r2"), ("h1", "h2"), np.eye(2, dtype=np.float16), revision=1)
>>> rows, scores = vectors.top_k(np.array([0.6, 0.8], dtype=np.float32), k=1)
>>> vectors.record_ids[rows[0]], round(float(scores[0]), 2)
('r2', 0.8)

A user has some hundred records, so an exact scan of their own matrix takes microseconds and no approximate index is
needed. At rest the numbers are float16, half the bytes of float32: for unit vectors the error of a cosine stays below
0.001. All arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError
from persona.protocols import RecordEncoder
from persona.records import check_user_id

MAX_FINGERPRINT_LENGTH = 512
"""Longest fingerprint of an encoder, in characters."""

_BLOCK = 1024
"""Rows that are widened to float32 at a time: 1.5 MB at 384 dimensions, so that a block stays in the cache."""

_EXPONENT = np.uint16(0x7C00)
_SIGN_AND_SHIFTED = np.uint32(0x8FFFE000).view(np.int32)
_EXPONENT_DIFFERENCE = np.float32(2.0**112)


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
        check_fingerprint(self.fingerprint)
        _check_matrix(self.matrix)
        lengths = (len(self.record_ids), len(self.hashes), len(self.matrix))
        if len(set(lengths)) != 1:
            raise InvalidOptionError(
                "record ids, hashes and matrix rows must be equally many, were: {}, {} and {}".format(*lengths)
            )
        if len(set(self.record_ids)) != len(self.record_ids):
            raise InvalidOptionError("the record ids of vectors must differ: leave repeated ones out")
        if "\0" in "".join(self.record_ids) or "\0" in "".join(self.hashes):
            raise InvalidOptionError("record ids and hashes must not hold NUL (\\x00)")
        if self.revision < 0:
            raise InvalidOptionError(f"`revision` must not be negative, was: {self.revision}")

    def __len__(self) -> int:
        return len(self.record_ids)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.matrix.shape[1])

    def top_k(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The rows with the greatest inner products with `query`, exactly.

        A row's score depends on that row and the query alone, to the last bit, so equal rows tie. Ties are broken by
        row order: the earlier row comes first, and stays if only one of them fits.

        Args:
            query: float32.  # (dim,)
            k: at least 1; if there are fewer rows, all of them come back.

        Returns:
            Row numbers, best first, and their scores, float32.  # both (min(k, records),)

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` has another shape or is not finite.
        """
        if k < 1:
            raise InvalidOptionError(f"`k` must be at least 1, was: {k}")
        scores = self.scores(query)
        if k >= len(scores):
            order = np.argsort(-scores, kind="stable")
            return order, scores[order]
        # Everything at or above the k-th score, in row order, put into a stable order: this is what makes the tie at
        # the edge come out as promised, which `argpartition` alone would not.
        edge = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= edge)
        rows = rows[np.argsort(-scores[rows], kind="stable")[:k]]
        return rows, scores[rows]

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inner product of every row with `query`, float32.  # (records,)

        Raises:
            InvalidOptionError: if `query` has another shape than (dim,), or is not finite.
        """
        return inner_products(self.matrix, query)

    def rows(self, record_ids: Iterable[str]) -> NDArray[np.intp]:
        """The row number of each record, -1 for a record without a vector.  # (record_ids,)"""
        places = {record_id: row for row, record_id in enumerate(self.record_ids)}
        return np.array([places.get(record_id, -1) for record_id in record_ids], dtype=np.intp)


def inner_products(matrix: NDArray[np.float16], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inner product of every row with `query`, float32.

    Each depends on its row and the query alone, to the last bit, not on the rows around it.

    Args:
        matrix: finite.  # (records, dim)
        query: float32.  # (dim,)

    Returns:
        One number for each row.  # (records,)

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
        np.einsum("rd,d->r", _widened(matrix[start : start + _BLOCK]), query, out=scores[start : start + _BLOCK])
    return scores


def vector_fingerprint(encoder: RecordEncoder, view: str) -> str:
    """The fingerprint that vectors of records are stored with: that of the encoder, and which text it was given.

    Vectors of ``"text"`` and of ``"target+text"`` come from one encoder and yet must not be compared.

    Args:
        encoder: the encoder.
        view: the view of a record that it encoded (`Record.view`).
    """
    return f"{encoder.fingerprint}|view={view}"


def check_fingerprint(fingerprint: str) -> str:
    """Return `fingerprint` if it can name an encoder.

    Raises:
        InvalidOptionError: if it is empty, too long, or holds NUL.
    """
    if not 1 <= len(fingerprint) <= MAX_FINGERPRINT_LENGTH or "\0" in fingerprint:
        raise InvalidOptionError(
            f"an encoder's fingerprint must have 1 to {MAX_FINGERPRINT_LENGTH} characters and no NUL, "
            f"was: {fingerprint!r:.80}"
        )
    return fingerprint


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


def _widened(matrix: NDArray[np.float16]) -> NDArray[np.float32]:
    """`matrix` as float32, exactly, in a quarter of the time of ``astype``, which goes number by number.

    The bits of a half, sign-extended and moved up by 13, are those of a single except for the bias of the exponent,
    which a multiplication by 2^112 mends, subnormal numbers included. Infinity and nan would come out wrong; there are
    none.
    """
    bits = matrix.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_SHIFTED
    wide = bits.view(np.float32)
    wide *= _EXPONENT_DIFFERENCE
    return wide
