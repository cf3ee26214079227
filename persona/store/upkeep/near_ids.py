"""User ids that are near one that the store does not know, for the error that says so."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

MOST_COMPARED = 100_000
"""User ids that are compared at most; it takes half a second."""


def near_ids(user_id: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The ids among `known` that are most like `user_id`, upper and lower case being the same; best first.

    >>> near_ids("anna", ["ben", "Ana", "hannah"])
    ['Ana', 'hannah']
    """
    by_folded: dict[str, str] = {}
    for each in islice(known, MOST_COMPARED):
        by_folded.setdefault(each.casefold(), each)
    return [by_folded[folded] for folded in get_close_matches(user_id.casefold(), by_folded, n=most)]
