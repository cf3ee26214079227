"""A server on this machine that speaks OpenAI's protocol and answers as a test says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, TypeAlias

Reply: TypeAlias = tuple[int, Any, dict[str, str]]
"""Status, content (bytes as they are, else as JSON) and further headers; a status of 0 hangs up."""


@dataclass
class Server:
    """Attributes:
    url: the client's `base_url`.
    received: path and body of every request so far, in the order in which they came.
    """

    url: str = ""
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """What was asked, as often as it was."""
        return [body["messages"][-1]["content"] for _, body in self.received]


@contextmanager
def serving(answer: Callable[[str, dict[str, Any]], Reply]) -> Iterator[Server]:
    """A server that runs `answer` (path, body) for each request, one at a time."""
    server, lock = Server(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.received.append((self.path, body))
                status, content, headers = answer(self.path, body)
            if not status:
                self.close_connection = True
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # a client that has its first error hangs up
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def turn(text: str | None, finish: str = "stop", **message: Any) -> Reply:
    """A chat's turn."""
    message = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}, {}


def refusal(status: int, message: str, **headers: str) -> Reply:
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "invalid_request_error", "code": None}}, headers


AT_ONCE = {"retry-after-ms": "1"}
"""A header that asks for the next try at once."""


class Faulty:
    """Answers, but to some prompts never and to some only when they are asked again.

    Args:
        answer: by the prompt.
        never: those that are never answered.
        once: those that fail the first time, each in another way.
    """

    def __init__(self, answer: Callable[[str], str], never: Callable[[str], bool], once: Callable[[str], bool]) -> None:
        self._answer, self._never, self._once = answer, never, once
        self.asked: Counter[str] = Counter()
        self.faults: list[Reply] = [
            refusal(429, "slow down", **AT_ONCE),
            refusal(503, "overloaded", **AT_ONCE),
            (0, None, {}),
            (200, b'{"choices": [{"message": {"content": "4', {}),
            (200, b'{"choices": [{"message": {"content": "\xff"}}]}', {}),
            (200, {"error": {"message": "upstream"}}, {}),
        ]
        self._next = 0

    def __call__(self, path: str, body: dict[str, Any]) -> Reply:
        prompt = body["messages"][-1]["content"]
        self.asked[prompt] += 1
        if self._never(prompt):
            return refusal(500, "internal error", **AT_ONCE)
        if self._once(prompt) and self.asked[prompt] == 1:
            self._next += 1
            return self.faults[self._next % len(self.faults)]
        return turn(self._answer(prompt))
