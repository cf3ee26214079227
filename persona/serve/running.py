"""The server runs: it listens, says where, and ends when it is told to, without losing an answer under way."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from threading import current_thread, main_thread

import uvicorn
from starlette.types import ASGIApp

from persona.errors import InvalidOptionError
from persona.serve.app import app_of
from persona.serve.keys import KeyStore
from persona.serve.state import ServerState

_KEPT_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the pools of clients keep theirs."""


def run(state: ServerState, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process gets SIGTERM or SIGINT; answers under way are finished first.

    Args:
        state: what it answers with.
        host: name or address to listen on. Beyond this machine only where there are API keys.
        port: 0 takes a free one.
        ready: called with the URL when requests are answered.

    Raises:
        InvalidOptionError: if it would listen beyond this machine without keys, or cannot listen there.
    """
    with listening(host, port, state.keys) as (opened, url):
        server(state, lambda: ready(url)).run(sockets=[opened])


@contextmanager
def listening(host: str, port: int, keys: KeyStore) -> Iterator[tuple[socket.socket, str]]:
    """A socket to listen on, and its URL; arguments and errors as in `run`."""
    # asyncio sends small packets at once only where a socket says that it is TCP; others may wait for 40 ms.
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise InvalidOptionError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    with opened:
        address, port = opened.getsockname()[:2]
        if not ipaddress.ip_address(address).is_loopback and not keys.made():
            raise InvalidOptionError(
                f"without API keys a server listens on this machine alone (127.0.0.1), was: {host}; make a key first: "
                "persona keys make NAME"
            )
        named = f"[{host}]" if ":" in host else host
        yield opened, f"http://{named}:{port}"


def server(state: ServerState, ready: Callable[[], None]) -> uvicorn.Server:
    """A server of uvicorn that calls `ready` when it listens."""
    return server_of(app_of(state), ready, state.options.drain_seconds)


def server_of(app: ASGIApp, ready: Callable[[], None], drain_seconds: float) -> uvicorn.Server:
    """`server` for any application."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,  # the application logs, without paths
        server_header=False,
        proxy_headers=False,  # who is on this machine is not for a header to say
        ws="none",
        timeout_keep_alive=_KEPT_ALIVE,
        timeout_graceful_shutdown=ceil(drain_seconds),
    )
    return _Server(config, ready)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal. uvicorn would raise it once more at the end, and the process would seem to have failed."""
        if current_thread() is not main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
