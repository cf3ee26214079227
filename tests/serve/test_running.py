"""`persona serve` as a process: it says where it is, finishes what is under way, and ends without an error."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from persona.serve.keys import KeyStore
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import Run, run
from tests.serve.conftest import ASKED, Upstream, chunks, serving, streams
from tests.started import Begun, Starter

__all__ = ["run"]

LOG = Path("log")
BODY = {"messages": [{"role": "user", "content": ASKED}], "user": "ana", "max_tokens": 400, "temperature": 2, "seed": 1}


@contextmanager
def served(starter: Starter, *options: str) -> Iterator[tuple[Begun, str]]:
    """The process of a server, which logs to the file `LOG`, and its URL."""
    with LOG.open("w") as log:
        process = starter.begin("-m", "persona", "serve", "--port", "0", *options, stderr=log)
    try:
        line = process.stdout.readline()
        assert line.startswith("persona serves "), line + LOG.read_text()
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        process.close()


@pytest.mark.slow
def test_a_server_that_is_stopped_finishes_its_answers(starter: Starter, tmp_path: Path) -> None:
    with serving(tmp_path), served(starter, "--llm", "tiny") as (process, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**BODY, "stream": True}, timeout=60) as reply:
            pieces = reply.iter_lines()
            next(pieces)
            process.send_signal(signal.SIGTERM)
            events = [line.removeprefix("data: ") for line in pieces if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["persona"]["records"] == ["ana-1"]
        assert process.wait(60) == 0
        log = LOG.read_text()
        (line,) = [json.loads(each) for each in log.splitlines() if each.startswith("{")]
        assert (line["route"], line["status"]) == ("/v1/chat/completions", 200)
        assert "Traceback" not in log
        assert ASKED not in log


@pytest.mark.slow
def test_a_stop_before_an_upstream_finishes_streams_too(starter: Starter, tmp_path: Path, upstream: Upstream) -> None:
    with (
        serving(tmp_path),
        served(starter, "--llm", f"openai:gpt@{upstream.url}", "--set", "drain_seconds=20") as (process, url),
    ):
        first, *rest = chunks("a", "b")
        upstream.behaviour = streams(first, lambda: process.send_signal(signal.SIGTERM), *rest)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**BODY, "stream": True}) as reply:
            assert reply.read().endswith(b"[DONE]\n\n")
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_as_the_documentation_says(starter: Starter, tmp_path: Path) -> None:
    with serving(tmp_path), served(starter, "--llm", "tiny") as (_, url):

        def curl(*arguments: str) -> str:
            return subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True).stdout

        asked = curl(f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(BODY))
        assert json.loads(asked)["persona"]["records"] == ["ana-1"]
        streamed = curl("-N", f"{url}/v1/completions", "--json", json.dumps({"prompt": ASKED, "stream": True}))
        assert streamed.endswith("data: [DONE]\n\n")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-operator")


def test_a_server_beyond_this_machine_needs_keys(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    listening: list[str] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: listening.append(sockets[0].getsockname()[0]))
    everywhere = ("serve", "--llm", "openai:m@http://127.0.0.1:9/v1", "--host", "0.0.0.0", "--port", "0")
    assert "without API keys a server listens on this machine alone" in run(*everywhere).error
    assert listening == []
    with ProfileStore() as store:
        KeyStore(store).make("shop", ["ask"])
    assert run(*everywhere).code == 0
    assert listening == ["0.0.0.0"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--host nowhere.invalid", "cannot listen on nowhere.invalid"),
        ("--set origins=chat.example.com", "an origin is like https://"),
        ("--set endpoint=completions", "leave `endpoint`"),
        ("--set body_mb=0", "`body_mb` must be a number above 0"),
        ("--user-embedder nope", "nope"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(run: Run, line: str, said: str) -> None:
    assert said in run("serve", "--llm", "openai:m@http://127.0.0.1:9/v1", *line.split()).error


def test_a_port_that_is_taken_is_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = run("serve", "--llm", "openai:m@http://127.0.0.1:9/v1", "--port", port).error
    assert f"cannot listen on 127.0.0.1, port {port}: " in error
