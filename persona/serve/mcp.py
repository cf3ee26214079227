"""The memory for agents over HTTP: MCP at ``/mcp``, for whoever has an API key.

Each request is a connection of its own: it says by its key who calls, so that several processes may serve one store and
nothing is left of one caller for the next. ``Host`` and ``Origin`` must be names that the server has: a page of another
site cannot reach it through a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from persona.errors import PersonaError, needed
from persona.integrations.mcp import memory_server
from persona.integrations.personal import Personal
from persona.memory import Memory
from persona.serve.access import caller_of
from persona.serve.errors import ApiError
from persona.serve.keys import KeyStore

with needed("mcp"):
    from mcp.server.transport_security import TransportSecuritySettings

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def mcp_app(memory: Memory, personal: Personal, *, hosts: Sequence[str] = ()) -> ASGIApp:
    """The application.

    Args:
        memory: holds the memories, and the API keys in its store.
        personal: what requests are answered with, for the tool `why`.
        hosts: names that the server is asked by, besides those of this machine.
    """
    caller = attrgetter("request_context.request.state.caller")
    server = memory_server(memory, caller, personal=personal, names_users=True)
    named = [*_LOOPBACK, *hosts]
    security = TransportSecuritySettings(
        allowed_hosts=[*named, *(f"{name}:*" for name in named)],
        allowed_origins=[
            f"{scheme}://{name}{port}" for name in named for scheme in ("http", "https") for port in ("", ":*")
        ],
    )
    app = server.streamable_http_app(stateless_http=True, json_response=True, transport_security=security)
    return _Known(app, KeyStore(memory.store))


class _Known:
    """Answers requests whose key is known, and notes whose it is."""

    def __init__(self, app: ASGIApp, keys: KeyStore) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
            given = secret if scheme.lower() == "bearer" else None
            try:
                request.state.caller = await run_in_threadpool(caller_of, self._keys, request, given)
            except PersonaError as error:
                return await ApiError.of(error).response()(scope, receive, send)
        await self._app(scope, receive, send)
