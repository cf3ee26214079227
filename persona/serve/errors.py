"""What the server itself refuses: a status, a code for programs, and the field that is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from persona.errors import PersonaError
from persona.serve.access import error_body


class ErrorDetail(BaseModel):
    """What went wrong, why, and in which field."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorBody(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


class ApiError(PersonaError):
    """A request is not answered, for a reason that its sender may read.

    Args:
        status: of HTTP.
        message: the rule, what was given and what to do.
        code: a word for programs, e.g. ``"model_not_found"``.
        param: the field of the request that is wrong.
        headers: further headers of the reply, e.g. ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        return error_body(str(self), code=self.code, param=self.param, status=self.status)

    def response(self) -> Response:
        """The reply."""
        return Response(json.dumps(self.body), self.status, self.headers, "application/json")


def add_refusals(app: FastAPI) -> None:
    """Have `app` answer each `ApiError` as it says."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()


_WHY = {
    400: "The request is out of form or out of range.",
    401: "There is no key, or none that is known.",
    403: "The key may not do that.",
    404: "There is no such model, user or record.",
    408: "The body did not arrive in time.",
    413: "The body is larger than this server takes.",
    429: "Too many wait already, see `Retry-After`; or the upstream says so.",
    500: "The server failed.",
    501: "This server does not do that.",
    502: "The upstream failed, or did not answer in OpenAI's form.",
    503: "The store or the upstream cannot be used now.",
    504: "The upstream did not answer in time.",
}


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI description."""
    return {status: {"model": ErrorBody, "description": _WHY[status]} for status in statuses}
