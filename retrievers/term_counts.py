"""Which term stands in which record and how often, counted from fresh text.

For the records ``["b a b", "a"]``::

    firsts     0     1           where the terms b and a first occur, which orders the terms
    bounds     0     1     3     term t has the postings bounds[t] : bounds[t + 1]
    records    0  |  0 1         the record of each posting
    counts     2  |  1 1         how often the term stands in it
    lengths    3 1               tokens per record
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class TermCounts:
    """The term statistics of one profile's records. Terms are numbered from 0 in the order in which they first occur.

    Attributes:
        places: for each term, where it first occurs: how many tokens stand before it.
        firsts: the same numbers, ascending.  # (terms,)
        bounds: where each term's postings begin and end.  # (terms + 1,)
        records: the record of each posting, ascending within a term.  # (postings,)
        counts: how often the term stands in that record, at least 1.  # (postings,)
        lengths: tokens per record.  # (records,)
    """

    places: dict[str, int]
    firsts: NDArray[np.integer[Any]]
    bounds: NDArray[np.int64]
    records: NDArray[np.integer[Any]]
    counts: NDArray[np.integer[Any]]
    lengths: NDArray[np.integer[Any]]

    @classmethod
    def from_tokens(cls, records: Iterable[Sequence[str]]) -> TermCounts:
        """The statistics of `records`, each given as its tokens; at least one record.

        The records are taken one at a time: given lazily, all their tokens are never in memory at once.
        """
        sizes: list[int] = []

        def measured() -> Iterator[Sequence[str]]:
            for tokens in records:
                sizes.append(len(tokens))
                yield tokens

        # One pass in C over all tokens, which is most of the work: `setdefault` answers with a word's first place.
        places: dict[str, int] = {}
        keys = np.fromiter(map(places.setdefault, chain.from_iterable(measured()), count()), np.int64)
        n_records, n_tokens = len(sizes), len(keys)
        lengths = np.array(sizes, dtype=np.int64)
        # (term, record) as one integer: after sorting, a run of equal ones is one posting.
        keys *= n_records
        keys += np.arange(n_records).repeat(lengths)
        if n_tokens * n_records < 2**31:
            keys = keys.astype(np.int32)  # sorts twice as fast
        keys.sort()
        starts = _run_bounds(keys)
        keys = keys[starts[:-1]]
        terms = keys // n_records
        bounds = _run_bounds(terms)
        return cls(places, terms[bounds[:-1]], bounds, keys - terms * n_records, starts[1:] - starts[:-1], lengths)

    @property
    def frequencies(self) -> NDArray[np.int64]:
        """In how many records each term stands, at least 1.  # (terms,)"""
        return self.bounds[1:] - self.bounds[:-1]

    def find(self, tokens: Sequence[str]) -> NDArray[np.intp]:
        """The numbers of those tokens that are terms, in their order, repetitions kept.  # (found,)"""
        found = [place for place in map(self.places.get, tokens) if place is not None]
        return self.firsts.searchsorted(np.array(found, dtype=np.int64))


def postings_of(
    numbers: NDArray[np.intp], bounds: NDArray[np.signedinteger[Any]]
) -> tuple[NDArray[np.signedinteger[Any]], NDArray[np.signedinteger[Any]]]:
    """The postings of some terms, one term after the other.

    Args:
        numbers: the terms.  # (asked,)
        bounds: where each term's postings begin and end.  # (terms + 1,)

    Returns:
        How many postings each term has (asked,), and their places (matches,).
    """
    ends = bounds[numbers + 1]
    frequencies = ends - bounds[numbers]
    ends -= frequencies.cumsum()
    places = ends.repeat(frequencies)
    places += np.arange(places.size)
    return frequencies, places


def sum_by_record(
    records: NDArray[np.integer[Any]], weights: NDArray[np.float64], n_records: int
) -> NDArray[np.float64]:
    """The sum of each record's weights, added one after the other in the order given.  # (n_records,)"""
    return np.asarray(np.bincount(records, weights=weights, minlength=n_records), dtype=np.float64)


def _run_bounds(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Where the runs of equal neighbours begin, and the end of the last; of no values, the 0 alone.  # (runs + 1,)"""
    changes = np.ones(len(values) + 1, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1 : len(values)])
    return changes.nonzero()[0].astype(np.int64, copy=False)
