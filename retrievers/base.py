"""What all retrievers share: `ProfileRetriever` checks what it is asked, once, and leaves the ranking to one method.

A retriever of your own is one class with one method:

>>> from persona.records import Record
>>> class LongestFirst(ProfileRetriever):
...     def rank(self, profile, query, k):
...         return best_first(profile, [len(record.text) for record in profile], k)
>>> profile = Profile("ana", (Record("short"), Record("a longer text")))
>>> [scored.record.text for scored in LongestFirst().retrieve(profile, "any query", k=1)]
['a longer text']
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from persona.errors import InvalidOptionError, check_one_of
from persona.protocols import Encoding
from persona.records import VIEWS, Profile, ScoredRecord

Ranking = tuple[ScoredRecord, ...]


class ProfileRetriever:
    """Base of the retrievers: a `persona.protocols.Retriever` of which one method is missing.

    Implement `rank`, or `rank_batch` where work can be shared. Both are called with a valid `k` and with profiles that
    have records; a smaller `k` must give the beginning of the result for a greater one.
    """

    def __repr__(self) -> str:
        """The class and its public attributes, without addresses: a training that goes on compares by it."""
        given = [f"{name}={_shown(value)}" for name, value in vars(self).items() if not name.startswith("_")]
        return f"{type(self).__name__}({', '.join(given)})"

    def retrieve(self, profile: Profile, query: str, k: int) -> Ranking:
        """At most `k` records of `profile`, best first; none from an empty profile.

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` is no string.
        """
        return self.retrieve_batch([profile], [query], k)[0]

    def retrieve_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """`retrieve` for each pair of a profile and a query.

        Raises:
            InvalidOptionError: if `k` is below 1, there are not as many queries as profiles, or one is no string.
        """
        k = check_k(k)
        _check_queries(profiles, queries)
        results: list[Ranking] = [()] * len(profiles)
        filled = [number for number, profile in enumerate(profiles) if profile.records]
        if filled:
            rankings = self.rank_batch([profiles[n] for n in filled], [queries[n] for n in filled], k)
            for number, ranking in zip(filled, rankings, strict=True):
                results[number] = tuple(ranking)
        return results

    def encodings(self) -> set[Encoding]:
        """The encoders and views whose vectors this and the retrievers inside it read from a store."""
        own, inner = getattr(self, "vectors", None), (getattr(self, "base", None), *getattr(self, "retrievers", ()))
        read = {(own.encoder, own.view)} if own is not None and own.store is not None else set()
        return read.union(*(each.encodings() for each in inner if isinstance(each, ProfileRetriever)))

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        """At most `k` records of a profile that is not empty, best first."""
        raise NotImplementedError(f"{type(self).__name__} must implement `rank` or `rank_batch`")

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """`rank` for each pair."""
        return [self.rank(profile, query, k) for profile, query in zip(profiles, queries, strict=True)]


def check_k(k: object, least: int = 1) -> int:
    """Return `k` as an int if it is an integer of at least 1, or another `least`.

    Raises:
        InvalidOptionError: otherwise.
    """
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise InvalidOptionError(f"`k` must be a whole number, was: {k!r} ({type(k).__name__})")
    number = int(k.__index__())
    if number < least:
        raise InvalidOptionError(f"`k` must be at least {least}, was: {number}")
    return number


def check_view(view: str) -> str:
    """Return `view` if it is one of `persona.records.VIEWS`.

    Raises:
        InvalidOptionError: otherwise.
    """
    check_one_of(VIEWS, view=view)
    return view


def view_texts(profile: Profile, view: str) -> list[str]:
    """The records of `profile` as strings, in profile order."""
    return [record.view(view) for record in profile.records]


def scored(profile: Profile, order: Iterable[int], scores: ArrayLike) -> Ranking:
    """The records at `order` (positions in the profile), each with its score (`scores` stand in profile order)."""
    values = np.asarray(scores, dtype=np.float64)
    return tuple(ScoredRecord(profile.records[position], float(values[position])) for position in order)


def best_first(profile: Profile, scores: ArrayLike, k: int) -> Ranking:
    """The `k` records with the greatest scores; equal scores stand in profile order.

    Args:
        profile: the records.
        scores: one for each record, in profile order.  # (records,)
        k: at least 1.
    """
    values: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    return scored(profile, np.argsort(-values, kind="stable")[:k].tolist(), values)


def positions(profile: Profile, ranking: Iterable[ScoredRecord]) -> Iterator[int]:
    """The positions of ranked records in their profile.

    A LaMP profile may hold the same record twice, and then one id stands for two positions: they are taken in turn.
    """
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    for position in reversed(range(len(profile))):
        waiting[profile.records[position].id].append(position)
    for ranked in ranking:
        yield waiting[ranked.record.id].pop()


def _shown(value: object) -> str:
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)


def _check_queries(profiles: Sequence[Profile], queries: Sequence[str]) -> None:
    if len(profiles) != len(queries):
        raise InvalidOptionError(
            f"a batch needs one query for each profile, was: {len(profiles)} profiles and {len(queries)} queries"
        )
    for query in queries:
        if not isinstance(query, str):
            raise InvalidOptionError(f"a query must be a string, was: {query!r} ({type(query).__name__})")
