"""Near duplicates: records of one user that say almost the same, of which the newer one is kept.

>>> from persona.records import Record
>>> old, new = Record("I moved to Turin last week."), Record("I moved to Turin last week!")
>>> [(merge.dropped.text, merge.kept.text) for merge in merged([], [old, new], TokenOverlap(0.9)).merges]
[('I moved to Turin last week.', 'I moved to Turin last week!')]

Texts are near by the overlap of their words (Jaccard: common words / all words), or by the cosine of their vectors.

The words that all pairs of texts have in common are counted by products of matrices, sparse for the rare ones: 10,000
records of one user take a second or two.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError
from persona.protocols import RecordEncoder
from persona.records import Record
from persona.store.vectors import HasVectors, vector_fingerprint

# Scripts that put no blanks between words: each character is one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_AT_ONCE = 64
"""Records that are compared with all others at a time."""
_OFTEN = 20
"""A word that stands in more than one record of so many is counted in a dense matrix, which is faster."""
_ROUNDING = 1e-6
_VIEW = "text"


@dataclass(frozen=True, slots=True)
class Merge:
    """A record that was dropped for a newer one that says almost the same.

    Attributes:
        user_id: whose.
        dropped: the record that went.
        kept: the one that stays.
        similarity: of the two, from the threshold to 1.
    """

    user_id: str
    dropped: Record
    kept: Record
    similarity: float


@dataclass(frozen=True, slots=True)
class Merged:
    """What is left of a user's records after merging.

    Attributes:
        added: the new records that stay, in the order given.
        removed: ids of the stored ones that go.
        merges: what was dropped for what.
    """

    added: tuple[Record, ...]
    removed: tuple[str, ...]
    merges: tuple[Merge, ...]


class Similarity(Protocol):
    """Finds the records that are near a record."""

    def near(
        self, user_id: str, records: Sequence[Record], first: int, alive: NDArray[np.bool_]
    ) -> Iterable[Sequence[tuple[int, float]]]:
        """For each record from `first` on: the positions of those before it that are near, and how near.

        Args:
            user_id: whose.
            records: all of them.
            first: the first one that is looked at.
            alive: those that count; it may change from record to record.  # (records,)
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenOverlap:
    """Near by words: the share of common words among all words of two texts.

    Attributes:
        threshold: above 0, at most 1 (the same words, in any order and number).

    Raises:
        InvalidOptionError: if it is outside.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        _check(self.threshold)

    def near(
        self, user_id: str, records: Sequence[Record], first: int, alive: NDArray[np.bool_]
    ) -> Iterable[Sequence[tuple[int, float]]]:
        """See `Similarity`. A text without words is near nothing."""
        has = _incidence([frozenset(_WORD.findall(record.text.casefold())) for record in records])
        sizes, often = has.sum(1, dtype=np.float64), has.sum(0) > len(records) / _OFTEN
        common, rare = has[:, often].toarray(), has[:, ~often]
        of_rare = rare.T.tocsr()
        for start in range(first, len(records), _AT_ONCE):
            here = slice(start, start + _AT_ONCE)
            shared = common[here] @ common.T + (rare[here] @ of_rare).toarray()
            similarities = shared / np.maximum(sizes[here, None] + sizes - shared, 1)
            for position, own in enumerate(similarities, start):
                near = np.flatnonzero((own[:position] >= self.threshold) & alive[:position])
                yield [(int(other), float(own[other])) for other in near]


def _incidence(texts: Sequence[frozenset[str]]) -> Any:
    """1 for each word of each text, as a sparse matrix.  # (texts, different words)"""
    from scipy.sparse import csr_array

    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    words = np.array([numbers[word] for text in texts for word in text], dtype=np.int64)
    bounds = np.cumsum([0, *map(len, texts)])
    return csr_array((np.ones(len(words), np.float32), words, bounds), shape=(len(texts), max(1, len(numbers))))


@dataclass(frozen=True, slots=True)
class CosineSimilarity:
    """Near by meaning: the cosine of the vectors of two texts.

    Attributes:
        encoder: makes them.
        threshold: above 0, at most 1.
        store: has vectors of this encoder that need not be made again (`embed_users`); None for none.

    Raises:
        InvalidOptionError: if the threshold is outside.
    """

    encoder: RecordEncoder
    threshold: float = 0.95
    store: HasVectors | None = None

    def __post_init__(self) -> None:
        _check(self.threshold)

    def near(
        self, user_id: str, records: Sequence[Record], first: int, alive: NDArray[np.bool_]
    ) -> Iterable[Sequence[tuple[int, float]]]:
        """See `Similarity`."""
        matrix = self._matrix(user_id, records)
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        for position in range(first, len(records)):
            cosines = matrix[:position] @ matrix[position]
            near = np.flatnonzero((cosines >= self.threshold - _ROUNDING) & alive[:position])
            yield [(int(other), min(1.0, float(cosines[other]))) for other in near]

    def _matrix(self, user_id: str, records: Sequence[Record]) -> NDArray[np.float32]:
        """The vectors of the records.  # (records, dim)"""
        fingerprint = vector_fingerprint(self.encoder, _VIEW)
        stored = None if self.store is None else self.store.vectors(user_id, fingerprint)
        hashes = {} if stored is None else dict(zip(stored.record_ids, stored.hashes, strict=True))
        missing = [row for row, record in enumerate(records) if hashes.get(record.id) != record.content_hash]
        matrix = np.zeros((len(records), self.encoder.dim), dtype=np.float32)
        if stored is not None:
            rows = stored.rows(record.id for record in records)
            matrix[rows >= 0] = stored.matrix[rows[rows >= 0]]
        texts = list(dict.fromkeys(records[row].view(_VIEW) for row in missing))
        if texts:
            encoded = dict(zip(texts, self.encoder.encode(texts), strict=True))
            for row in missing:
                matrix[row] = encoded[records[row].view(_VIEW)]
        return matrix


def merged(stored: Sequence[Record], given: Sequence[Record], similarity: Similarity, user_id: str = "") -> Merged:
    """Leave one of any two records that are near each other; stored ones are not compared among themselves.

    The newer one stays: the one with the later time, or the one given later where one has no time or both have the
    same. Records of different roles or speakers are never merged.

    Args:
        stored: the user's records so far.
        given: further ones, in order. One with the id of a stored one takes its place and is not merged with it.
        similarity: says which texts are near each other.
        user_id: for the report.
    """
    ids = {record.id for record in given}
    records = [*(record for record in stored if record.id not in ids), *given]
    first = len(records) - len(given)
    alive = np.ones(len(records), dtype=np.bool_)
    merges: list[Merge] = []
    neighbours = similarity.near(user_id, records, first, alive)
    for position, near in enumerate(neighbours, start=first):
        record = records[position]
        rivals = [(other, share) for other, share in near if _comparable(records[other], record)]
        newer = next((rival for rival in rivals if _is_newer(records[rival[0]], record)), None)
        losers = rivals if newer is None else [(position, newer[1])]
        winner = position if newer is None else newer[0]
        for other, share in losers:
            alive[other] = False
            merges.append(Merge(user_id, records[other], records[winner], share))
    dropped = [record.id for record, lives in zip(records, alive, strict=True) if not lives]
    there = {record.id for record in stored}
    return Merged(
        tuple(record for record, lives in zip(records[first:], alive[first:], strict=True) if lives),
        tuple(record_id for record_id in dropped if record_id in there),
        tuple(merges),
    )


def _comparable(one: Record, other: Record) -> bool:
    return (one.role, one.speaker) == (other.role, other.speaker) and one.id != other.id


def _is_newer(one: Record, other: Record) -> bool:
    return one.time is not None and other.time is not None and one.time > other.time


def _check(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise InvalidOptionError(f"a threshold must be above 0 and at most 1, was: {threshold}")
