"""Around the routes: keys, limits on bodies, health, numbers and the log, none of which tells of users."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai import OpenAI
from starlette.testclient import TestClient

from persona.serve.app import app_of
from persona.serve.state import ServerOptions
from tests.serve.conftest import ASKED, CANARY, Serve, Upstream, serving

MESSAGES: list[Any] = [{"role": "user", "content": ASKED}]


@pytest.fixture(scope="module")
def served(_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A server with small limits, without keys."""
    with serving(tmp_path_factory.mktemp("app")) as serve:
        options = ServerOptions(body_mb=0.01, body_seconds=0.5, origins=("https://chat.example.com",))
        serve(f"openai:gpt@{_upstream.url}", options, endpoint={"api_key": "sk-operator"})
        yield serve


def post(url: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES, **more})


def test_a_body_has_a_size_and_a_time(served: Serve, upstream: Upstream) -> None:
    long = [{"role": "user", "content": "x" * 20_000}]
    assert post(served.url, messages=long).status_code == 413

    def pieces() -> Iterator[bytes]:  # without a length said before
        yield b'{"messages": ['
        yield b" " * 20_000

    sent = {"content": pieces(), "headers": {"content-type": "application/json"}}
    too_large = httpx.post(f"{served.url}/v1/chat/completions", **sent)  # type: ignore[arg-type]
    assert (too_large.status_code, too_large.json()["error"]["type"]) == (413, "invalid_request_error")
    address = served.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as slow:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert slow.recv(64).startswith(b"HTTP/1.1 408")
    assert upstream.asked == []


def test_a_key_says_who_asks_and_what_for(serve: Serve, upstream: Upstream) -> None:
    url = serve(f"openai:gpt@{upstream.url}", endpoint={"api_key": "sk-operator"})
    keys = serve.state.keys
    anas, anyones = keys.make("ana's", ["ask"], "ana")[0], keys.make("shop", ["ask"])[0]
    writer = keys.make("writer", ["write"])[0]

    def ask(key: str, **more: Any) -> Any:
        with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            answer = client.chat.completions.create(model="gpt", messages=MESSAGES, **more)
        assert answer.model_extra is not None
        return answer.model_extra["persona"]["records"]

    assert ask(anas) == ask(anas, user="ana") == ["ana-1"]
    assert ask(anyones) == []
    assert ask(anyones, user="ben") == ["ben-1"]
    with pytest.raises(openai.PermissionDeniedError):
        ask(anas, user="ben")
    with pytest.raises(openai.PermissionDeniedError):
        ask(writer)
    for wrong in ("none", anas[:-1] + "x"):
        with pytest.raises(openai.AuthenticationError):
            ask(wrong)
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert not any(secret in json.dumps([upstream.asked, upstream.heads]) for secret in (anas, anyones, writer))


def test_without_keys_only_this_machine_asks(served: Serve, upstream: Upstream) -> None:
    for headers in ({"Host": "evil.example.com"}, {"Origin": "https://evil.example.com"}, {"Host": "[x"}):
        refused = httpx.post(f"{served.url}/v1/chat/completions", json={"messages": MESSAGES}, headers=headers)
        assert refused.status_code == 401, headers
        assert "access-control-allow-origin" not in refused.headers
    assert upstream.asked == []


def test_other_origins_are_let_in_by_name_alone(served: Serve) -> None:
    def asks(origin: str) -> str:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{served.url}/v1/models", headers=headers).headers
        return str(allowed.get("access-control-allow-origin"))

    assert asks("https://chat.example.com") == "https://chat.example.com"
    assert asks("https://evil.example.com") == "None"


def test_health_and_numbers_need_no_key_and_name_nobody(served: Serve, upstream: Upstream) -> None:
    post(served.url, user="ana")
    post(served.url, user="ana", persona={"enabled": False})
    for path in ("healthz", "readyz"):
        assert httpx.get(f"{served.url}/{path}").json() == {"status": "ok"}
    text = httpx.get(f"{served.url}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    asked = 'persona_requests_total{method="POST",route="/v1/chat/completions",status="200"}'
    assert float(lines[asked]) >= 2
    assert float(lines['persona_channels_total{channel="records"}']) >= 1
    assert float(lines['persona_channels_total{channel="none"}']) >= 1
    assert float(lines['persona_tokens_total{kind="completion"}']) >= 4
    assert float(lines['persona_tokens_total{kind="added"}']) > 0
    assert float(lines["persona_first_token_seconds_count"]) >= 2
    assert float(lines["persona_prepare_seconds_count"]) >= 1
    assert "ana" not in text


def test_the_log_has_a_line_a_request_and_nobodys_words(
    served: Serve, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="persona"):
        httpx.post(
            f"{served.url}/v1/chat/completions",
            json={"messages": MESSAGES, "user": "ana"},
            headers={"X-Request-ID": "r-1"},
        )
        httpx.get(f"{served.url}/v1/models/ana")
        httpx.get(f"{served.url}/nobody/ana")
        for _ in range(500):  # a line is written when its reply has gone out
            if len(caplog.records) == 3:
                break
            time.sleep(0.01)
    asked, model, unknown = (json.loads(record.getMessage()) for record in caplog.records)
    assert asked.pop("ms") > 0
    assert asked == {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "id": "r-1",
        "prompt_tokens": 7,
        "completion_tokens": 2,
    }
    assert (model["route"], model["status"]) == ("/v1/models/{name:path}", 404)
    assert (unknown["route"], unknown["status"]) == ("-", 404)
    assert not any(word in caplog.text for word in ("ana", CANARY["ana"], ASKED, "hello"))


def test_what_nobody_foresaw_is_a_500_whose_message_stays_in_the_process(
    serve: Serve, upstream: Upstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(f"openai:gpt@{upstream.url}", endpoint={"api_key": "sk-operator"})

    async def fails(call: object) -> None:
        raise RuntimeError("the secret of ana")

    monkeypatch.setattr(serve.state.backend, "answer", fails)
    got = post(url, user="ana")
    assert (got.status_code, got.json()["error"]["type"]) == (500, "server_error")
    assert got.headers["x-request-id"] in got.json()["error"]["message"]
    assert "RuntimeError" in caplog.text
    assert "secret of ana" not in caplog.text + got.text


def test_unknown_paths_and_methods_are_errors_of_the_same_form(served: Serve) -> None:
    for got in (httpx.get(f"{served.url}/v2"), httpx.get(f"{served.url}/v1/chat/completions")):
        assert got.status_code in (404, 405)
        assert got.json()["error"]["type"] == "invalid_request_error"


def test_it_can_be_mounted_and_describes_itself(serve: Serve, upstream: Upstream) -> None:
    state = serve.open(f"openai:gpt@{upstream.url}", endpoint={"api_key": "sk-operator"})

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        yield
        await state.backend.aclose(1)

    mine = FastAPI(lifespan=living)
    mine.mount("/persona", app_of(state))
    with TestClient(mine, client=("127.0.0.1", 1), base_url="http://localhost") as client:
        assert client.post("/persona/v1/chat/completions", json={"messages": MESSAGES}).json()["choices"]
        paths = client.get("/persona/openapi.json").json()["paths"]
    asked = paths["/v1/chat/completions"]["post"]
    assert set(asked["responses"]) >= {"200", "400", "401", "403", "404", "413", "429", "502", "503", "504"}
    assert "422" not in asked["responses"]
    assert set(asked["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
