"""A queue that is fair between clients: next is the first request of the one that was served the fewest tokens.

>>> queue = FairQueue()
>>> for client, request, tokens in (("a", "a1", 90), ("a", "a2", 90), ("b", "b1", 20), ("b", "b2", 20)):
...     queue.put(client, request, tokens)
>>> [queue.take() for _ in range(4)]
['a1', 'b1', 'b2', 'a2']

A client that comes anew counts as served as much as the least served one that is here, so nobody saves up turns. This
is the virtual token counter of Sheng et al., Fairness in Serving Large Language Models (OSDI 2024), charged with all
that a request may take when it is taken, and given back what was left of it.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Requests that wait, by client. Not for several threads at once."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[T, int]]] = {}
        self._served: dict[str, int] = {}
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self, client: str) -> int:
        """How many requests of a client wait."""
        return len(self._waiting.get(client, ()))

    def put(self, client: str, request: T, tokens: int) -> None:
        """Queue a request that may take so many tokens."""
        self._served.setdefault(client, min(self._served.values(), default=0))
        self._waiting.setdefault(client, deque()).append((request, tokens))

    def first(self) -> T | None:
        """The request that is next; None if none waits."""
        return None if not self._waiting else self._waiting[self._next()][0][0]

    def take(self) -> T:
        """Take the request that is next; `give_back` is to follow.

        Raises:
            ValueError: if none waits.
        """
        client = self._next()
        request, tokens = self._waiting[client].popleft()
        self._served[client] += tokens
        self._taken[client] += 1
        self._tidy(client)
        return request

    def give_back(self, client: str, tokens: int) -> None:
        """A request of the client that was taken is done, and has left so many tokens of its own."""
        self._served[client] -= tokens
        self._taken[client] -= 1
        self._tidy(client)

    def remove(self, client: str, request: T) -> bool:
        """Take out a request that waits; returns whether it did."""
        kept = deque(each for each in self._waiting.get(client, ()) if each[0] is not request)
        found = len(kept) < self.waiting(client)
        if found:
            self._waiting[client] = kept
            self._tidy(client)
        return found

    def all(self) -> list[T]:
        """The requests that wait."""
        return [request for requests in self._waiting.values() for request, _ in requests]

    def _next(self) -> str:
        return min(self._waiting, key=self._served.__getitem__)

    def _tidy(self, client: str) -> None:
        """Remember nothing of a client that has nothing here."""
        if not self._waiting.get(client, True):
            del self._waiting[client]
        if client not in self._waiting and not self._taken[client]:
            del self._taken[client]
            self._served.pop(client, None)
