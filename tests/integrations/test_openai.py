"""OpenAI's own client, wrapped, before a server on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import persona
from persona.errors import InvalidOptionError, InvalidUserIdError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.llm.endpoint.server import Reply, Server, refusal, serving, turn

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def answer(path: str, body: dict[str, Any]) -> Reply:
    if "bad" in json.dumps(body.get("messages")):
        return refusal(400, "content filter")
    if path == "/v1/completions":
        return 200, {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": []}, {}
    if body.get("stream"):
        pieces = [{"delta": {"role": "assistant", "content": text}, "index": 0} for text in ("te", "a")]
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        lines = [f"data: {json.dumps({**chunk, 'choices': [piece]})}\n\n" for piece in pieces]
        return 200, "".join([*lines, "data: [DONE]\n\n"]).encode(), {"Content-Type": "text/event-stream"}
    return turn('{"drink": "tea"}' if "response_format" in body else "tea")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(answer) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        opened.upsert([("ana", Record("I drink tea.")), ("bo", Record("I drink rum."))])
        yield opened


def ask(client: openai.OpenAI, text: Any = "drink?", **arguments: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **arguments)


def test_the_request_knows_the_user_and_the_client_is_left_alone(
    client: openai.OpenAI, store: ProfileStore, server: Server
) -> None:
    wrapped = persona.wrap(client, store)
    messages: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "drink?"}]
    before = deepcopy(messages)
    answered = wrapped.chat.completions.create(model="m", messages=messages, user="ana", temperature=0.5)
    assert answered.choices[0].message.content == "tea"
    assert messages == before
    (_, body) = server.received[-1]
    system, asking = body.pop("messages")
    assert body == {"model": "m", "user": "ana", "temperature": 0.5}
    assert (system["role"], asking) == ("developer", before[1])
    assert system["content"].startswith("Be brief.\n\nEarlier records of this user")
    assert '"I drink tea."' in system["content"]
    client.chat.completions.create(model="m", messages=messages, user="ana")
    assert server.received[-1][1]["messages"] == before


def test_each_way_of_asking_knows_the_user(client: openai.OpenAI, store: ProfileStore, server: Server) -> None:
    class Drink(BaseModel):
        drink: str

    wrapped = persona.wrap(client, store, user_id="ana")
    messages: Any = [{"role": "user", "content": "drink?"}]
    stream = wrapped.chat.completions.create(model="m", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "tea"
    parsed = wrapped.chat.completions.parse(model="m", messages=messages, response_format=Drink).choices[0].message
    assert parsed.parsed == Drink(drink="tea")
    with wrapped.chat.completions.stream(model="m", messages=messages) as events:
        assert events.get_final_completion().choices[0].message.content == "tea"
    raw = wrapped.chat.completions.with_raw_response.create(model="m", messages=messages)
    assert raw.parse().choices[0].message.content == "tea"
    assert wrapped.with_raw_response.chat.completions.create(model="m", messages=messages).http_response.is_success
    with wrapped.chat.completions.with_streaming_response.create(model="m", messages=messages) as response:
        response.read()
    ask(wrapped.with_options(timeout=5))
    with persona.wrap(client.copy(), store, user_id="ana") as copy:
        ask(copy)
    sent = [body["messages"] for _, body in server.received]
    assert len(sent) == 8
    assert all("tea" in each[0]["content"] for each in sent)
    assert "user" not in server.received[-1][1]


def test_everything_else_goes_through_unchanged(client: openai.OpenAI, store: ProfileStore, server: Server) -> None:
    wrapped = persona.wrap(client, store, user_id="ana")
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    answered = openai.types.chat.ChatCompletionMessage(role="assistant", content=None, tool_calls=[call])  # type: ignore[list-item]
    asking = {"role": "user", "content": [IMAGE, {"type": "text", "text": "drink?"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    messages: Any = iter([asking, answered, result])
    wrapped.chat.completions.create(model="m", messages=messages, tools=TOOLS, tool_choice="auto", seed=1)
    body = server.received[-1][1]
    assert (body["tools"], body["tool_choice"], body["seed"]) == (TOOLS, "auto", 1)
    assert body["messages"][1] == asking
    assert body["messages"][2]["tool_calls"] == [call]
    assert body["messages"][3] == result
    wrapped.completions.create(model="m", prompt="drink?")
    assert [body for path, body in server.received if path == "/v1/completions"] == [{"model": "m", "prompt": "drink?"}]
    assert wrapped.base_url == client.base_url


def test_without_a_user_a_request_is_sent_as_it_is(client: openai.OpenAI, store: ProfileStore, server: Server) -> None:
    wrapped = persona.wrap(client, store, remember=True)
    ask(wrapped)
    ask(wrapped, user=openai.omit)
    ask(wrapped, user="nobody", text=[IMAGE])
    assert [len(body["messages"]) for _, body in server.received] == [1, 1, 1]
    assert store.counts().users == 2
    bound = persona.wrap(client, store, user_id="ana")
    with pytest.raises(InvalidUserIdError, match="must name one user, were: 'ana' and 'bo'"):
        ask(bound, user="bo")
    with pytest.raises(InvalidUserIdError):
        ask(wrapped, user="")
    assert len(server.received) == 3
    for other in (object(), bound):
        with pytest.raises(InvalidOptionError, match="a client must be"):
            persona.wrap(other, store)


def test_what_was_said_is_remembered_once_it_was_answered(
    client: openai.OpenAI, store: ProfileStore, server: Server
) -> None:
    wrapped = persona.wrap(client, store, remember=True, placement="prompt")
    with pytest.raises(openai.BadRequestError):
        ask(wrapped, "I have a bad cold.", user="ana")
    ask(wrapped, "I live in Turin.", user="ana")
    ask(wrapped, "I live in Turin.", user="ana")
    assert [record.text for record in store.profile("ana")] == ["I drink tea.", "I live in Turin."]
    assert "Turin" not in server.prompts[-1].replace("I live in Turin.", "", 1)
    ask(wrapped, "Where do I live?", user="ana")
    assert server.prompts[-1].endswith("Where do I live?")
    assert '"I live in Turin."' in server.prompts[-1]


def test_the_client_for_an_event_loop(store: ProfileStore, server: Server) -> None:
    async def use() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
            wrapped = persona.wrap(client, store, remember=True)
            messages: Any = [{"role": "user", "content": "drink?"}]
            first, second = await asyncio.gather(
                *(wrapped.chat.completions.create(model="m", messages=messages, user=user) for user in ("ana", "bo"))
            )
            stream = await wrapped.chat.completions.create(model="m", messages=messages, user="ana", stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            async with wrapped.chat.completions.stream(model="m", messages=messages, user="ana") as events:
                last = (await events.get_final_completion()).choices[0].message.content
            return [str(each.choices[0].message.content) for each in (first, second)] + [text, str(last)]

    assert asyncio.run(use()) == ["tea"] * 4
    known = [("tea" in body["messages"][0]["content"], body["user"]) for _, body in server.received]
    assert sorted(known) == [(False, "bo"), (True, "ana"), (True, "ana"), (True, "ana")]
    assert [record.text for record in store.profile("bo")] == ["I drink rum.", "drink?"]
