"""What this process keeps in memory of users beside the store, so that forgetting one reaches it.

>>> words = TextCache("split texts", str.split, 100)
>>> words("a b"), drop("ana")["split texts"], drop("ana")["split texts"]
(['a', 'b'], 1, 0)

Whatever keeps something made from records registers itself. What is kept by a text and not by a user is dropped for
everybody: it is made anew when it is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import lru_cache
from threading import Lock
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Holder(Protocol):
    """Something that keeps what was made from users' records."""

    def drop(self, user_id: str) -> int:
        """Drop what is kept of a user; how many pieces. From any thread."""
        ...


_holders: WeakKeyDictionary[Holder, str] = WeakKeyDictionary()
_lock = Lock()


def register(holder: Holder, holds: str) -> None:
    """Have `drop` reach `holder`, for as long as it lives; `holds` says what it keeps, in the plural."""
    with _lock:
        _holders[holder] = holds


def drop(user_id: str) -> dict[str, int]:
    """Drop what every registered holder keeps of a user; how many pieces of what."""
    with _lock:
        holders = list(_holders.items())
    dropped: Counter[str] = Counter()
    for holder, holds in holders:
        dropped[holds] += holder.drop(user_id)
    return dict(dropped)


class TextCache(Generic[Key, Value]):
    """A function of texts that remembers its last results.

    Args:
        holds: what it remembers, for people.
        make: the function.
        size: how many results.
    """

    def __init__(self, holds: str, make: Callable[[Key], Value], size: int) -> None:
        self._make, self._size = make, size
        self._kept = lru_cache(size)(make)
        register(self, holds)

    def __call__(self, key: Key) -> Value:
        """The result for `key`."""
        return self._kept(key)

    def drop(self, user_id: str) -> int:
        """Forget all results, whosever they are; how many there were."""
        kept, self._kept = self._kept, lru_cache(self._size)(self._make)
        return kept.cache_info().currsize
