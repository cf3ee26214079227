"""An upstream gets the request as it came, with what is personal in it; its answers and failures come back."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import AsyncOpenAI, OpenAI

from persona.adapters.bank import AdapterBank
from persona.adapters.serving.vllm import ServedAdapters
from persona.channels import Ask
from persona.encoders.load import load_encoder
from persona.errors import GenerationError
from persona.llm.load import load_llm
from persona.serve.state import ServerOptions
from persona.soft_prompts.embedder import UserEmbedder
from tests.adapters.serving.test_vllm import publish
from tests.serve.conftest import (
    ASKED,
    CANARY,
    Behaviour,
    Serve,
    Upstream,
    answer,
    chunks,
    drops,
    replies,
    serving,
    streams,
)


@pytest.fixture(scope="module")
def url(_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("upstream")) as serve:
        endpoint = {"api_key": "sk-operator", "timeout": 2}
        yield serve(f"openai:gpt@{_upstream.url}", ServerOptions(models=("gpt-mini",)), endpoint=endpoint)


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def test_a_request_goes_on_as_it_came_with_the_users_records_in_its_last_turn(url: str, upstream: Upstream) -> None:
    body: dict[str, Any] = {
        "model": "gpt-mini",
        "user": "ana",
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": "rules"},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
            {"role": "tool", "tool_call_id": "1", "content": "7"},
            {"role": "user", "content": [IMAGE, {"type": "text", "text": ASKED}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "2", "type": "function", "function": {}}]},
            {"role": "tool", "tool_call_id": "2", "content": "8"},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "n": 3,
        "top_k": 4,
        "temperature": 1.5,
    }
    got = httpx.post(f"{url}/v1/chat/completions", json={**body, "persona": {"k": 2}}).json()
    (sent,) = upstream.asked
    (path, headers) = upstream.heads[0]
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer sk-operator")
    changed = sent["messages"][4]["content"]
    assert changed[0] == IMAGE
    assert CANARY["ana"] in changed[1]["text"]
    assert changed[1]["text"].endswith(ASKED)
    changed[1]["text"] = ASKED
    del body["user"]
    assert sent == body
    used = got.pop("persona")
    assert got == answer("hello")
    assert used == {
        "channels": ["records"],
        "records": ["ana-1"],
        "tokens_added": used["tokens_added"],
        "abstained": False,
    }
    assert used["tokens_added"] > 5


@pytest.mark.parametrize("messages", [[{"role": "user", "content": ASKED}], [{"role": "user", "content": [IMAGE]}]])
@pytest.mark.parametrize("more", [{}, {"user": "nobody"}, {"user": "ana", "persona": {"enabled": False}}])
def test_without_anything_personal_the_upstream_gets_what_was_sent(
    url: str, upstream: Upstream, messages: list[Any], more: dict[str, Any]
) -> None:
    got = httpx.post(f"{url}/v1/chat/completions", json={"messages": messages, **more})
    assert upstream.asked == [{"messages": messages, "model": "gpt"}]
    assert got.json()["persona"] == {"channels": [], "records": [], "tokens_added": 0, "abstained": True}


def test_a_users_turns_and_system_text_stand_where_the_placement_says(serve: Serve, upstream: Upstream) -> None:
    url = serve(f"openai:gpt@{upstream.url}", endpoint={"api_key": "sk"}, placement="turns", summary="stats")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED}]
    httpx.post(f"{url}/v1/chat/completions", json={"messages": messages, "user": "ana"})
    system, *turns = upstream.asked[0]["messages"]
    assert system["content"].startswith("Be brief.")
    assert "About this user" in system["content"]
    assert turns == [
        {"role": "user", "content": CANARY["ana"]},
        {"role": "assistant", "content": "ana's headline"},
        {"role": "user", "content": ASKED},
    ]


def test_what_checks_find_stands_beside_an_upstreams_answer(serve: Serve, upstream: Upstream) -> None:
    """Whole and streamed, of every choice; what a check holds back is not given out."""

    def check(ask: Ask, text: str) -> list[str]:
        if "secret" in text:
            raise GenerationError("held back")
        return [f"{ask.profile.user_id} got {text}"]

    url = serve(f"openai:gpt@{upstream.url}", endpoint={"api_key": "sk"}, checks=(check,))
    asked = {"messages": [{"role": "user", "content": ASKED}], "user": "ana"}
    two = [{"index": n, "message": {"content": text}, "finish_reason": "stop"} for n, text in enumerate(("a", "b"))]
    with httpx.Client(base_url=f"{url}/v1") as http:
        upstream.behaviour = replies({**answer(""), "choices": two})
        assert http.post("/chat/completions", json=asked).json()["persona"]["findings"] == ["ana got a", "ana got b"]
        plain = http.post("/chat/completions", json={**asked, "user": None}).json()["persona"]
        assert "findings" not in plain
        upstream.behaviour = streams(*chunks("hel", "lo"))
        *_, last, _ = http.post("/chat/completions", json={**asked, "stream": True}).text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data:"))["persona"]["findings"] == ["ana got hello"]
        upstream.behaviour = streams(*chunks("hel", "lo")[:-1])  # no chunk ends it
        *_, last, _ = http.post("/chat/completions", json={**asked, "stream": True}).text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data:"))["persona"]["findings"] == ["ana got hello"]
        open_, ended = chunks("hi")
        other = open_.replace(b'"index" : 0', b'"index" : 1').replace(b"}]", b'}],"error" : null')
        upstream.behaviour = streams(b": alive\nevent: message\n" + open_, other, ended)  # the other choice never ends
        *_, last, _ = http.post("/chat/completions", json={**asked, "stream": True}).text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data:"))["persona"]["findings"] == ["ana got hi"]
        upstream.behaviour = streams(*chunks("se", "cret"))
        *_, last = http.post("/chat/completions", json={**asked, "stream": True}).text.strip().split("\n\n")
        assert "held back" in json.loads(last.removeprefix("data:"))["error"]["message"]
        parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "secret"}]
        upstream.behaviour = replies({**answer(""), "choices": [{"index": 0, "message": {"content": parts}}]})
        assert http.post("/chat/completions", json=asked).status_code == 502
        upstream.behaviour = replies({**answer(""), "choices": [{"index": 0, "message": "a secret"}]})
        assert http.post("/chat/completions", json=asked).status_code == 502
        upstream.behaviour = replies(answer("a secret"))
        held = http.post("/chat/completions", json=asked)
        assert "held back" in held.json()["error"]["message"]
        assert (held.status_code, "secret" in held.text) == (502, False)


def test_a_completion_is_personal_too(client: OpenAI, upstream: Upstream) -> None:
    upstream.behaviour = replies({"choices": [{"text": "x", "index": 0, "finish_reason": "stop"}], "usage": None})
    got = client.completions.create(model="gpt", prompt=ASKED, user="ben", suffix="!")
    assert got.model_extra is not None
    assert got.model_extra["persona"]["records"] == ["ben-1"]
    assert upstream.heads[0][0] == "/v1/completions"
    assert upstream.asked[0]["suffix"] == "!"
    assert CANARY["ben"] in upstream.asked[0]["prompt"]


def test_a_stream_arrives_chunk_by_chunk_and_byte_by_byte_but_for_its_end(url: str, upstream: Upstream) -> None:
    events, go_on = chunks("a", "b"), Event()
    upstream.behaviour = streams(events[0], lambda: go_on.wait(20), *events[1:])
    body = {"messages": [{"role": "user", "content": ASKED}], "user": "ana", "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        arriving = reply.iter_bytes()
        first = next(arriving)
        go_on.set()  # the upstream sends no more until the first chunk is here
        rest = first + b"".join(arriving)
    assert first == events[0]
    assert rest.startswith(events[0] + events[1])
    *_, ended, done, _ = rest.split(b"\n\n")
    assert done == b"data: [DONE]"
    chunk = json.loads(ended.removeprefix(b"data: "))
    assert chunk.pop("persona")["records"] == ["ana-1"]
    assert chunk == json.loads(events[-1].removeprefix(b"data:"))


def test_an_answer_may_hold_what_json_can_and_utf_8_cannot(url: str, upstream: Upstream) -> None:
    upstream.behaviour = replies(answer("\ud800", score=float("nan")))
    got = httpx.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": ASKED}]})
    assert (got.status_code, '"\\ud800"' in got.text) == (200, True)


def test_the_openai_client_reads_the_stream(client: OpenAI, upstream: Upstream) -> None:
    upstream.behaviour = streams(*chunks("he", "llo"))
    with client.chat.completions.create(
        model="gpt", messages=[{"role": "user", "content": ASKED}], user="ana", stream=True
    ) as stream:
        received = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received) == "hello"
    assert received[-1].model_extra is not None
    assert received[-1].model_extra["persona"]["channels"] == ["records"]


LONG = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xff garbage\r\n\r\n")


FAILURES: dict[str, tuple[Behaviour, int, str]] = {
    "400": (replies(LONG, 400), 400, "too long"),
    "404 of vLLM": (replies({"object": "error", "message": "no such model"}, 404), 404, "no such model"),
    "429": (replies({"error": {"message": "slow"}}, 429, Retry_After="7"), 429, "slow"),
    "the operator's key": (replies({"error": {"message": "sk-operator is wrong"}}, 401), 502, "server's own key"),
    "500": (replies({"error": {"message": "oops"}}, 500), 502, "failed (500): oops"),
    "503": (replies(b"<html>", 503, Retry_After="7"), 503, "failed (503)"),
    "a page": (replies(b"<html>hello</html>"), 502, "not in OpenAI's form"),
    "no choices": (replies({"choices": None}), 502, "not in OpenAI's form"),
    "a redirection": (replies(b"", 302, Location="http://127.0.0.1:1/"), 502, "sent no answer (302)"),
    "silence": (drops, 502, "broke off"),
    "garbage": (garbage, 502, "broke off"),
    "an answer that is too late": (lambda handler: time.sleep(3), 504, "in time"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_an_error_that_openais_client_understands(
    client: OpenAI, upstream: Upstream, name: str, stream: bool
) -> None:
    upstream.behaviour, status, said = FAILURES[name]
    with pytest.raises(openai.APIError) as raised:
        list(client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": ASKED}], stream=stream))
    error = raised.value
    assert said in str(error)
    assert "sk-operator" not in str(error)
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == status
    assert error.response.headers.get("retry-after") == ("7" if status in (429, 503) else None)
    assert len(upstream.asked) == 1, "what was sent is not sent again"


@pytest.mark.parametrize("events", [[], chunks("a")[:1], [b"data: {broken\n\n"]])
def test_a_stream_that_breaks_off_ends_in_an_error(client: OpenAI, upstream: Upstream, events: list[bytes]) -> None:
    upstream.behaviour = streams(*events, done=False)
    stream = client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": ASKED}], stream=True)
    with pytest.raises((openai.APIError, ValueError)):
        list(stream)


def test_a_client_that_goes_away_ends_the_upstreams_work(url: str, upstream: Upstream) -> None:
    broken = Event()

    def behave(handler: Any) -> None:
        streams(chunks("a")[0], done=False)(handler)
        try:
            while True:
                handler.wfile.write(chunks("b")[0])
                time.sleep(0.02)
        except OSError:
            broken.set()

    upstream.behaviour = behave
    body = {"messages": [{"role": "user", "content": ASKED}], "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        next(reply.iter_bytes())
    assert broken.wait(10)


def test_an_upstream_that_is_not_there_is_502(serve: Serve) -> None:
    url = serve("openai:gpt@http://127.0.0.1:9/v1", endpoint={"api_key": "sk"})
    got = httpx.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": ASKED}]}, timeout=30)
    assert (got.status_code, got.json()["error"]["code"]) == (502, "upstream_failed")


def test_many_users_at_once_never_see_one_another(url: str, upstream: Upstream) -> None:
    def echo(handler: Any) -> None:
        replies(answer(upstream.asked[-1]["messages"][-1]["content"]))(handler)

    upstream.behaviour = echo

    async def ask() -> None:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            users = list(CANARY) * 16
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="gpt", messages=[{"role": "user", "content": f"{user}: {ASKED}"}], user=user
                    )
                    for user in users
                )
            )
        for user, got in zip(users, answers, strict=True):
            assert got.model_extra is not None
            assert got.model_extra["persona"]["records"] == [f"{user}-1"]

    asyncio.run(ask())
    for sent in upstream.asked:
        text = sent["messages"][-1]["content"]
        (user,) = (user for user in CANARY if text.endswith(f"{user}: {ASKED}"))
        assert [name for name, word in CANARY.items() if word in text] == [user]


@pytest.mark.parametrize("model", ["gpt-5", "ben@1-0123456789ab", "@prior-0123456789ab", ""])
def test_a_request_names_no_model_but_the_servers(client: OpenAI, upstream: Upstream, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": ASKED}], user="ana")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert upstream.asked == []


def test_a_vllm_server_gets_the_users_soft_prompt_beside_the_text(serve: Serve, upstream: Upstream) -> None:
    embedder = UserEmbedder.for_llm(load_llm("tiny"), load_encoder("hashing"), n_tokens=4)
    url = serve(f"vllm:m@{upstream.url}", user_embedder=embedder, encoder="hashing", k=0)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED}]
    got = httpx.post(f"{url}/v1/chat/completions", json={"messages": messages, "user": "ana"}).json()["persona"]
    assert (got["channels"], got["tokens_added"]) == (["soft_prompt"], 4)
    system, user = upstream.asked[0]["messages"]
    part, text = system["content"]
    assert text == {"type": "text", "text": "Be brief."}
    assert user == {"role": "user", "content": ASKED}
    assert part["type"] == "prompt_embeds"
    sent = torch.load(io.BytesIO(base64.b64decode(part["data"])), weights_only=True)  # as vLLM reads it
    (prepared,) = serve.state.personalizer.prepared([("ana", ASKED)])
    assert prepared.request.soft_prompt is not None
    assert torch.equal(sent, prepared.request.soft_prompt.float())
    refused = httpx.post(f"{url}/v1/completions", json={"prompt": ASKED, "user": "ana"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "persona.channels")


def test_a_vllm_server_is_asked_for_the_users_adapter_by_a_name_that_nobody_sees(
    serve: Serve, upstream: Upstream
) -> None:
    bank = AdapterBank(serve.store)
    publish(bank, "ana", 0.25)
    url = serve(f"vllm:m@{upstream.url}", adapters=True, k=0)
    name = ServedAdapters(bank, bank.family()).name("ana@1")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": ASKED}]}
    upstream.behaviour = replies(answer("hi", model=name))
    got = httpx.post(f"{url}/v1/chat/completions", json={**body, "user": "ana"})
    assert (got.json()["model"], got.json()["persona"]["channels"]) == ("m", ["adapter"])
    upstream.behaviour = streams(*(chunk.replace(b'"gpt"', json.dumps(name).encode()) for chunk in chunks("hi")))
    streamed = httpx.post(f"{url}/v1/chat/completions", json={**body, "user": "ana", "stream": True}).text
    httpx.post(f"{url}/v1/chat/completions", json=body)
    assert [sent["model"] for sent in upstream.asked] == [name, name, "m"]
    assert name not in got.text + streamed
