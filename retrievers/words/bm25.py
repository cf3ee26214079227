"""BM25 inside one profile: LaMP's own (`bm25-lamp`), and one made for small profiles (`bm25`, the default).

Both add up, over the words of the query that stand in the record (a word said twice counts twice)::

    idf * ( tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average length))  +  delta )

`LampBM25Retriever` equals `rank_bm25.BM25Okapi` as LaMP calls it, to the last bit of every score and in the order of
ties. `BM25Retriever` is BM25+ (Lv and Zhai, "Lower-bounding term frequency normalization", CIKM 2011).

Words are counted from the text when the first question about a profile comes, and the counts of the profiles used last
are kept in memory. With 50 records that takes 0.9 ms, 0.9 % of a request whose LLM call takes 100 ms; with 10,000
records 0.12 s, and 2 ms for each further question (`benchmarks/bm25.py`). So nothing is stored.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from persona.caches import TextCache
from persona.records import Profile

from ..base import ProfileRetriever, Ranking, check_view, scored, view_texts
from .tokens import words

KEPT_PROFILES = 16
"""Profiles whose word counts one retriever keeps in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class TermCounts:
    """How often each term stands in each record of one profile. Terms are numbered as they first occur.

    For the records ``["b a b", "a"]``::

        numbers    b: 0  a: 1
        bounds     0     1     3     term t has the postings bounds[t] : bounds[t + 1]       (terms + 1,)
        records    0  |  0 1         the record of each posting, ascending within a term     (postings,)
        counts     2  |  1 1         how often the term stands in it, at least 1             (postings,)
        lengths    3 1               tokens per record                                       (records,)
    """

    numbers: dict[str, int]
    bounds: NDArray[np.int64]
    records: NDArray[np.int64]
    counts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def from_tokens(cls, records: Iterable[list[str]]) -> TermCounts:
        """The counts of `records`, each given as its tokens; at least one record."""
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        terms: list[int] = []
        sizes: list[int] = []
        for tokens in records:
            sizes.append(len(tokens))
            terms.extend(map(numbers.__getitem__, tokens))
        lengths = np.array(sizes, dtype=np.int64)
        # (term, record) as one integer: equal ones are one posting.
        keys = np.array(terms, dtype=np.int64) * len(sizes) + np.arange(len(sizes)).repeat(lengths)
        postings, counts = np.unique(keys, return_counts=True)
        bounds = np.searchsorted(postings, np.arange(len(numbers) + 1) * len(sizes))
        return cls(dict(numbers), bounds, postings % len(sizes), counts, lengths)

    @property
    def frequencies(self) -> NDArray[np.int64]:
        """In how many records each term stands, at least 1.  # (terms,)"""
        return np.diff(self.bounds)


class TermRetriever(ProfileRetriever):
    """What the two forms share: the counted words, and the sum over the query's words.

    Args:
        view: the view of a record that is searched (`Record.view`).

    Raises:
        InvalidOptionError: if there is no such view.
    """

    k1: ClassVar[float] = 1.5
    b: ClassVar[float] = 0.75
    delta: ClassVar[float]

    def __init__(self, view: str = "text") -> None:
        self.view = check_view(view)
        self._kept = TextCache("word counts of profiles", self._counted, KEPT_PROFILES)

    @abstractmethod
    def tokens(self, text: str) -> list[str]:
        """The words of a record or query."""

    def texts(self, profile: Profile) -> list[str]:
        """What of each record is searched, in profile order."""
        return view_texts(profile, self.view)

    @abstractmethod
    def _idf(self, counts: TermCounts) -> NDArray[np.float64]:
        """The weight of each term.  # (terms,)"""

    @abstractmethod
    def _order(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """Positions by score, best first; says how ties are broken."""

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        """The `k` records with the greatest BM25 scores, those without a word of the query among them (score 0)."""
        scores = self.scores(profile, query)
        return scored(profile, self._order(scores)[:k].tolist(), scores)

    def scores(self, profile: Profile, query: str) -> NDArray[np.float64]:
        """The BM25 score of every record of a profile that is not empty, in profile order.  # (records,)"""
        counts = self._kept(tuple(self.texts(profile)))
        scores = np.zeros(len(profile))
        found = [counts.numbers[token] for token in self.tokens(query) if token in counts.numbers]
        if not found:
            return scores
        # The operations and their order are those of rank_bm25, so that no bit differs.
        average_length = int(counts.lengths.sum()) / len(profile)
        norms = self.k1 * (1 - self.b + self.b * counts.lengths / average_length)
        idf = self._idf(counts)
        for term in found:
            postings = slice(counts.bounds[term], counts.bounds[term + 1])
            records, times = counts.records[postings], counts.counts[postings]
            scores[records] += idf[term] * (times * (self.k1 + 1) / (times + norms[records]) + self.delta)
        return scores

    def _counted(self, texts: tuple[str, ...]) -> TermCounts:
        return TermCounts.from_tokens(map(self.tokens, texts))


class LampBM25Retriever(TermRetriever):
    """LaMP's BM25: the ranking of `rank_bm25.BM25Okapi` on ``str.split`` tokens, ties included.

    k1 is 1.5 and b 0.75; idf is ``ln(n - df + 0.5) - ln(df + 0.5)``, and where that is negative (the word stands in
    more than half of the records) a quarter of the mean idf over all words. Case and punctuation count. Records with
    equal scores come as ``numpy.argsort(scores)[::-1]`` puts them, which in general is no order of time.

    Use it to be compared with LaMP; for anything else `BM25Retriever` is better.
    """

    delta = 0.0
    epsilon = 0.25

    def tokens(self, text: str) -> list[str]:
        """`text` cut at white space."""
        return text.split()

    def _idf(self, counts: TermCounts) -> NDArray[np.float64]:
        idf: NDArray[np.float64] = _robertson_idf(len(counts.lengths))[counts.frequencies]
        # rank_bm25 adds one idf after the other as the terms first occur. `sum` adds in pairs, which can change the
        # last bit of the mean, and with it a tie; `cumsum` does not.
        idf[idf < 0] = self.epsilon * (float(idf.cumsum()[-1]) / len(idf))
        return idf

    def _order(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        # numpy's default sort is not stable beyond 16 numbers: this very call is part of what LaMP ranks.
        return scores.argsort()[::-1]


@lru_cache(maxsize=256)
def _robertson_idf(n_records: int) -> NDArray[np.float64]:
    """``ln(n - df + 0.5) - ln(df + 0.5)`` for df = 0 ... n.  # (n_records + 1,)"""
    # `math.log` as in rank_bm25: numpy's may differ in the last bit.
    return np.array(
        [math.log(n_records - frequency + 0.5) - math.log(frequency + 0.5) for frequency in range(n_records + 1)]
    )


class BM25Retriever(TermRetriever):
    """BM25 for a user's own history: some ten to a few hundred records, in any language.

    - *Words* are those of `persona.retrievers.words.tokens`: case, accents, punctuation and scripts without blanks do
      not hide a match.
    - *idf* is ``ln((n + 1) / df)``, positive for every df. The Robertson idf of `bm25-lamp` turns negative at n / 2,
      which in 20 records any word of the user's favourite subject reaches; and in a profile of 1 or 2 records, where
      the mean idf is itself negative or zero, it ranks a match below none.
    - *delta* is 1, the paper's value, and goes to the records that hold the word, as in the paper's equation. It puts a
      long record with the word above a short one without: in small profiles lengths differ by chance.
    - *k1* is 1.5 and *b* 0.75, as in `bm25-lamp`. On training questions of five LaMP-style sets values from 0.9 to 2
      and from 0.3 to 0.75 retrieved alike, and so did delta from 0 to 1; the words and the idf made the difference.

    Records with equal scores come newest first (later in the profile first), and so do all records if no word of
    the query stands in any.
    """

    delta = 1.0

    def tokens(self, text: str) -> list[str]:
        """`persona.retrievers.words.tokens.words`."""
        return words(text)

    def _idf(self, counts: TermCounts) -> NDArray[np.float64]:
        return np.log((len(counts.lengths) + 1) / counts.frequencies)

    def _order(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        return scores.argsort(kind="stable")[::-1]
