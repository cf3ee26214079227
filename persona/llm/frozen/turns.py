"""Turns at a model: it computes for one caller at a time, since two would only share its device and its flags."""

from __future__ import annotations

from collections import deque
from threading import Condition, get_ident
from typing import Self


class Turns:
    """A lock that its holder may take again, and that those who wait get in the order in which they came.

    `threading.RLock` goes to whoever asks first after it was free, which is nearly always the thread that has just left
    it: a loop that takes it for each of its steps would let nobody else in.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._holder: int | None = None
        self._depth = 0
        self._waiting: deque[object] = deque()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def __enter__(self) -> Self:
        me = get_ident()
        with self._changed:
            if self._holder != me:
                turn = object()
                self._waiting.append(turn)
                try:
                    self._changed.wait_for(lambda: self._holder is None and self._waiting[0] is turn)
                    self._holder = me
                finally:  # also where it was interrupted while it waited
                    self._waiting.remove(turn)
                    self._changed.notify_all()
            self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._holder = None
                self._changed.notify_all()
