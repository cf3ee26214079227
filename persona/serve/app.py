"""The application: all routes, around them the limits, and what happens when it stops.

For an application of your own: ``mine.mount("/persona", app_of(state))``. Starlette runs the lifespan of the outer
application alone, so close the state's backend there: ``await state.backend.aclose(30)``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from persona.serve import health
from persona.serve.answers import routes
from persona.serve.data import routes as data
from persona.serve.data.paths import RawPaths
from persona.serve.errors import add_error_handlers
from persona.serve.middleware import BodyLimits, Watched
from persona.serve.page import routes as page
from persona.serve.state import ServerState
from persona.version import __version__

_SUMMARY = "OpenAI's API in front of a frozen LLM that answers as if it knew the user."


def app_of(state: ServerState) -> FastAPI:
    """The server as an application of FastAPI.

    Args:
        state: what it answers with (`persona.serve.opening.opened_state` makes one). When the application stops, its
            backend is closed; the store is left to who opened it.
    """

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        yield
        await state.backend.aclose(state.options.drain_seconds)

    # The pages /docs and /redoc would load scripts from elsewhere.
    app = FastAPI(
        title="persona", summary=_SUMMARY, version=__version__, docs_url=None, redoc_url=None, lifespan=living
    )
    app.state.persona = state
    for router in (health.router, routes.router, data.router, page.router):
        app.include_router(router)
    add_error_handlers(app)
    options = state.options
    app.add_middleware(BodyLimits, size=int(options.body_mb * 2**20), seconds=options.body_seconds)
    if options.origins:
        app.add_middleware(CORSMiddleware, allow_origins=options.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(RawPaths)
    app.add_middleware(Watched, metrics=state.metrics)
    app.openapi = _without_422(app)  # type: ignore[method-assign]
    return app


def _without_422(app: FastAPI) -> Any:
    """The OpenAPI description without FastAPI's own error of bodies out of form, which is a 400 here."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        found = described()
        for methods in found["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        return found

    return openapi
