"""Answers on their way: events of a stream, a client that goes away, and what is noted of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar

from anyio import CancelScope
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from persona.serve.answers.backend import Call
from persona.serve.metrics import Metrics

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""


def event(data: Mapping[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class Events(StreamingResponse):
    """An answer in events. Its generator is closed whatever happens, which stops what is still being written.

    Args:
        events: as bytes.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # nginx would hold the events back otherwise.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await self._events.aclose()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client of `request` goes away.

    Raises:
        ClientDisconnect: if it does.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for each in (working, watching):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):  # what failed was raised above
                await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Noting:
    """What is noted of one answer: the time to its first token, and its tokens.

    Args:
        call: the request.
        metrics: count it.
    """

    def __init__(self, call: Call, metrics: Metrics) -> None:
        self._call, self._metrics = call, metrics
        self._waits = True

    def first(self) -> None:
        """A first token is there; later calls count nothing."""
        if self._waits:
            self._waits = False
            self._metrics.first_token.observe(perf_counter() - self._call.began)

    def usage(self, usage: object) -> None:
        """So many tokens were read and written, as a reply says; what is of no form is passed over."""
        noted: dict[str, object] = self._call.request.scope.get("persona", {})
        given = usage if isinstance(usage, dict) else {}
        for kind in ("prompt", "completion"):
            count = given.get(f"{kind}_tokens")
            if isinstance(count, int) and count >= 0:
                self._metrics.tokens.labels(kind).inc(count)
                noted[f"{kind}_tokens"] = count
