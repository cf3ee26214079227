"""Turns at a model: it computes for one caller at a time, since two would only share its device and its flags."""

from __future__ import annotations

from collections import deque
from threading import Lock, get_ident
from typing import Self


class Turns:
    """A lock that its holder may take again, and that those who wait get in the order in which they came.

    `threading.RLock` goes to whoever asks first after it was free, which is nearly always the thread that has just left
    it: a loop that takes it for each of its steps would let nobody else in.
    """

    def __init__(self) -> None:
        self._guard = Lock()
        self._holder: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, Lock]] = deque()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def __enter__(self) -> Self:
        me = get_ident()
        with self._guard:
            if self._holder in (None, me):
                self._holder = me
                self._depth += 1
                return self
            turn = Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            turn.acquire()
        except BaseException:  # interrupted while it waited
            with self._guard:
                if (me, turn) in self._waiting:
                    self._waiting.remove((me, turn))
                else:
                    self._pass_on()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with self._guard:
            self._depth -= 1
            if not self._depth:
                self._pass_on()

    def _pass_on(self) -> None:
        """Give the lock to whoever waits longest; the guard is held."""
        self._holder, self._depth = None, 0
        if self._waiting:
            self._holder, turn = self._waiting.popleft()
            self._depth = 1
            turn.release()
