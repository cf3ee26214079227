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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
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


class _Running:
    """The loop of a process, and its thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=_run, args=(self.loop,), name="persona-endpoint", daemon=True)
        self.thread.start()
        # What is made later ends earlier: clients are closed before the loop is.
        weakref.finalize(self, _stop, self.loop, self.thread, os.getpid())


_STARTING = Lock()
_RUNNING: dict[int, _Running] = {}
"""By process: a forked one has no thread of its parent's."""


def _running() -> _Running:
    process = os.getpid()
    with _STARTING:
        if process not in _RUNNING:
            _RUNNING[process] = _Running()
        return _RUNNING[process]


class BackgroundLoop:
    """Runs coroutines in the thread of the process's loop.

    Args:
        close: awaited there when this object is gone, or the program ends, e.g. to close a client.
    """

    def __init__(self, close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._close = close
        self._ending = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work`; cancelling the future cancels it."""
        running = _running()
        if self._close is not None and not self._ending:
            self._ending = True
            weakref.finalize(self, _end, running, os.getpid(), self._close)
        return asyncio.run_coroutine_threadsafe(work, running.loop)

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

    async def aeach(self, produce: Producer[T]) -> AsyncIterator[T]:
        """`each`, awaited in the caller's own loop."""
        here = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

        def put(item: tuple[T] | None) -> None:
            with suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
                here.call_soon_threadsafe(arrived.put_nowait, item)

        work = self.submit(produce(lambda item: put((item,))))
        work.add_done_callback(lambda done: put(None))
        try:
            while (item := await arrived.get()) is not None:
                yield item[0]
            work.result()
        finally:
            work.cancel()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _end(running: _Running, process: int, close: Callable[[], Awaitable[None]]) -> None:
    """Close what is open."""
    if process != os.getpid():
        return  # the loop is the parent's

    async def closing() -> None:
        await close()

    ended = asyncio.run_coroutine_threadsafe(closing(), running.loop)
    if current_thread() is not running.thread:  # where a garbage collection may run, too
        with suppress(TimeoutError):
            ended.result(_PATIENCE)


def _stop(loop: asyncio.AbstractEventLoop, thread: Thread, process: int) -> None:
    if process == os.getpid():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE)
