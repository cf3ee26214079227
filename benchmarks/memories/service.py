"""A local service with OpenAI's routes for embeddings and chat, for rivals that want one: an encoder and a function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from persona.protocols import RecordEncoder

Chat = Callable[[Sequence[dict[str, str]]], str]
"""From messages to an answer."""

_NEW = re.compile(r"## New Messages\n(.*?)\n\n## ", re.DOTALL)


def scripted(messages: Sequence[dict[str, str]]) -> str:
    """What an LLM might answer to mem0's extraction that makes one memory of each new message, as it stands."""
    found = _NEW.search(messages[-1]["content"])
    lines = found[1].splitlines() if found else []
    texts = [line.strip().strip('"').removeprefix("user: ") for line in lines if line.strip().strip('"')]
    return json.dumps({"memory": [{"id": str(number), "text": text} for number, text in enumerate(texts)]})


class Service(ThreadingHTTPServer):
    """The service.

    Args:
        encoder: of the embeddings.
        chat: answers chat requests; set it to change who answers.

    Attributes:
        asked: the messages of each chat request so far.
    """

    daemon_threads = True

    def __init__(self, encoder: RecordEncoder, chat: Chat = scripted) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.encoder, self.chat = encoder, chat
        self.asked: list[Sequence[dict[str, str]]] = []

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        if path.endswith("/embeddings"):
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            rows = self.encoder.encode(texts).tolist()
            data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
            usage = {"prompt_tokens": 0, "total_tokens": 0}
            return {"object": "list", "data": data, "model": body["model"], "usage": usage}
        self.asked.append(body["messages"])
        message = {"role": "assistant", "content": self.chat(body["messages"])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, Service)
        sent = json.dumps(self.server.reply(self.path, body)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(encoder: RecordEncoder) -> Iterator[Service]:
    """The service in a thread."""
    service = Service(encoder)
    thread = Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()
