"""What the server adds to a request to an upstream, retrieval among 50 records included, against a direct call.

Three processes: an upstream that answers at once, `persona serve` before it, and this client, which asks both in turn
over connections that stay open.

python benchmarks/gateway.py [--requests 300] [--records 50] [--retriever bm25] [--stream] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil

from persona.records import Record
from persona.store.profile_store import ProfileStore

UPSTREAM = """
import sys, uvicorn
ANSWER = b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":' \\
    b'"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
CHUNK = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":"stop"}]}\\n\\n' \\
    b'data: [DONE]\\n\\n'
async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    stream = b'"stream": true' in body
    kind = b"text/event-stream" if stream else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": CHUNK if stream else ANSWER})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off", access_log=False)
"""
WORDS = [
    "garden",
    "school",
    "roof",
    "library",
    "ladder",
    "museum",
    "painting",
    "cellar",
    "city",
    "key",
    "gate",
    "bridge",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--records", type=int, default=50)
    parser.add_argument("--retriever", default="bm25")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, upstream() as direct:
        url = f"sqlite:///{folder}/persona.db"
        with ProfileStore(url) as store:
            store.upsert(
                (user, Record(text(user, number), target="x"))
                for user in range_of_users()
                for number in range(arguments.records)
            )
        with gateway(url, direct, arguments.retriever) as (served, process), httpx.Client(timeout=30) as client:
            ways = {
                "direct": asker(client, direct, arguments.stream),
                "gateway": asker(client, f"{served}/v1", arguments.stream),
            }
            measured(ways, 20)  # to warm up
            before = sum(process.cpu_times()[:2])
            seconds = measured(ways, arguments.requests)
            cpu = (sum(process.cpu_times()[:2]) - before) / arguments.requests
    report(seconds, cpu, as_json=arguments.json)


def range_of_users() -> list[str]:
    return [f"user {number}" for number in range(20)]


def text(user: str, number: int) -> str:
    """A record of some thirty words, none of it like another."""
    return f"{user} {number}: " + " ".join(WORDS[(number * 7 + index * index) % len(WORDS)] for index in range(30))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def upstream() -> Iterator[str]:
    """The URL of an upstream that answers at once."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", UPSTREAM, str(port)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def gateway(store: str, direct: str, retriever: str) -> Iterator[tuple[str, psutil.Process]]:
    """The URL of `persona serve` before it, and its process."""
    command = [sys.executable, "-m", "persona", "serve", "--port", "0", "--llm", f"openai:m@{direct}", "--store", store]
    environment = {**os.environ, "OPENAI_API_KEY": "none"}
    process = subprocess.Popen(
        [*command, "--retriever", retriever],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def asker(client: httpx.Client, url: str, stream: bool) -> Callable[[int], None]:
    """Asks for one answer."""

    def ask(number: int) -> None:
        messages = [{"role": "user", "content": f"Write about the {WORDS[number % len(WORDS)]}, please ({number})."}]
        body = {"model": "m", "messages": messages, "user": f"user {number % 20}", "stream": stream}
        client.post(f"{url}/chat/completions", json=body).raise_for_status()

    return ask


def measured(ways: dict[str, Callable[[int], None]], requests: int) -> dict[str, list[float]]:
    """Seconds of each request, the ways in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(requests):
        for name, ask in ways.items():
            begun = time.perf_counter()
            ask(number)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def report(seconds: dict[str, list[float]], cpu: float, *, as_json: bool) -> None:
    """Milliseconds, what the gateway adds, and what it computes, which other work on the machine does not change."""
    found = {
        name: {"p50": 1000 * statistics.median(times), "p99": 1000 * statistics.quantiles(times, n=100)[98]}
        for name, times in seconds.items()
    }
    found["added"] = {each: found["gateway"][each] - found["direct"][each] for each in ("p50", "p99")}
    if as_json:
        print(json.dumps({**found, "cpu of the gateway": 1000 * cpu}, indent=2))
        return
    print(f"{'way':10} {'p50 ms':>8} {'p99 ms':>8}")
    for name, value in found.items():
        print(f"{name:10} {value['p50']:8.2f} {value['p99']:8.2f}")
    print(f"CPU of the gateway: {1000 * cpu:.2f} ms a request")


if __name__ == "__main__":
    main()
