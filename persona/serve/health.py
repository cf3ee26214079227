"""Whether the server lives, whether it can answer, and its numbers for Prometheus. None of them needs a key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from persona.serve.errors import ApiError, described
from persona.serve.state import ServerState

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """That the server is as it should be."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
async def alive() -> Health:
    """Whether the process lives."""
    return Health()


@router.get("/readyz", responses=described(503))
def ready(request: Request) -> Health:
    """Whether the store can be read and what answers is there; an upstream is not asked."""
    state: ServerState = request.app.state.persona
    if not state.backend.ready:
        raise ApiError(503, "the server is stopping", code="not_ready")
    state.keys.made()  # reads the database, and raises where it cannot
    return Health()


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Numbers for Prometheus: requests, tokens, queue, batch, time to the first token. None names a user."""
    state: ServerState = request.app.state.persona
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
