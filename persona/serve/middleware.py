"""Around every request: an id, a time, a line in the log, limits on the body, and an answer whatever happens.

A line is JSON, without any id of a user and any word of theirs: the route is a template, and of an unforeseen error the
log has its kind and place, never its message::

    {"method": "POST", "route": "/v1/chat/completions", "status": 200, "ms": 412.7, "id": "8c1f...",
     "prompt_tokens": 61, "completion_tokens": 14}
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from time import perf_counter
from traceback import extract_tb
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persona.serve.errors import ApiError
from persona.serve.metrics import Metrics

LOG = logging.getLogger("persona.serve")

_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_GONE = 499
"""What the log calls the status of a request whose client went away before it was answered."""


class Watched:
    """Counts, times and logs requests, and answers those that fail.

    Args:
        app: what answers them.
        metrics: what counts them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        noted: dict[str, Any] = {}
        scope["persona"] = noted  # what routes add to the line of the log
        status, began = _GONE, perf_counter()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                await self._app(scope, receive, sent)
        except Exception as error:  # whatever was not foreseen is answered, and its message, which may hold texts, kept
            LOG.error(json.dumps({"id": request_id, "error": type(error).__name__, "at": _places(error)}))
            if status == _GONE:
                failed = ApiError(
                    500, f"the server failed; its log says more under {request_id}", code="internal_error"
                )
                await failed.response()(scope, receive, sent)
            else:
                status = 500
        finally:
            self._note(scope, status, perf_counter() - began, {"id": request_id, **noted})

    def _note(self, scope: Scope, status: int, seconds: float, noted: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "-")
        self._metrics.requests.labels(scope["method"], route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        line = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 1), **noted}
        LOG.info(json.dumps(line))


def _places(error: BaseException) -> list[str]:
    return [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)[-4:]]


class BodyLimits:
    """Refuses bodies that are too large (413) or too slow (408).

    Args:
        app: what reads them.
        size: most bytes.
        seconds: until the last byte is there.
    """

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        self._app, self._size, self._seconds = app, size, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if int(Headers(scope=scope).get("content-length", "0")) > self._size:
            too_large = ApiError(413, self._too_large, code="body_too_large")
            return await too_large.response()(scope, receive, send)
        read, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._seconds

        async def limited() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"a body must arrive within {self._seconds:g} s") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self._size:
                # FastAPI makes anything else that is raised while it reads a body into a 400.
                raise HTTPException(413, self._too_large)
            return message

        await self._app(scope, limited, send)

    @property
    def _too_large(self) -> str:
        return f"a body may have {self._size / 2**20:g} MiB here (`body_mb`)"
