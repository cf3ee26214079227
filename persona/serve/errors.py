"""What a request is refused for: a status, a code for programs, and the field that is wrong.

Every error has the form that OpenAI's clients read (`add_error_handlers`)::

    {"error": {"message": "...", "type": "invalid_request_error", "code": "invalid_api_key", "param": null}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
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
        self.status, self.code, self.param, self.headers = status, code, param, headers

    @classmethod
    def of(cls, error: PersonaError) -> ApiError:
        """What a request that ended in `error` is answered."""
        if isinstance(error, ApiError):
            return error
        status, code = next(((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (400, None))
        # The error of the command line names ids that are near, which are other users'.
        message = "the store holds nothing on that user" if isinstance(error, UnknownUserError) else str(error)
        return cls(status, message, code=code, headers={"WWW-Authenticate": "Bearer"} if status == 401 else None)

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        # What was given may hold lone surrogates, which JSON takes and UTF-8 does not.
        message = str(self).encode("utf-8", "backslashreplace").decode()
        return {"error": {"message": message, "type": kind, "code": self.code, "param": self.param}}

    def response(self) -> JSONResponse:
        """The reply."""
        return JSONResponse(self.body, self.status, self.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer the errors that are foreseen; `persona.serve.middleware` has the others."""

    @app.exception_handler(PersonaError)
    async def known(request: Request, error: PersonaError) -> JSONResponse:
        return ApiError.of(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        message = f"{place or first['loc'][0]}: {first['msg']}"
        return ApiError(400, message, code="invalid_request", param=place or None).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()


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
