"""The memory for agents: the SDK's own client in this process, and over stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver import MCPServer

from persona.errors import StoreError
from persona.integrations.mcp import TOOLS, memory_server
from persona.integrations.personal import Personal
from persona.memory import Memory
from persona.records import Record
from persona.serve.keys import SCOPES, ApiKey
from persona.store.profile_store import ProfileStore

DIALECT = ("upsert", "record", "profile store")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        opened.upsert([("ana", Record("I like tea.", id="a", time="2026"))])
        opened.upsert([("bo", Record("I like rum.", id="b", target="5"))])
        yield opened


def serving(store: ProfileStore, user_id: str | None = "ana", scopes: Any = SCOPES) -> MCPServer[Any]:
    caller = ApiKey("k", "test", tuple(scopes), user_id)
    memory, personal = Memory(store), Personal(store)
    return memory_server(memory, lambda context: caller, personal=personal, names_users=user_id is None)


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool gives; the text of its error if it fails."""
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    if result.is_error:
        assert result.structured_content is None
        assert "\n" not in content.text  # type: ignore[union-attr]
        return content.text  # type: ignore[union-attr]
    assert json.loads(content.text) == result.structured_content  # type: ignore[union-attr]
    return result.structured_content


def call(server: MCPServer[Any], tool: str, **arguments: Any) -> Any:
    async def use() -> Any:
        async with Client(server) as client:
            return await called(client, tool, **arguments)

    return asyncio.run(use())


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_tools_of_the_field_keep_a_memory(store: ProfileStore, mode: str) -> None:
    async def use() -> None:
        async with Client(serving(store), mode=mode) as client:
            (added,) = (await called(client, "add_memory", text="I live in Turin.", metadata={"n": 1}))["results"]
            assert (added["event"], added["user_id"], added["metadata"]) == ("ADD", "ana", {"n": "1"})
            found = await called(client, "search_memories", query="Where in Turin?", limit=1, where="n=1")
            assert [each["memory"] for each in found["results"]] == ["I live in Turin."]
            changed = await called(client, "update_memory", memory_id=added["id"], text="I live in Rome.")
            assert changed == await called(client, "get_memory", memory_id=added["id"])
            listed = await called(client, "get_memories")
            assert [each["memory"] for each in listed["results"]] == ["I live in Rome.", "I like tea."]
            assert await called(client, "delete_memory", memory_id="a") == {"deleted": "a"}
            erased = await called(client, "delete_all_memories")
            assert erased["complete"]
            assert erased["erased"][0] == {"what": "records", "removed": 1, "left": 0}

    asyncio.run(use())
    assert [list(store.profile(user_id)) for user_id in ("ana", "bo")] == [[], [store.profile("bo")[0]]]


def test_a_profile_in_short_and_why_an_answer_knows(store: ProfileStore) -> None:
    server = serving(store)
    profile = call(server, "get_profile")
    assert (profile["memories"], profile["first"], profile["last"]) == (1, "2026", "2026")
    assert profile["summary"][0].startswith("This user wrote 1 text")
    why = call(server, "why", query="Shall I have tea?")
    assert [(each["id"], each["score"] > 0) for each in why["memories"]] == [("a", True)]
    assert '"I like tea."' in why["text"]
    assert why["tokens_added"] > 3
    assert call(serving(store, "nobody"), "why", query="Tea?")["memories"] == []
    assert call(serving(store, "nobody"), "get_profile") == {"memories": 0, "first": None, "last": None, "summary": []}


def test_agents_are_told_what_the_tools_do(store: ProfileStore) -> None:
    async def tools(server: MCPServer[Any]) -> list[Any]:
        async with Client(server) as client:
            return (await client.list_tools()).tools

    bound, many = asyncio.run(tools(serving(store))), asyncio.run(tools(serving(store, None)))
    assert [tool.name for tool in bound] == [tool.name for tool in many] == list(TOOLS)
    for tool in bound:
        assert tool.description.endswith(".")
        assert not any(word in tool.description.lower() for word in DIALECT)
        assert "user_id" not in tool.input_schema["properties"]
        assert all("description" in each for each in tool.input_schema["properties"].values())
        assert tool.annotations.read_only_hint == (tool.name.split("_")[0] in ("get", "search", "why"))
    assert all("user_id" in tool.input_schema["properties"] for tool in many)
    assert not any("user_id" in tool.input_schema.get("required", []) for tool in many)


def test_a_call_reaches_its_own_user_alone(store: ProfileStore) -> None:
    bound, many = serving(store), serving(store, None)
    for tool, given in (("get_memory", {}), ("update_memory", {"text": "mine"}), ("delete_memory", {})):
        said = call(bound, tool, memory_id="b", **given)
        assert "no memory 'b'" in said
        assert "bo" not in said
        assert "name one" in call(many, tool, memory_id="b", **given)
    # An argument that the bound server does not have changes nothing.
    assert "rum" not in json.dumps(call(bound, "get_memories", user_id="bo"))
    assert call(many, "get_memory", memory_id="b", user_id="bo")["target"] == "5"
    assert "a user id must not be empty" in call(many, "get_memories", user_id="")
    assert [record.text for record in store.profile("bo")] == ["I like rum."]


def test_what_a_caller_may_not_do_is_refused(store: ProfileStore) -> None:
    for scopes, refused in ((("ask",), list(TOOLS)), (("write",), ["delete_memory", "delete_all_memories"])):
        server = serving(store, scopes=scopes)
        for tool in refused:
            given = {"text": "x", "query": "x", "memory_id": "a"}
            names = call_names(tool)
            assert "needs an API key with the scope" in call(server, tool, **{name: given[name] for name in names})
    assert len(store.profile("ana")) == 1
    assert "event" in call(serving(store, scopes=("write",)), "add_memory", text="x")["results"][0]


def call_names(tool: str) -> list[str]:
    """The arguments that a tool must be given."""
    needed = {"add_memory": ["text"], "search_memories": ["query"], "why": ["query"]}
    return needed.get(tool, ["memory_id"] if tool.endswith("_memory") else [])


def test_errors_are_one_line_and_name_no_value(store: ProfileStore, caplog: pytest.LogCaptureFixture) -> None:
    server = serving(store)
    said = call(server, "search_memories", query={"secret": "word"}, limit=0)
    assert said == (
        "search_memories was called with other arguments than it takes: `query`: Input should be a valid string; "
        "`limit`: Input should be greater than or equal to 1"
    )
    assert call(server, "nothing") == "Unknown tool: nothing"
    assert "a filter is FIELD OP VALUE" in call(server, "search_memories", query="x", where="?")
    assert "must expire in the future" in call(server, "add_memory", text="x", expires="2020")
    assert call(server, "add_memory", text="  ") == {"results": []}

    def fails(*args: Any, **options: Any) -> Any:
        raise KeyError("secret word")

    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.INFO):
        patched.setattr(store, "profile", fails)
        assert call(server, "get_memories") == "the tool failed; the server's log says where"
        assert "KeyError" in caplog.text
        patched.setattr(store, "profile", lambda user_id: (_ for _ in ()).throw(StoreError("the database is locked")))
        assert call(server, "get_memories") == "the database is locked"
    assert "secret" not in caplog.text


def stdio(store_url: str, *options: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "persona", "mcp", "--store", store_url, *options],
        env={"PYTHONPATH": os.environ["PYTHONPATH"]},
    )


def test_over_stdin_and_stdout(store: ProfileStore, tmp_path: Path) -> None:
    async def use() -> None:
        url = f"sqlite:///{tmp_path / 'persona.db'}"
        async with Client(stdio(url, "--user", "ana")) as client:
            added = await called(client, "add_memory", text="I live in Turin.")
            assert added["results"][0]["user_id"] == "ana"
            assert len((await called(client, "get_memories"))["results"]) == 2

    asyncio.run(use())
    assert len(store.profile("ana")) == 2


def test_stdout_carries_the_protocol_only(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "persona", "mcp", "--store", f"sqlite:///{tmp_path / 'new.db'}", "--any-user"]
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    listing = {"name": "get_memories", "arguments": {"user_id": "ana", "limit": "many"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": listing},
    ]
    given = "".join(json.dumps(line) + "\n" for line in lines)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as done:
        assert done.stdin is not None
        assert done.stdout is not None
        print(given, end="", file=done.stdin, flush=True)
        said = [json.loads(done.stdout.readline()) for _ in range(2)]  # what is still being answered at the end is not
        rest, _ = done.communicate("no json\n", timeout=60)
    said += [json.loads(line) for line in rest.splitlines()]
    assert {line["jsonrpc"] for line in said} == {"2.0"}
    assert {line.get("id") for line in said} >= {1, 2}
    assert done.returncode == 0
