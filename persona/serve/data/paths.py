"""Ids in URLs: whatever a user or a record is called, it is one segment of the path.

A server decodes a path before it looks for a route, and then the id ``a/b``, sent as ``a%2Fb``, is two segments. So
routes below ``/v1/users/`` are found by the path as it was sent, and each id is decoded by itself:

>>> decoded("caf%C3%A9%2F..%2F%00")
'café/../\\x00'

Browsers take the segments ``.`` and ``..`` out of a URL however they are written; a user or record of that name is out
of their reach, other clients can ask for it as ``%2E%2E``.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import Path
from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/v1/users/"


class RawPaths:
    """Routes requests below `PREFIX` by the path as it was sent.

    Args:
        app: what answers them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("raw_path"):
            sent = scope["raw_path"].decode("ascii", "replace")
            if sent.startswith(scope.get("root_path", "") + PREFIX):
                scope["path"] = sent  # in place: what is around this reads the route from the same scope
        await self._app(scope, receive, send)


def decoded(segment: str) -> str:
    """One segment of a path, percent-decoded.

    Raises:
        ValueError: if it is no UTF-8.
    """
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"an id must be percent-encoded UTF-8, was: {segment!r:.80}") from None


UserId = Annotated[str, Path(description="The user's id, percent-encoded."), AfterValidator(decoded)]
RecordId = Annotated[str, Path(description="The record's id, percent-encoded."), AfterValidator(decoded)]
