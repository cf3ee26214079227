"""An event loop in a thread of its own, for callers with and without a loop: one asynchronous core serves both.

>>> async def count(put):
...     for number in range(3):
...         put(number)
>>> list(BackgroundLoop().each(count))
[0, 1, 2]

It works inside a running event loop too (a notebook), where `asyncio.run` does not. The thread starts with the first
work, and ends with the object or with the program.
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


class BackgroundLoop:
    """Runs coroutines in a thread of its own.

    Args:
        close: awaited in that thread at the end, e.g. to close a client.
    """

    def __init__(self, close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._close = close
        self._starting = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work`; cancelling the future cancels it."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = Thread(target=_run, args=(self._loop,), name="persona-endpoint", daemon=True)
                thread.start()
                weakref.finalize(self, _end, self._loop, thread, os.getpid(), self._close)
            return asyncio.run_coroutine_threadsafe(work, self._loop)

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


def _end(
    loop: asyncio.AbstractEventLoop, thread: Thread, process: int, close: Callable[[], Awaitable[None]] | None
) -> None:
    """Close what is open, then the loop and its thread."""
    if process != os.getpid():
        return  # the thread is the parent's

    async def closing() -> None:
        if close is not None:
            await close()

    ended = asyncio.run_coroutine_threadsafe(closing(), loop)
    if current_thread() is thread:  # collected by a garbage collection in the loop itself
        ended.add_done_callback(lambda done: loop.stop())
        return
    with suppress(TimeoutError):
        ended.result(_PATIENCE)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_PATIENCE)
