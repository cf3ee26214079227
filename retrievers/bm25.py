"""BM25 inside one profile: LaMP's own (`bm25-lamp`), and one made for small profiles (`bm25`, the default).

Both add up, over the words of the query that stand in the record (a word said twice counts twice)::

    idf * ( tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average length))  +  delta )

`LampBM25Retriever` equals `rank_bm25.BM25Okapi` as LaMP calls it, to the last bit of every score and in the order of ties.
`BM25Retriever` is BM25+ (Lv and Zhai, "Lower-bounding term frequency normalization", CIKM 2011).

Where a store is given, a profile that comes from it is ranked with the index that the store keeps beside the records
(`persona.retrievers.indexing`); any other profile, and one whose index is missing, stale or damaged, is ranked from
its text. The ranking is the same.
"""

from __future__ import annotations

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from persona.errors import DataFormatError, InvalidOptionError
from persona.records import Profile, ScoredRecord

from .cache import ByteBoundedCache
from .ranking import check_k, check_query, check_view, pairs, scored, view_texts
from .score_index import ScoreIndex, read_fingerprint, term_hashes
from .term_counts import TermCounts, postings_of, sum_by_record
from .words import WORDS_VERSION, words

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

CACHE_BYTES = 64 * 2**20
"""How much of the store's indexes one retriever keeps in memory if not told: 4,000 users with 50 short records."""


class TermRetriever(ABC):
    """What the two forms share: where the words are counted, and the sum over the query's words.

    Args:
        view: the view of a record that is searched (`Record.view`).
        store: where indexes are read from; None ranks every profile from its text.
        cache_bytes: how much of the indexes is kept in memory, those used last; 0 reads the store for each query.

    Raises:
        InvalidOptionError: if there is no such view or `cache_bytes` is negative.
    """

    name: ClassVar[str]
    k1: ClassVar[float]
    b: ClassVar[float]
    delta: ClassVar[float]
    rules: ClassVar[str]
    """Names tokenizer and formula; a stored index made by other rules is not used."""

    def __init__(
        self, view: str = "text", *, store: ProfileStore | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.view = check_view(view)
        self.store = store
        if cache_bytes < 0:
            raise InvalidOptionError(f"`cache_bytes` must be at least 0, was: {cache_bytes}")
        self._cache: ByteBoundedCache[ScoreIndex] = ByteBoundedCache(cache_bytes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(view={self.view!r}{'' if self.store is None else ', store=...'})"

    @property
    def kind(self) -> str:
        """What the store calls the index of this retriever, e.g. ``"bm25-lamp:text"``."""
        return f"{self.name}:{self.view}"

    @abstractmethod
    def tokens(self, text: str) -> list[str]:
        """The words of a record or query."""

    @abstractmethod
    def _idf(self, frequencies: NDArray[np.integer[Any]], n_records: int) -> NDArray[np.float64]:
        """The weight of each term, of which is given in how many of `n_records` records it stands.  # (terms,)"""

    @abstractmethod
    def _best_first(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """Positions by score; says how ties are broken."""

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """The `k` records with the greatest BM25 scores, those without a word of the query among them (score 0).

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` is no string.
        """
        k, query = check_k(k), check_query(query)
        scores = self.scores(profile, query)
        return scored(profile, self._best_first(scores)[:k].tolist(), scores)

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair. A profile object that stands several times in a row is read once."""
        k = check_k(k)
        found: list[tuple[ScoredRecord, ...]] = []
        read: Profile | None = None
        terms: ScoreIndex | TermCounts | None = None
        for profile, query in pairs(profiles, queries):
            if profile is not read:
                terms, read = self._terms(profile), profile
            scores = self._score(terms, query)
            found.append(scored(profile, self._best_first(scores)[:k].tolist(), scores))
        return found

    def scores(self, profile: Profile, query: str) -> NDArray[np.float64]:
        """The BM25 score of every record, in profile order.  # (records,)"""
        return self._score(self._terms(profile), query)

    def index(self, profile: Profile) -> ScoreIndex | None:
        """What to keep in the store for this user; None for an empty profile.

        (And None where two words of the profile have one hash, to be expected once in some 10^12 profiles: such a user
        is served from the text.)
        """
        if not profile.records:
            return None
        texts = view_texts(profile, self.view)
        return self._indexed(self._count(texts), self._fingerprint(texts))

    def is_current(self, data: bytes, profile: Profile) -> bool:
        """Whether `data`, the bytes of an index, was made from the texts of `profile` by the rules in force."""
        return read_fingerprint(data) == self._fingerprint(view_texts(profile, self.view))

    def _terms(self, profile: Profile) -> ScoreIndex | TermCounts | None:
        """The user's index where there is one to use, else the counted words; None for an empty profile."""
        if not profile.records:
            return None
        texts = view_texts(profile, self.view)
        if self.store is None or not profile.revision:
            return self._count(texts)
        # The revision alone does not prove that an index fits, since a caller may hand over a part of a stored profile:
        # the texts do. Hashing them takes a hundredth of the time of cutting them into words.
        fingerprint = self._fingerprint(texts)
        index = self._cache.get(profile.user_id)
        if index is None or index.fingerprint != fingerprint:
            index = self._stored(self.store, profile.user_id, fingerprint)
            if index is None:
                counted = self._count(texts)
                index = self._indexed(counted, fingerprint)
                if index is None:
                    return counted
            self._cache.put(profile.user_id, index, index.nbytes)
        return index

    def _score(self, terms: ScoreIndex | TermCounts | None, query: str) -> NDArray[np.float64]:
        if terms is None:
            return np.zeros(0)
        tokens = self.tokens(query)
        if isinstance(terms, ScoreIndex):
            return terms.score(tokens)
        _, records, weights = self._weigh(terms, terms.find(tokens))
        return sum_by_record(records, weights, len(terms.lengths))

    def _weigh(
        self, counted: TermCounts, numbers: NDArray[np.intp]
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.float64]]:
        """What some terms add to the scores: their numbers of postings, and each posting's record and weight."""
        frequencies, places = postings_of(numbers, counted.bounds)
        records, counts = counted.records[places], counted.counts[places]
        if not places.size:
            return frequencies, records, np.zeros(0)
        n_records = len(counted.lengths)
        average_length = int(counted.lengths.sum()) / n_records
        # The operations and their order are those of rank_bm25, so that no bit differs; it does them for all records
        # and each word, here they are done for the postings of the words.
        norms = self.k1 * (1 - self.b + self.b * counted.lengths[records] / average_length)
        gains = counts * (self.k1 + 1) / (counts + norms) + self.delta
        idf = self._idf(counted.frequencies, n_records)[numbers]
        return frequencies, records, idf.repeat(frequencies) * gains

    def _indexed(self, counted: TermCounts, fingerprint: bytes) -> ScoreIndex | None:
        hashes = np.array(term_hashes(list(counted.places)), dtype=np.uint64)
        order = hashes.argsort()
        frequencies, records, weights = self._weigh(counted, order)
        return ScoreIndex.build(fingerprint, hashes[order], frequencies, records, weights, len(counted.lengths))

    def _stored(self, store: ProfileStore, user_id: str, fingerprint: bytes) -> ScoreIndex | None:
        """The store's index, if it is there, whole and made from these texts by these rules."""
        stored = store.index(user_id, self.kind)
        if stored is None:
            return None
        try:
            index = ScoreIndex.from_bytes(stored.data)
        except DataFormatError:  # the records are at hand: a damaged index costs time and nothing else
            return None
        return index if index.fingerprint == fingerprint else None

    def _count(self, texts: Sequence[str]) -> TermCounts:
        return TermCounts.from_tokens(map(self.tokens, texts))

    def _fingerprint(self, texts: Sequence[str]) -> bytes:
        """16 bytes that name the rules and the texts. No text holds NUL, so joining keeps them apart."""
        content = "\0".join([self.rules, *texts])
        # One text beyond ASCII makes the encoding of all slow, where encoding each by itself leaves the others fast.
        encoded = content.encode() if content.isascii() else b"\0".join(map(str.encode, (self.rules, *texts)))
        return xxhash.xxh3_128_digest(encoded)


class LampBM25Retriever(TermRetriever):
    """LaMP's BM25: the ranking of `rank_bm25.BM25Okapi` on ``str.split`` tokens, ties included.

    k1 is 1.5 and b 0.75; idf is ``ln(n - df + 0.5) - ln(df + 0.5)``, and where that is negative (the word stands in
    more than half of the records) a quarter of the mean idf over all words. Case and punctuation count. Records with
    equal scores come as ``numpy.argsort(scores)[::-1]`` puts them, which in general is no order of time.

    Use it to be compared with LaMP; for anything else `BM25Retriever` is better.
    """

    name = "bm25-lamp"
    k1 = 1.5
    b = 0.75
    delta = 0.0
    epsilon = 0.25
    rules = f"okapi-1/split/unicode-{unicodedata.unidata_version}"

    def tokens(self, text: str) -> list[str]:
        """`text` cut at white space."""
        return text.split()

    def _idf(self, frequencies: NDArray[np.integer[Any]], n_records: int) -> NDArray[np.float64]:
        table = _robertson_idf(n_records)
        idf: NDArray[np.float64] = table[frequencies]
        # rank_bm25 adds one idf after the other as the terms first occur. `sum` adds in pairs, which can change the
        # last bit of the mean, and with it a tie; `cumsum` does not.
        idf[idf < 0] = self.epsilon * (float(idf.cumsum()[-1]) / len(idf))
        return idf

    def _best_first(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
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

    - *Words* are those of `persona.retrievers.words`: case, accents, punctuation and scripts without blanks do not hide
      a match. A match missed weighs more here than in a big corpus: there often is no second record to find.
    - *idf* is ``ln((n + 1) / df)``. It is positive for every df. The Robertson idf of `bm25-lamp` turns negative at n / 2,
      which in a corpus of millions only a stop word reaches and in 20 records any word of the user's favourite subject;
      and in a profile of 1 or 2 records, where the mean idf is itself negative or zero, it ranks a match below none.
    - *delta* is 1, the paper's value, and it goes to the records that hold the word, as in the paper's equation.
      (`rank_bm25.BM25Plus` gives it to all, which changes no ranking.) It puts a long record with the word above a
      short one without: in small profiles lengths differ by chance, and the average is a poor measure of "long".
    - *k1* is 1.5 and *b* 0.75, as in `bm25-lamp`. On LaMP-style training questions (five sets, profiles of 8 or more
      records) values from 0.9 to 2 and from 0.3 to 0.75 retrieved alike, and so did delta from 0 to 1; the words and
      the idf made the difference to `bm25-lamp`.

    Records with equal scores come newest first (later in the profile first), and so do all records if no word of
    the query stands in any.
    """

    name = "bm25"
    k1 = 1.5
    b = 0.75
    delta = 1.0
    rules = f"plus-1/{WORDS_VERSION}"

    def tokens(self, text: str) -> list[str]:
        """`persona.retrievers.words.words`."""
        return words(text)

    def _idf(self, frequencies: NDArray[np.integer[Any]], n_records: int) -> NDArray[np.float64]:
        return np.log((n_records + 1) / frequencies)

    def _best_first(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        return scores.argsort(kind="stable")[::-1]
