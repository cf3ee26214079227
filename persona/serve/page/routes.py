"""The page at ``/``: files that are sent as they lie here, and rules by which no text can become a script.

The page asks for an API key and keeps it in memory; what it shows comes from the API like anybody's. It works below any
path, for all its addresses are relative.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from persona.serve.errors import ApiError

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = {
    each.name: each.read_bytes()
    for each in (files("persona.serve.page") / "files").iterdir()
    if each.name.rpartition(".")[2] in _KINDS
}
_HEADERS = {
    # Nothing but this server's own files and API: no inline script, no other site, no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """The page."""
    return await file("index.html")


@router.get("/page/{name}")
async def file(name: str) -> Response:
    """One of its files."""
    if name not in _FILES:
        raise ApiError(404, "the page has no such file", code="not_found")
    kind = _KINDS[name.rpartition(".")[2]]
    return Response(_FILES[name], headers=_HEADERS, media_type=f"{kind}; charset=utf-8")
