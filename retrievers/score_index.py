"""The index that the store keeps with a user's records: for each term, what it adds to the score of each record.

A query is then answered by looking its words up and adding: no text is cut and no formula evaluated. The weights are
float64, so that a ranking from the index is that from the text, ties included.

The bytes, in the machine's own order: a header of 48 bytes (`_HEADER`), the terms' hashes with gaps between them (u64),
where each one's postings begin among the bytes that follow (u32), and the postings: a weight (f64) and a record (u16,
or u32 beyond 65,536 records) each. They are looked at in place: reading runs no code and copies nothing. No word stands
in them.

Hashes are 64-bit XXH3 of the UTF-8 bytes. They stand in ascending order, each at its *home* or soon behind it: the
place that its first bits name, of a power of two that leaves a quarter of the places empty or more. A gap holds the
greatest number there is. So a word is found in one or two steps from its home, or a hash that is greater, and a query
touches a few lines of memory: with some 20 words that is twice as fast as numpy, whose every call has to fetch code of
its own when the caches are cold.
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

from .term_counts import sum_by_record

_MAGIC = b"PRSNIDX3"

_HEADER = struct.Struct("=8sQ16sIIII")
"""Magic, checksum of all that follows it, fingerprint, shift, places, records, bytes per record number.

On a machine of the other byte order the checksum fails, and the text is ranked."""

_CHECKED_FROM = 16
"""Where in the bytes the part begins that the checksum covers."""

_GAP = 2**64 - 1


# Not frozen: eight fields of a frozen one take two microseconds to set, as long as the checksum.
@dataclass(slots=True, eq=False)
class ScoreIndex:
    """What each term adds to the score of each record of one profile.

    Attributes:
        fingerprint: 16 bytes that name the texts and the rules that the index was made from.
        data: the whole index; what follows are parts of it.
        keys: hashes and gaps, ascending but for the gaps, of which the last one is; u64.  # (places,)
        starts: where the postings of each place begin in `postings`, and the end; u32.  # (places + 1,)
        postings: structures of ``weight`` and ``record``, as bytes.
        width: bytes of a record's number.
        shift: how many of a hash's last bits do not count for its home.
        n_records: how many records the profile has.
    """

    fingerprint: bytes
    data: bytes
    keys: memoryview[int]
    starts: memoryview[int]
    postings: memoryview[int]
    width: int
    shift: int
    n_records: int

    @classmethod
    def build(
        cls,
        fingerprint: bytes,
        hashes: NDArray[np.uint64],
        frequencies: NDArray[np.integer[Any]],
        records: NDArray[np.integer[Any]],
        weights: NDArray[np.float64],
        n_records: int,
    ) -> ScoreIndex | None:
        """An index of these postings; None where two terms have one hash, or one has that of a gap.

        Args:
            fingerprint: of the texts and the rules.
            hashes: the terms, ascending.  # (terms,)
            frequencies: how many postings each term has.  # (terms,)
            records: the record of each posting, one term after the other.  # (postings,)
            weights: what it adds to that record's score.  # (postings,)
            n_records: how many records the profile has.
        """
        if (hashes[1:] == hashes[:-1]).any() or (hashes[-1:] == _GAP).any():
            return None
        bits = max(1, (len(hashes) * 4 // 3).bit_length())
        # Each at its home, or behind the one before it: place[i] = max(home[i], place[i - 1] + 1), all at once.
        order = np.arange(len(hashes))
        places = np.maximum.accumulate((hashes >> np.uint64(64 - bits)).astype(np.int64) - order) + order
        # Every home is a place, and a gap stands behind the last hash.
        n_places = max(2**bits, int(places[-1]) + 2 if len(places) else 1)
        keys = np.full(n_places, _GAP, dtype=np.uint64)
        keys[places] = hashes
        width = 2 if n_records <= 2**16 else 4
        postings = np.empty(len(weights), dtype=_POSTINGS[width])
        postings["weight"], postings["record"] = weights, records
        lengths = np.zeros(n_places + 1, dtype=np.int64)
        lengths[places + 1] = frequencies
        starts = (lengths.cumsum() * postings.itemsize).astype(np.uint32)
        header = _HEADER.pack(_MAGIC, 0, fingerprint, 64 - bits, n_places, n_records, width)[_CHECKED_FROM:]
        checked = b"".join((header, keys.tobytes(), starts.tobytes(), postings.tobytes()))
        return cls.from_bytes(_MAGIC + struct.pack("=Q", xxhash.xxh3_64_intdigest(checked)) + checked)

    def score(self, tokens: Sequence[str]) -> NDArray[np.float64]:
        """The sum of the weights of `tokens` for each record, added in their order.  # (records,)

        A word that is no term of the profile is taken for one with a probability of terms / 2^64.
        """
        keys, starts, postings, shift = self.keys, self.starts, self.postings, self.shift
        found = []
        for asked in term_hashes(tokens):
            place = asked >> shift
            while (key := keys[place]) < asked:
                place += 1
            if key == asked:
                found.append(postings[starts[place] : starts[place + 1]])
        some = np.frombuffer(b"".join(found), _POSTINGS[self.width])
        return sum_by_record(some["record"], some["weight"], self.n_records)

    @property
    def nbytes(self) -> int:
        """Bytes that the index takes."""
        return len(self.data)

    def to_bytes(self) -> bytes:
        """The index as bytes, for `from_bytes`."""
        return self.data

    @classmethod
    def from_bytes(cls, data: bytes) -> ScoreIndex:
        """The index that `to_bytes` wrote.

        Raises:
            DataFormatError: if `data` is cut short, altered or of another format.
        """
        if len(data) >= _HEADER.size and data[:8] == _MAGIC:
            _, checksum, fingerprint, shift, n_places, n_records, width = _HEADER.unpack_from(data)
            view = memoryview(data)
            if xxhash.xxh3_64_intdigest(view[_CHECKED_FROM:]) == checksum:
                middle = _HEADER.size + 8 * n_places
                end = middle + 4 * (n_places + 1)
                keys, starts = view[_HEADER.size : middle].cast("Q"), view[middle:end].cast("I")
                return cls(fingerprint, data, keys, starts, view[end:], width, shift, n_records)
        raise DataFormatError(
            f"a stored index must be whole and of the format {_MAGIC.decode()}, was: "
            f"{len(data)} bytes that are not; build it again from the records"
        )


_POSTINGS = {width: np.dtype([("weight", np.float64), ("record", f"u{width}")]) for width in (2, 4)}


def read_fingerprint(data: bytes) -> bytes:
    """The fingerprint in `data` (of `ScoreIndex.to_bytes`), without a look at the rest; empty if there is none."""
    return data[16:32] if len(data) >= _HEADER.size and data[:8] == _MAGIC else b""


def term_hashes(tokens: Sequence[str]) -> list[int]:
    """64-bit XXH3 of each token."""
    digest = xxhash.xxh3_64_intdigest
    try:
        return [digest(token.encode()) for token in tokens]
    except UnicodeEncodeError:
        # A query may hold a lone surrogate, a record never: such a word must get a hash, and meets no term.
        return [digest(token.encode("utf-8", "surrogatepass")) for token in tokens]
