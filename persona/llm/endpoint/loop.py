"""An event loop in a thread of its own, for callers with and without a loop: one asynchronous core serves both.

>>> async def count(put):
...     for number in range(3):
...         put(number)
>>> list(BackgroundLoop().each(count))
[0, 1, 2]

It works inside a running event loop too (a notebook), where `asyncio.run` does not. There is one loop in a process, so
that a client may serve several LLMs; its thread starts with the first work and ends with the program.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, TimeoutError
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Producer: TypeAlias = Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]
"""A coroutine function that hands over items, one call each, as they come."""

_PATIENCE = 2.0
"""Seconds that the end of the program waits for connections to be closed."""


_STARTING = Lock()
_RUNNING: dict[int, tuple[asyncio.AbstractEventLoop, Thread]] = {}
"""By process: a forked one has no thread of its parent's."""


def _running() -> tuple[asyncio.AbstractEventLoop, Thread]:
    """The loop of this process, and its thread."""
    with _STARTING:
        if (process := os.getpid()) not in _RUNNING:
            loop = asyncio.new_event_loop()
            thread = Thread(target=loop.run_forever, name="persona-endpoint", daemon=True)
            thread.start()
            _RUNNING[process] = loop, thread
        return _RUNNING[process]


class BackgroundLoop:
    """Runs coroutines in the thread of the process's loop.

    Args:
        close: awaited there when this object is gone, or the program ends, e.g. to close a client.
    """

    def __init__(self, close: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self._close = close
        self._ending = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work`; cancelling the future cancels it."""
        loop, thread = _running()
        if self._close is not None and not self._ending:
            self._ending = True
            weakref.finalize(self, _end, loop, thread, os.getpid(), self._close)
        return asyncio.run_coroutine_threadsafe(work, loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, awaited in the caller's own loop."""
        return await asyncio.wrap_future(self.submit(work))

    def each(self, produce: Producer[T]) -> Iterator[T]:
        """The items that `produce` hands over, as they come; then what it raises. Whoever stops early cancels it."""
        arrived: SimpleQueue[tuple[T] | None] = SimpleQueue()
        work = self.submit(produce(lambda item: arrived.put((item,))))
        work.add_done_callback(lambda done: arrived.put(None))
        try:
            while (item := arrived.get()) is not None:
                yield item[0]
            work.result()
        finally:
            work.cancel()


def _end(
    loop: asyncio.AbstractEventLoop, thread: Thread, process: int, close: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Close what is open."""
    if process != os.getpid():
        return  # the loop is the parent's
    ended = asyncio.run_coroutine_threadsafe(close(), loop)
    if current_thread() is not thread:  # where a garbage collection may run, too
        with suppress(TimeoutError):
            ended.result(_PATIENCE)
