"""What every retriever checks before it ranks, and how a ranking becomes `ScoredRecord`s."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from persona.errors import InvalidOptionError
from persona.records import VIEWS, Profile, ScoredRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_k(k: object) -> int:
    """Return `k` if it is an integer of at least 1.

    Raises:
        InvalidOptionError: otherwise.
    """
    if type(k) is int and k >= 1:
        return k
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise InvalidOptionError(f"`k` must be a whole number, was: {k!r} ({type(k).__name__})")
    number = int(k.__index__())
    if number < 1:
        raise InvalidOptionError(f"`k` must be at least 1, was: {number}")
    return number


def check_query(query: object) -> str:
    """Return `query` if it is a string; an empty one has no words, and is one nevertheless.

    Raises:
        InvalidOptionError: otherwise.
    """
    if isinstance(query, str):
        return query
    raise InvalidOptionError(f"a query must be a string, was: {query!r} ({type(query).__name__})")


def check_view(view: str) -> str:
    """Return `view` if it is one of `persona.records.VIEWS`.

    Raises:
        InvalidOptionError: otherwise.
    """
    if view not in VIEWS:
        raise InvalidOptionError(f"`view` must be one of {', '.join(VIEWS)}, was: {view!r}")
    return view


def pairs(profiles: Sequence[Profile], queries: Sequence[str]) -> list[tuple[Profile, str]]:
    """Each profile with its query.

    Raises:
        InvalidOptionError: if there are not as many queries as profiles, or one is no string.
    """
    if len(profiles) != len(queries):
        raise InvalidOptionError(
            f"a batch needs one query for each profile, was: {len(profiles)} profiles and {len(queries)} queries"
        )
    return [(profile, check_query(query)) for profile, query in zip(profiles, queries, strict=True)]


def view_texts(profile: Profile, view: str) -> list[str]:
    """The records of `profile` as strings, in profile order."""
    if view == "text":  # the common case, without a call for each record
        return [record.text for record in profile.records]
    return [record.view(view) for record in profile.records]


def scored(
    profile: Profile, order: Iterable[int], scores: Sequence[float] | NDArray[np.floating]
) -> tuple[ScoredRecord, ...]:
    """The records at `order` (positions in the profile), each with its score (`scores` stand in profile order)."""
    records = profile.records
    found = []
    for position in order:
        # Not by `ScoredRecord(...)`, which takes twice as long: it is frozen, and checks nothing.
        one = _new_scored(ScoredRecord)
        _set_record(one, records[position])
        _set_score(one, float(scores[position]))
        found.append(one)
    return tuple(found)


_new_scored = object.__new__
_set_record, _set_score = (ScoredRecord.__dict__[name].__set__ for name in ("record", "score"))


def positions(profile: Profile, ranking: Iterable[ScoredRecord]) -> Iterator[int]:
    """Where in the profile the ranked records stand.

    A LaMP profile may hold the same record twice, and then one id stands for two positions: they are taken in turn.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for position in reversed(range(len(profile))):
        places[profile.records[position].id].append(position)
    for one in ranking:
        yield places[one.record.id].pop()
