"""The engine in the process, as the `openai` client asks it: the answers of `Personalizer`, and refusals by name."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from persona.channels import Ask
from persona.errors import GenerationError, InvalidOptionError
from persona.llm.continuous.engine import Engine
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions
from persona.serve.state import ServerOptions
from tests.serve.conftest import ASKED, CANARY, Serve, serving

MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED}]


@pytest.fixture(scope="module")
def llm() -> Any:
    return load_llm("tiny")


@pytest.fixture(scope="module")
def served(llm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with serving(tmp_path_factory.mktemp("engine")) as made:
        made(llm, ServerOptions(answer_tokens=64))
        yield made


@pytest.fixture(scope="module")
def url(served: Serve) -> str:
    return served.url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def used(answer: Any) -> dict[str, Any]:
    assert answer.model_extra is not None
    found: dict[str, Any] = answer.model_extra["persona"]
    return found


def test_an_answer_is_the_personalizers(served: Serve, client: OpenAI) -> None:
    personalizer = served.state.personalizer.changed(options=GenerationOptions(24))
    for user in (*CANARY, "nobody"):
        expected = personalizer.generate(user, MESSAGES)
        got = client.chat.completions.create(model="tiny", messages=MESSAGES, user=user, max_completion_tokens=24)
        (choice,) = got.choices
        assert choice.message.content == expected.text
        assert choice.message.role == "assistant"
        assert choice.finish_reason == expected.finish
        assert used(got) == {
            "channels": list(expected.channels),
            "records": [scored.record.id for scored in expected.records],
            "tokens_added": expected.tokens_added,
            "abstained": user == "nobody",
        }
        assert got.usage is not None
        assert 0 < got.usage.completion_tokens <= 24
        assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens


def test_nobody_is_the_default_user(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8)
    off: dict[str, Any] = {"persona": {"enabled": False}}
    switched_off = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, user="ana", extra_body=off
    )
    personal = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, user="ana")
    assert used(plain) == used(switched_off) == {"channels": [], "records": [], "tokens_added": 0, "abstained": True}
    assert plain.choices == switched_off.choices
    assert plain.usage is not None
    assert personal.usage is not None
    assert personal.usage.prompt_tokens > plain.usage.prompt_tokens


@pytest.mark.parametrize(
    ("choice", "records"), [({"channels": ["records"]}, 1), ({"channels": []}, 0), ({"k": 0}, 0), ({"k": 3}, 1)]
)
def test_a_request_chooses_among_the_servers_channels(client: OpenAI, choice: dict[str, Any], records: int) -> None:
    got = client.completions.create(model="tiny", prompt=ASKED, user="ana", extra_body={"persona": choice})
    assert len(used(got)["records"]) == records


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_stream_is_the_whole_answer_in_pieces(client: OpenAI, kind: str) -> None:
    asked: dict[str, Any] = {"model": "tiny", "user": "ana", "max_tokens": 16}
    asked |= {"messages": MESSAGES} if kind == "chat" else {"prompt": ASKED}
    create: Any = client.chat.completions.create if kind == "chat" else client.completions.create
    whole = create(**asked)
    chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
    *_, last, usage = chunks
    choices = [chunk.choices[0] for chunk in chunks[:-1]]
    if kind == "chat":
        assert choices[0].delta.role == "assistant"
        text, expected = "".join(each.delta.content or "" for each in choices), whole.choices[0].message.content
    else:
        text, expected = "".join(each.text for each in choices), whole.choices[0].text
    assert text == expected
    assert [each.finish_reason for each in choices] == [None] * (len(choices) - 1) + [whole.choices[0].finish_reason]
    assert used(last) == used(whole)
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_log_probabilities_are_of_the_answers_tokens(client: OpenAI) -> None:
    got = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, logprobs=True, top_logprobs=3, user="ana"
    )
    (choice,) = got.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert tokens
    assert "".join(token.token for token in tokens).strip() == (choice.message.content or "").lower()
    for token in tokens:
        assert token.bytes == list(token.token.encode())
        assert len(token.top_logprobs) == 3
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)
        assert token.logprob <= 0
    text = client.completions.create(model="tiny", prompt=ASKED, max_tokens=8, logprobs=2)
    scores = text.choices[0].logprobs
    assert scores is not None
    assert scores.text_offset is not None
    assert scores.tokens is not None
    assert scores.text_offset == [len("".join(scores.tokens[:index])) for index in range(len(scores.tokens))]


def test_sampling_repeats_with_its_seed_and_stops_where_it_is_told(client: OpenAI) -> None:
    def text(**more: Any) -> str:
        got = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=24, **more)
        return got.choices[0].message.content or ""

    hot: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95}
    answers = {text(**hot, seed=seed) for seed in (1, 1, -5, 3)}
    assert len(answers) > 1
    assert text(**hot, seed=3) == text(**hot, seed=3)
    greedy = text()
    stop = greedy[len(greedy) // 2 :][:2]
    assert text(stop=[stop]) == greedy.split(stop)[0].rstrip()
    assert text(stop=stop) == text(stop=[stop])


IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, {"type": "text", "text": "What?"}]
TOOL = {"type": "function", "function": {"name": "look_up"}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tools": ({"tools": [TOOL]}, "tools"),
    "tool_choice": ({"tool_choice": "required"}, "tool_choice"),
    "response_format": ({"response_format": {"type": "json_object"}}, "response_format"),
    "n": ({"n": 2}, "n"),
    "penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "logit_bias": ({"logit_bias": {"1": 5}}, "logit_bias"),
    "unknown": ({"top_k": 3}, "top_k"),
    "an adapter": ({"adapter": "ben@1"}, "adapter"),
    "an image": ({"messages": [{"role": "user", "content": IMAGE}]}, "messages.0.content"),
    "a tool's result": ({"messages": [{"role": "tool", "content": "7"}]}, ""),
    "no question": ({"messages": [{"role": "assistant", "content": "7"}]}, ""),
    "max_tokens": ({"max_tokens": 65}, "max_tokens"),
    "no tokens": ({"max_completion_tokens": 0}, "max_completion_tokens"),
    "temperature": ({"temperature": 2.5}, "temperature"),
    "top_p": ({"top_p": 0}, ""),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 21}, ""),
    "logprobs off": ({"top_logprobs": 2}, "top_logprobs"),
    "a type": ({"temperature": "hot"}, "temperature"),
    "messages": ({"messages": []}, "messages"),
    "a long prompt": ({"messages": [{"role": "user", "content": "word " * 5000}]}, ""),
    "a surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, ""),
    "a channel": ({"persona": {"channels": ["adapter"]}}, "persona.channels"),
    "an adapter's name": ({"persona": {"adapter": "ben@1"}}, "persona.adapter"),
    "another's history": ({"persona": {"user": "ben"}}, "persona.user"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_do_is_refused_by_name(url: str, name: str) -> None:
    more, param = REFUSED[name]
    body = json.dumps({"model": "tiny", "messages": MESSAGES, "user": "ana", **more})
    got = httpx.post(f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    error = got.json()["error"]
    assert (got.status_code, error["type"]) == (400, "invalid_request_error")
    assert param in ("", error["param"])
    assert len(error["message"]) > 20


@pytest.mark.parametrize("more", [{"n": 1}, {"tools": []}, {"response_format": {"type": "text"}}, {"logit_bias": None}])
def test_what_asks_for_nothing_special_is_taken(client: OpenAI, more: dict[str, Any]) -> None:
    client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1, extra_body=more)


def test_requests_of_many_users_at_once_get_the_answers_that_they_get_alone(served: Serve, url: str) -> None:
    personalizer = served.state.personalizer.changed(options=GenerationOptions(24))
    users = [*CANARY, "nobody"] * 6
    alone = {user: personalizer.generate(user, MESSAGES) for user in set(users)}

    async def ask() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            create = client.chat.completions.create
            return await asyncio.gather(
                *(create(model="tiny", messages=MESSAGES, user=user, max_tokens=24) for user in users)
            )

    for user, got in zip(users, asyncio.run(ask()), strict=True):
        assert got.choices[0].message.content == alone[user].text
        assert used(got)["records"] == [scored.record.id for scored in alone[user].records]


def test_a_full_queue_is_429_and_a_client_that_goes_away_leaves_it(serve: Serve, llm: Any) -> None:
    url = serve(llm, ServerOptions(rows=1, waiting=1))
    body = {"messages": MESSAGES, "max_tokens": 400, "temperature": 2, "stream": True}
    with httpx.Client() as client:
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as first:
            next(first.iter_bytes())
            statuses = set()
            with client.stream("POST", f"{url}/v1/chat/completions", json=body) as second:
                next(second.iter_bytes())
                refused = client.post(f"{url}/v1/chat/completions", json=body)
                statuses.add(refused.status_code)
        if statuses == {429}:  # else the first answer ended early
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "busy"
        deadline = time.monotonic() + 10
        while "persona_running 0.0" not in (text := client.get(f"{url}/metrics").text):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        assert "persona_waiting 0.0" in text


def test_an_llm_that_the_engine_cannot_run_is_refused_at_the_start(serve: Serve) -> None:
    with pytest.raises(InvalidOptionError, match="a server needs a transformers model"):
        serve(load_llm(lambda prompt: prompt))


def test_errors_are_those_of_openais_client(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="ben@1", messages=MESSAGES)
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as not_served:
        client.responses.create(model="tiny", input="Hello.")
    assert not_served.value.status_code == 501
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, max_tokens=1)
    assert raw.parse().choices
    assert raw.headers["x-request-id"]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_langchains_chat_model_asks_as_it_is(served: Serve, url: str) -> None:
    chat: Any = pytest.importorskip("langchain_openai").ChatOpenAI
    model = chat(base_url=f"{url}/v1", api_key="none", model="tiny", max_tokens=12, model_kwargs={"user": "ana"})
    turns = [("system", "Be brief."), ("human", ASKED)]
    expected = served.state.personalizer.changed(options=GenerationOptions(12)).generate("ana", MESSAGES)
    answer = model.invoke(turns)
    assert answer.content == expected.text
    assert answer.usage_metadata["output_tokens"] <= 12
    assert "".join(piece.content for piece in model.stream(turns)) == expected.text
    assert [each.content for each in model.batch([turns, turns])] == [expected.text] * 2
    with pytest.raises(openai.BadRequestError, match="tools"):
        model.bind_tools([{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke(turns)


def test_what_checks_find_stands_beside_the_answer(serve: Serve, llm: Any) -> None:
    """Row 61: whole and streamed; a check that raises holds the whole answer back."""

    def check(ask: Ask, text: str) -> list[str]:
        if ask.prompt == "hold":
            raise GenerationError("held back")
        return [f"{ask.profile.user_id} got {len(text)} characters"]

    url = serve(llm, ServerOptions(answer_tokens=8), checks=(check,))
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        got = client.chat.completions.create(model="tiny", messages=MESSAGES, user="ana")
        expected = [f"ana got {len(got.choices[0].message.content or '')} characters"]
        assert used(got)["findings"] == expected
        *_, last = client.chat.completions.create(model="tiny", messages=MESSAGES, user="ana", stream=True)
        assert used(last)["findings"] == expected
        with pytest.raises(openai.APIStatusError, match="held back"):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hold"}], user="ana")


def test_who_is_forgotten_before_the_engine_has_the_request_gets_no_answer(
    serve: Serve, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, submit = serve(llm), Engine.submit

    def late(engine: Engine, *arguments: Any, **more: Any) -> Any:
        serve.store.forget("ana")
        return submit(engine, *arguments, **more)

    monkeypatch.setattr(Engine, "submit", late)
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError, match="the request's user was forgotten"):
            client.chat.completions.create(model="tiny", messages=MESSAGES, user="ana", max_tokens=4)
        plain = client.chat.completions.create(model="tiny", messages=MESSAGES, user="ana", max_tokens=4)
    assert used(plain)["abstained"]
