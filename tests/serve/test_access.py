"""Who makes a request, and the form of errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from persona.errors import GenerationError, StoreError, UnknownUserError
from persona.serve.access import caller
from persona.serve.errors import add_error_handlers
from persona.serve.keys import ApiKey, KeyStore
from persona.store.profile_store import ProfileStore


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/who")
    def who(caller: Annotated[ApiKey, Depends(caller)], user: str | None = None) -> Any:
        return {"key": caller.key_id, "user": caller.user(user)}

    @app.get("/fails/{name}")
    def fails(name: str) -> None:
        raise {
            "user": UnknownUserError("did you mean 'anna'?"),
            "store": StoreError("gone"),
            "llm": GenerationError("silent \ud800"),
        }[name]

    with ProfileStore(f"sqlite:///{tmp_path}/persona.db") as store:
        app.state.persona = SimpleNamespace(keys=KeyStore(store))
        yield app


def local(app: FastAPI, host: str = "127.0.0.1", client: str = "127.0.0.1", **headers: str) -> TestClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return TestClient(app, f"http://{host}:8000", False, client=(client, 5000), headers=named)


def test_without_keys_this_machine_alone_may_ask(app: FastAPI) -> None:
    allowed = (
        local(app),
        local(app, "localhost"),
        local(app, "[::1]", "::1"),
        local(app, authorization="Bearer not-needed"),
        local(app, origin="http://127.0.0.1:8000", sec_fetch_site="same-origin"),
    )
    refused = (
        local(app, client="10.0.0.7"),
        local(app, "evil.example"),
        local(app, "localhost.evil.example"),
        local(app, origin="http://evil.example"),
        local(app, origin="http://127.0.0.1:9000"),
        local(app, sec_fetch_site="cross-site"),
        local(app, sec_fetch_site="same-site"),
    )
    assert [client.get("/who").status_code for client in allowed] == [200] * len(allowed)
    assert [client.get("/who").status_code for client in refused] == [401] * len(refused)


def test_with_keys_nobody_asks_without_one(app: FastAPI) -> None:
    keys: KeyStore = app.state.persona.keys
    secret, key = keys.make("phone", ["ask"], user_id="ana")
    given = local(app, "any.example", "10.0.0.7", authorization=f"Bearer {secret}")
    assert given.get("/who").json() == {"key": key.key_id, "user": "ana"}
    reply = given.get("/who", params={"user": "ben"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "permission_denied")
    keys.revoke(key.key_id)
    for client in (given, local(app), local(app, authorization="Basic YTpi")):
        reply = client.get("/who")
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert reply.json()["error"].keys() == {"message", "type", "code", "param"}
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert secret not in reply.text


def test_errors_have_openai_s_form(app: FastAPI) -> None:
    client = local(app)
    got = {name: client.get(f"/fails/{name}") for name in ("user", "store", "llm")}
    assert [reply.status_code for reply in got.values()] == [404, 503, 502]
    assert got["user"].json()["error"]["message"] == "the store holds nothing on that user"
    assert got["llm"].json()["error"] == {
        "message": r"silent \ud800",
        "type": "server_error",
        "code": "generation_failed",
        "param": None,
    }
    assert client.get("/nowhere").json()["error"]["message"] == "Not Found"
    assert client.post("/who").json()["error"]["type"] == "invalid_request_error"
