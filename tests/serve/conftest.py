"""Servers on free ports, their stores, and an upstream that does what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from persona.assembly import PersonalizationOptions
from persona.llm.load import load_llm
from persona.records import Record
from persona.serve.opening import for_upstream, opened_state
from persona.serve.running import server
from persona.serve.state import ServerOptions, ServerState
from persona.store.profile_store import ProfileStore

CANARY = {"ana": "Canary ochre, the garden opened on the school roof.", "ben": "Canary violet, the garden has a pond."}
"""Users and what their only record says; the first two words are nobody else's."""
ASKED = "Write a headline about the garden."


@contextmanager
def running(state: ServerState) -> Iterator[str]:
    """The URL of a server that answers with `state`, in a thread of its own."""
    started = Event()
    serving = server(state, started.set)
    serving.config.port = 0
    thread = Thread(target=serving.run)
    thread.start()
    try:
        assert started.wait(60), "the server did not start"
        port = serving.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        serving.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


class Serve:
    """Makes servers for one test."""

    def __init__(self, store: ProfileStore, stack: ExitStack) -> None:
        self.store, self._stack = store, stack
        self.state: ServerState
        self.url = ""

    def __call__(
        self, llm: object, options: ServerOptions | None = None, *, endpoint: dict[str, Any] | None = None, **parts: Any
    ) -> str:
        """The URL of a server with `llm` behind it, and a personalizer of `parts` before that."""
        self.open(llm, options, endpoint=endpoint, **parts)
        self.url = self._stack.enter_context(running(self.state))
        return self.url

    def open(
        self, llm: object, options: ServerOptions | None = None, *, endpoint: dict[str, Any] | None = None, **parts: Any
    ) -> ServerState:
        """The same without a server."""
        personalization = PersonalizationOptions(**parts)
        if isinstance(llm, str):
            told, personalization = for_upstream(llm, self.store, personalization)
            llm = load_llm(llm, **told, **(endpoint or {}))
        opened = opened_state(llm, self.store, personalization, options or ServerOptions())  # type: ignore[arg-type]
        self.state = self._stack.enter_context(opened)
        return self.state


@contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Makes servers over a store that knows ana and ben."""
    with ProfileStore(f"sqlite:///{folder}/persona.db") as store, ExitStack() as stack:
        store.upsert((user, Record(text, target=f"{user}'s headline", id=f"{user}-1")) for user, text in CANARY.items())
        yield Serve(store, stack)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Makes servers."""
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def store(serve: Serve) -> ProfileStore:
    """The store that they are over."""
    return serve.store


Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Upstream:
    """A server that plays OpenAI's part, as it is told.

    Attributes:
        asked: bodies of the requests, in order, and beside them path and headers.
        behaviour: what is done with the next ones.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.behaviour: Behaviour = replies(answer("hello"))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.heads.append((self.path, dict(self.headers)))
                self.asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(self.asked)
                outer.behaviour(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a client went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(text: str, **more: Any) -> dict[str, Any]:
    """An answer in OpenAI's form."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt"}
    return {**head, "choices": [choice], "usage": usage, **more}


def chunks(*texts: str) -> list[bytes]:
    """Events of a stream, without the last one; their bytes are unlike those that anybody else would write."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": text}, None) for text in texts] + [({}, "stop")]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
    found = []
    for delta, finish in deltas:
        chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        found.append(b"data:  " + json.dumps(chunk, indent=None, separators=(" , ", " : ")).encode() + b"\n\n")
    return found


def replies(body: object, status: int = 200, **headers: str) -> Behaviour:
    """Sends a body, as JSON if it is no bytes."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def streams(*events: bytes | Callable[[], object], done: bool = True) -> Behaviour:
    """Sends events one by one; a function among them is called in its turn."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for event in (*events, *([b"data: [DONE]\n\n"] if done else [])):
            if isinstance(event, bytes):
                handler.wfile.write(event)
                handler.wfile.flush()
            else:
                event()

    return behave


def drops(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True


@pytest.fixture(scope="module")
def _upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


@pytest.fixture
def upstream(_upstream: Upstream) -> Upstream:
    """A scripted upstream, which has heard nothing yet."""
    _upstream.asked, _upstream.heads, _upstream.behaviour = [], [], replies(answer("hello"))
    return _upstream
