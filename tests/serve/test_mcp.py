"""The memory for agents over HTTP: the SDK's own client, with keys and without, and requests from elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from persona.errors import InvalidOptionError
from persona.integrations.personal import Personal
from persona.memory import Memory
from persona.serve.keys import KeyStore
from persona.serve.mcp import mcp_app
from persona.serve.running import listening, server_of
from persona.store.profile_store import ProfileStore

LISTING = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_memories", "arguments": {}}}


@contextmanager
def running(store: ProfileStore) -> Iterator[str]:
    """The URL of a server in a thread of its own."""
    app = mcp_app(Memory(store), Personal(store), hosts=["memory.example"])
    started = Event()
    with listening("127.0.0.1", 0, KeyStore(store)) as (opened, url):
        serving = server_of(app, started.set, 1)
        thread = Thread(target=serving.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            assert started.wait(60)
            yield f"{url}/mcp"
        finally:
            serving.should_exit = True
            thread.join(60)


@pytest.fixture
def url(store: ProfileStore) -> Iterator[str]:
    with running(store) as opened:
        yield opened


def called(url: str, secret: str | None, tool: str, mode: str = "auto", **arguments: Any) -> Any:
    """What a tool gives, or the text of its error."""

    async def use() -> Any:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        http = httpx2.AsyncClient(headers=headers)
        async with http, Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            result = await client.call_tool(tool, arguments)
            text = result.content[0].text  # type: ignore[union-attr]
            return text if result.is_error else result.structured_content

    return asyncio.run(use())


def posted(url: str, message: Any = LISTING, **headers: str) -> httpx.Response:
    accepts = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(url, json=message, headers={**accepts, **given})


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_user_comes_from_the_key(url: str, store: ProfileStore, mode: str) -> None:
    keys = KeyStore(store)
    own, _ = keys.make("phone", ["write"], user_id="ana")
    many, _ = keys.make("service", ["write", "erase"])
    listed = called(url, own, "get_memories", mode)["results"]
    assert [each["user_id"] for each in listed] == ["ana"]
    assert called(url, own, "get_memories", mode, user_id="ana")["results"] == listed
    assert "another one was named" in called(url, own, "get_memories", mode, user_id="ben")
    assert "scope `erase`" in called(url, own, "delete_all_memories", mode)
    assert "name one, as `user_id`" in called(url, many, "get_memories", mode)
    assert called(url, many, "get_memory", mode, memory_id="ben-1", user_id="ben")["id"] == "ben-1"
    assert "no memory" in called(url, many, "get_memory", mode, memory_id="ben-1", user_id="ana")
    assert called(url, many, "delete_all_memories", mode, user_id="ana")["erased"][0]["removed"] == 1
    # The key of a user who was forgotten is gone, too.
    assert posted(url, Authorization=f"Bearer {own}").status_code == 401


def test_on_this_machine_no_key_is_needed_until_there_is_one(url: str, store: ProfileStore) -> None:
    assert len(called(url, None, "get_memories", user_id="ana")["results"]) == 1
    secret, key = KeyStore(store).make("phone", ["write"])
    refused = posted(url)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert posted(url, Authorization=f"Bearer {secret[:-1]}x").status_code == 401
    assert posted(url, Authorization=f"Bearer {secret}").status_code == 200
    KeyStore(store).revoke(key.key_id)
    assert posted(url, Authorization=f"Bearer {secret}").status_code == 401


def test_a_request_must_name_the_server_and_come_from_no_other_site(url: str, store: ProfileStore) -> None:
    port = httpx.URL(url).port
    # A page of another site, and one whose name is led to this machine, are no one on this machine.
    for headers in (
        {"Origin": "https://evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert posted(url, **headers).status_code in (401, 403, 421), headers
    secret, _ = KeyStore(store).make("phone", ["write"], user_id="ana")
    known = {"Authorization": f"Bearer {secret}"}
    assert posted(url, **known, Host="evil.example").status_code == 421
    assert posted(url, **known, Origin="https://evil.example").status_code == 403
    assert posted(url, **known, Origin="null").status_code == 403
    for headers in (
        {"Host": "memory.example"},
        {"Host": "memory.example:443", "Origin": "https://memory.example"},
        {"Origin": f"http://127.0.0.1:{port}"},
    ):
        assert posted(url, **known, **headers).status_code == 200, headers


def test_requests_of_many_callers_stay_apart(url: str, store: ProfileStore) -> None:
    keys = KeyStore(store)
    secrets = {user: keys.make(user, ["write"], user_id=user)[0] for user in ("ana", "ben")}

    async def use() -> list[tuple[str, Any]]:
        async with httpx.AsyncClient() as http:

            async def one(user: str) -> tuple[str, Any]:
                headers = {
                    "Accept": "application/json, text/event-stream",
                    "Authorization": f"Bearer {secrets[user]}",
                    "MCP-Protocol-Version": "2025-06-18",
                }
                return user, (await http.post(url, json=LISTING, headers=headers)).json()

            return await asyncio.gather(*(one(user) for user in ("ana", "ben") * 20))

    for user, reply in asyncio.run(use()):
        content = reply["result"]["structuredContent"]["results"]
        assert [each["user_id"] for each in content] == [user]
        assert ("ochre" in json.dumps(content)) == (user == "ana")


def test_beyond_this_machine_keys_are_needed(store: ProfileStore) -> None:
    keys = KeyStore(store)
    with pytest.raises(InvalidOptionError, match="without API keys"), listening("0.0.0.0", 0, keys):
        pass
    keys.make("phone", ["write"])
    with listening("0.0.0.0", 0, keys) as (_, url):
        assert url.startswith("http://0.0.0.0:")
