"""Who makes a request. A route that needs to know takes ``Annotated[ApiKey, Depends(caller)]``.

As long as the store has never had a key, requests from this machine are `LOCAL`'s. A page of another site that a
browser on this machine shows could make such requests too, or be given the server's address under a name of its own; so
they must name the machine itself (``Host``), and come from no other site (``Origin``, ``Sec-Fetch-Site``).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from persona.errors import UnauthorizedError
from persona.serve.keys import LOCAL, ApiKey, KeyStore

_bearer = HTTPBearer(auto_error=False, description="An API key of `persona keys make`.")


def caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None) -> ApiKey:
    """Who makes the request; FastAPI runs this in a worker thread, since it reads the database.

    Raises:
        UnauthorizedError: if it has no key of this store, and is not `LOCAL`'s.
    """
    return caller_of(request.app.state.persona.keys, request, None if given is None else given.credentials)


def caller_of(keys: KeyStore, request: Request, secret: str | None) -> ApiKey:
    """Who makes a request with that secret, or with none; errors as in `caller`."""
    known = None if secret is None else keys.caller(secret)
    if known is not None:
        return known
    if not keys.made() and _is_local(request):
        return LOCAL
    raise UnauthorizedError(
        "an API key is needed, as `Authorization: Bearer persona_...`: `persona keys make` makes one"
        if secret is None
        else "the API key is wrong or was revoked: `persona keys make` makes one"
    )


def _is_local(request: Request) -> bool:
    client, headers = request.client, request.headers
    origin = headers.get("origin")
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return (
        client is not None
        and _is_loopback(client.host)
        and _is_loopback(host)
        and (origin is None or origin == f"{request.url.scheme}://{headers['host']}")
        and headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
