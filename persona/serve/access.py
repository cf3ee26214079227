"""Who makes a request, and how a refused one is answered.

A route that needs to know takes ``Annotated[Caller, Depends(caller)]``; `add_error_handlers` gives every error the form
that OpenAI's clients read::

    {"error": {"message": "...", "type": "invalid_request_error", "code": "invalid_api_key", "param": null}}

As long as the store has never had a key, requests from this machine are `LOCAL`'s. A page of another site that a
browser on this machine shows could make such requests too, or be given the server's address under a name of its own; so
they must name the machine itself (``Host``), and come from no other site (``Origin``, ``Sec-Fetch-Site``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from persona.errors import (
    ForbiddenError,
    GenerationError,
    PersonaError,
    StoreError,
    UnauthorizedError,
    UnknownRecordError,
    UnknownUserError,
    UnsupportedChannelError,
)
from persona.serve.keys import LOCAL, Caller, KeyStore

_STATUS: tuple[tuple[type[PersonaError], int, str], ...] = (
    (UnauthorizedError, 401, "invalid_api_key"),
    (ForbiddenError, 403, "permission_denied"),
    (UnknownUserError, 404, "unknown_user"),
    (UnknownRecordError, 404, "unknown_record"),
    (UnsupportedChannelError, 400, "unsupported"),
    (GenerationError, 502, "generation_failed"),
    (StoreError, 503, "store_unavailable"),
)
"""Status and code of errors, the most special first; any other is a request that cannot be served as it is, 400."""

_bearer = HTTPBearer(auto_error=False, description="An API key of `persona keys make`.")


def caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None) -> Caller:
    """Who makes the request; FastAPI runs this in a worker thread, since it reads the database.

    Raises:
        UnauthorizedError: if it has no key of this store, and is not `LOCAL`'s.
    """
    return caller_of(request.app.state.persona.keys, request, None if given is None else given.credentials)


def caller_of(keys: KeyStore, request: Request, secret: str | None) -> Caller:
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


def error_body(
    message: str, *, code: str | None = None, param: str | None = None, status: int = 400
) -> dict[str, dict[str, Any]]:
    """An error in OpenAI's form."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def error_response(error: PersonaError) -> JSONResponse:
    """The reply to a request that ended in `error`."""
    status, code = next(((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (400, None))
    # The error of the command line names ids that are near, which are other users'.
    message = "the store holds nothing on that user" if isinstance(error, UnknownUserError) else str(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return _reply(status, message, code, headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer the errors that are foreseen in OpenAI's form; `persona.serve.middleware` has the others."""

    @app.exception_handler(PersonaError)
    async def known(request: Request, error: PersonaError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return _reply(400, f"{place or first['loc'][0]}: {first['msg']}", "invalid_request", param=place or None)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _reply(error.status_code, str(error.detail), headers=error.headers)


def _reply(
    status: int,
    message: str,
    code: str | None = None,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    # What was given may hold lone surrogates, which JSON takes and UTF-8 does not.
    message = message.encode("utf-8", "backslashreplace").decode()
    return JSONResponse(error_body(message, code=code, param=param, status=status), status, headers)
