"""The index that the store keeps with a user's records: for each term, what it adds to the score of each record.

A query is then answered by looking its words up and adding: no text is cut and no formula evaluated. The weights are
float64, so that a ranking from the index is that from the text, ties included.

The bytes, little-endian: a header of 56 bytes (`_HEADER`), the terms' hashes in ascending order (64-bit XXH3 of the
UTF-8 bytes, u64), the weights (f64), the terms' bounds (i32), and the record of each weight (u16, or u32 beyond 65,536
records). They are looked at in place: reading runs no code and copies nothing. No word stands in them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from persona.errors import DataFormatError

from .term_counts import postings_of, sum_by_record

_MAGIC = b"PRSNIDX1"

_HEADER = struct.Struct("<8sQ16sQQII")
"""Magic, checksum of all that follows it, fingerprint, postings, terms, records, bytes per record number."""

_CHECKED_FROM = 16
"""Where in the bytes the part begins that the checksum covers."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreIndex:
    """What each term adds to the score of each record of one profile.

    Attributes:
        fingerprint: 16 bytes that name the texts and the rules that the index was made from.
        hashes: the terms, ascending, uint64.  # (terms,)
        bounds: where each term's postings begin and end, int32.  # (terms + 1,)
        records: the record of each posting.  # (postings,)
        weights: what it adds to that record's score, float64.  # (postings,)
        n_records: how many records the profile has.
    """

    fingerprint: bytes
    hashes: NDArray[np.uint64]
    bounds: NDArray[np.int32]
    records: NDArray[np.integer[Any]]
    weights: NDArray[np.float64]
    n_records: int

    def score(self, tokens: Sequence[str]) -> NDArray[np.float64]:
        """The sum of the weights of `tokens` for each record, added in their order.  # (records,)

        A word that is no term of the profile is taken for one with a probability of terms / 2^64.
        """
        asked = term_hashes(tokens)
        places = self.hashes.searchsorted(asked)
        numbers = places[self.hashes.take(places, mode="clip") == asked] if len(self.hashes) else places[:0]
        _, places = postings_of(numbers, self.bounds)
        return sum_by_record(self.records[places], self.weights[places], self.n_records)

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        return self.hashes.nbytes + self.bounds.nbytes + self.records.nbytes + self.weights.nbytes

    def to_bytes(self) -> bytes:
        """The index as bytes, for `from_bytes`."""
        width = 2 if self.n_records <= 2**16 else 4
        sizes = (len(self.weights), len(self.hashes), self.n_records, width)
        checked = b"".join(
            (
                _HEADER.pack(_MAGIC, 0, self.fingerprint, *sizes)[_CHECKED_FROM:],
                self.hashes.astype("<u8").tobytes(),
                self.weights.astype("<f8").tobytes(),
                self.bounds.astype("<i4").tobytes(),
                self.records.astype(f"<u{width}").tobytes(),
            )
        )
        return _MAGIC + xxhash.xxh3_64_intdigest(checked).to_bytes(8, "little") + checked

    @classmethod
    def from_bytes(cls, data: bytes) -> ScoreIndex:
        """The index that `to_bytes` wrote.

        Raises:
            DataFormatError: if `data` is cut short, altered or of another format.
        """
        if len(data) >= _HEADER.size and data[:8] == _MAGIC:
            _, checksum, fingerprint, n_postings, n_terms, n_records, width = _HEADER.unpack_from(data)
            if xxhash.xxh3_64_intdigest(memoryview(data)[_CHECKED_FROM:]) == checksum:
                at = _HEADER.size
                hashes = np.frombuffer(data, "<u8", n_terms, at)
                weights = np.frombuffer(data, "<f8", n_postings, at := at + hashes.nbytes)
                bounds = np.frombuffer(data, "<i4", n_terms + 1, at := at + weights.nbytes)
                records = np.frombuffer(data, f"<u{width}", n_postings, at + bounds.nbytes)
                return cls(fingerprint, hashes, bounds, records, weights, n_records)
        raise DataFormatError(
            "a stored index must be whole and of the format PRSNIDX1, was: "
            f"{len(data)} bytes that are not; build it again from the records"
        )


def read_fingerprint(data: bytes) -> bytes:
    """The fingerprint in `data` (of `ScoreIndex.to_bytes`), without a look at the rest; empty if there is none."""
    return data[16:32] if len(data) >= _HEADER.size and data[:8] == _MAGIC else b""


def term_hashes(tokens: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit XXH3 of each token.  # (tokens,)"""
    digest = xxhash.xxh3_64_intdigest
    try:
        hashes = [digest(token.encode()) for token in tokens]
    except UnicodeEncodeError:
        # A query may hold a lone surrogate, a record never: such a word must get a hash, and meets no term.
        hashes = [digest(token.encode("utf-8", "surrogatepass")) for token in tokens]
    return np.array(hashes, dtype=np.uint64)
