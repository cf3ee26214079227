"""The OpenAI protocol, spoken by the real client to a real server on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import openai
import pytest
import torch

from persona.errors import (
    FingerprintMismatchError,
    GenerationError,
    InvalidOptionError,
    MissingDependencyError,
    ModelLoadError,
    UnsupportedChannelError,
)
from persona.llm.endpoint.model import OpenAILM
from persona.llm.inputs import TokenSet, message_parts, wire_format
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions, Message, Request
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.embedder import UserEmbedder

if TYPE_CHECKING:
    from tests.conftest import ChatServer

OPTIONS = GenerationOptions(max_new_tokens=9)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ADMIN_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "path", "sent"),
    [
        (
            {},
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "seed": 0, "max_tokens": 9},
        ),
        (
            {"fields": {"temperature": None, "max_tokens": None, "seed": 7}},
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "seed": 7},
        ),
        (
            {"endpoint": "completions", "seed": None, "fields": {"stop": ["\n"]}},
            "/v1/completions",
            {"prompt": "Hi", "temperature": 0, "max_tokens": 9, "stop": ["\n"]},
        ),
        (
            {"endpoint": "completions", "system": "Be kind.", "seed": 3},
            "/v1/completions",
            {"prompt": "Be kind.\n\nHi", "temperature": 0, "max_tokens": 9, "seed": 3},
        ),
    ],
)
def test_a_request_on_the_wire(
    chat_server: ChatServer, options: dict[str, Any], path: str, sent: dict[str, object]
) -> None:
    llm = load_llm(f"vllm:org/model:v1@{chat_server.url}", **options)
    prompt = str(sent.get("prompt", "Hi"))
    assert llm.generate([Request("Hi")], OPTIONS) == [f"{len(prompt)} {prompt}"]
    assert chat_server.received == [(path, {"model": "org/model:v1", **sent})]
    assert llm.fingerprint == f"openai:org/model:v1@{chat_server.url}"


def test_a_conversation_on_the_wire(chat_server: ChatServer) -> None:
    turns = (Message("system", "Known: tea."), Message("user", "Hi."), Message("assistant", "Hello!"))
    options = {"system": "Be kind.", "chat_template_kwargs": {"enable_thinking": False}}
    llm = load_llm(f"vllm:m@{chat_server.url}", fields={"extra_body": {"top_k": 1}}, **options)
    assert llm.generate([Request("Tea?", turns=turns)], GenerationOptions(9, stop=("ea",))) == ["4 T"]
    (_, sent) = chat_server.received.pop()
    assert [each["content"] for each in sent["messages"]] == ["Be kind.\n\nKnown: tea.", "Hi.", "Hello!", "Tea?"]
    assert [each["role"] for each in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["stop"], sent["top_k"]) == (["ea"], 1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    base = load_llm(f"vllm:m@{chat_server.url}", endpoint="completions")
    base.generate([Request("Tea?", turns=turns[1:]), Request("Tea?")], OPTIONS)
    prompts = {sent["prompt"] for _, sent in chat_server.received}
    assert prompts == {"Tea?", "User: Hi.\n\nAssistant: Hello!\n\nUser: Tea?\n\nAssistant:"}
    with pytest.raises(InvalidOptionError, match="`chat_template_kwargs` are for the chat endpoint"):
        load_llm(f"vllm:m@{chat_server.url}", endpoint="completions", chat_template_kwargs={"a": 1})


def test_an_answer_comes_without_its_thinking(chat_server: ChatServer) -> None:
    llm = load_llm(f"vllm:m@{chat_server.url}", endpoint="completions")
    prompt = "<think>2?\n</think>\n\n**4**"
    assert llm.generate([Request(prompt)], OPTIONS) == ["4"]
    assert llm.generate([Request(prompt)], GenerationOptions(9, raw=True)) == [f"{len(prompt)} {prompt}"]


def test_openai_itself_gets_the_new_name_of_the_limit(chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona.llm.endpoint.wire.OPENAI_HOST", "127.0.0.1")
    load_llm(f"openai:m@{chat_server.url}", api_key="k").generate([Request("Hi")], OPTIONS)
    ((_, body),) = chat_server.received
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


def test_a_client_of_ones_own(chat_server: ChatServer) -> None:
    client = openai.OpenAI(base_url=chat_server.url, api_key="k")
    assert load_llm(client, model="m").generate([Request("A"), Request("B")], OPTIONS) == ["1 A", "1 B"]
    with pytest.raises(InvalidOptionError, match="needs a model"):
        load_llm(client)
    with pytest.raises(InvalidOptionError, match="not both"):
        load_llm(client, model="m", base_url="http://127.0.0.1:1/v1")
    client.close()


def test_equal_prompts_are_asked_once_and_answers_keep_their_order(chat_server: ChatServer) -> None:
    prompts = [str(number % 7) * (number % 5 + 1) for number in range(40)]
    llm = load_llm(f"vllm:m@{chat_server.url}", max_concurrency=3)
    answers = llm.generate([Request(prompt) for prompt in prompts], OPTIONS)
    assert answers == [f"{len(prompt)} {prompt}" for prompt in prompts]
    assert len(chat_server.received) == len(set(prompts))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("refuses", r"refused the request \(400\): the prompt is too long"),
        ("silent", "answered without text"),
        ("empty", "sent no answer in OpenAI's form"),
        ("html", "sent a page in place of an answer: addresses usually end in /v1"),
        ("cut", "sent no answer in OpenAI's form: JSONDecodeError: Unterminated string"),
        ("latin-1", "sent no answer in OpenAI's form: UnicodeDecodeError: 'utf-8' codec can't decode"),
        ("surrogate", r"must answer with UTF-8 text, and its answer holds '\\ud83d' at character 2"),
    ],
)
def test_broken_answers_are_one_line(chat_server: ChatServer, model: str, said: str) -> None:
    llm = load_llm(f"vllm:{model}@{chat_server.url}", retries=0)
    with pytest.raises(GenerationError, match=said) as caught:
        llm.generate([Request("A"), Request("B")], OPTIONS)
    assert "\n" not in str(caught.value)
    assert model in str(caught.value)


def test_an_endpoint_that_cannot_be_reached_or_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=0) as client:
        llm = OpenAILM("m", client=client)
        with pytest.raises(GenerationError, match=r"m@http://127\.0\.0\.1:9/v1 cannot be reached: ConnectError"):
            llm.generate([Request("A")], OPTIONS)
    with pytest.raises(ModelLoadError, match="needs a key: set OPENAI_API_KEY") as caught:
        load_llm("openai:gpt-4o-mini")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'persona-llm\[openai\]'"):
        load_llm("vllm:m")


def test_vllm_needs_no_key_and_has_a_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_llm("vllm:m").fingerprint == "openai:m@http://127.0.0.1:8000/v1"
    cloud: Any = load_llm("openai:@cf/meta/llama", base_url="https://api.example.com/v1", api_key="x")
    assert cloud.fingerprint.startswith("openai:@cf/meta/llama@")
    assert load_llm("vllm:ana@3").fingerprint == "openai:ana@3@http://127.0.0.1:8000/v1"  # as adapters are named
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    llm: Any = load_llm("vllm:m")
    assert llm._live.connection._client.api_key == "secret"
    assert "secret" not in repr(llm)


@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("openai:", {}, "must not be empty: openai:MODEL"),
        ("vllm:@http://127.0.0.1:8000/v1", {}, "must not be empty"),
        ("vllm:m@host:8000", {}, "address must begin with http:// or https://, was: 'host:8000'"),
        ("openai:m@api.host/v1", {}, "address must begin with http:// or https://, was: 'api.host/v1'"),
        ("vllm:m", {"endpoint": "responses"}, "`endpoint` must be one of chat, completions, was: 'responses'"),
        ("vllm:m", {"max_concurrency": 0}, "`max_concurrency` must be at least 1, was: 0"),
    ],
)
def test_options_out_of_range(uri: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        load_llm(uri, **options)


SOFT = torch.arange(12, dtype=torch.float16).view(3, 4)


@pytest.mark.parametrize(("place", "first"), [("before", True), ("after", False)])
def test_a_soft_prompt_is_a_part_of_the_first_turn(chat_server: ChatServer, place: str, first: bool) -> None:
    llm = load_llm(f"vllm:echo@{chat_server.url}", hidden_size=4, system="You are kind.", soft_prompt=place)
    llm.generate([Request("Hello.", SOFT)], OPTIONS)
    ((_, body),) = chat_server.received
    assert body["messages"] == [
        {"role": "system", "content": message_parts(SOFT, "You are kind.", first=first)},
        {"role": "user", "content": "Hello."},
    ]


@pytest.mark.parametrize("place", ["before", "after"])
def test_completions_get_the_whole_prompt_embedded(chat_server: ChatServer, place: str) -> None:
    def embed(text: str) -> torch.Tensor:
        return torch.tensor([[float(ord(letter))] * 4 for letter in text])

    options = {"endpoint": "completions", "hidden_size": 4, "system": "ab", "soft_prompt": place, "embed": embed}
    load_llm(f"vllm:echo@{chat_server.url}", **options).generate([Request("c", SOFT)], OPTIONS)
    ((_, body),) = chat_server.received
    before, after = ("", "ab\n\nc") if place == "before" else ("ab\n\n", "c")
    parts = [*([embed(before)] if before else []), SOFT.float(), embed(after)]
    assert body["prompt_embeds"] == wire_format(torch.cat(parts))
    assert body["prompt"] == ""


def test_soft_prompts_that_do_not_fit_are_refused(chat_server: ChatServer) -> None:
    plain = load_llm(f"vllm:echo@{chat_server.url}")
    with pytest.raises(UnsupportedChannelError, match="by a vLLM server that is given its `hidden_size`"):
        plain.generate([Request("Hello.", torch.zeros(1, 4))], OPTIONS)
    llm = load_llm(f"vllm:echo@{chat_server.url}", hidden_size=4)
    with pytest.raises(InvalidOptionError, match=r"in the shape \(tokens, 4\), was: torch.float32 in \(1, 5\)"):
        llm.generate([Request("Hello.", torch.zeros(1, 5))], OPTIONS)
    with pytest.raises(InvalidOptionError, match="finite numbers only"):
        llm.generate([Request("Hello.", torch.full((1, 4), torch.nan))], OPTIONS)
    with pytest.raises(InvalidOptionError, match="reads soft tokens in order, not as a set"):
        llm.generate([Request("Hello.", TokenSet.of(torch.zeros(1, 4)))], OPTIONS)
    with pytest.raises(InvalidOptionError, match="the completions endpoint need `embed`"):
        load_llm(f"vllm:echo@{chat_server.url}", endpoint="completions", hidden_size=4)
    assert chat_server.received == []


def test_an_endpoint_can_say_whose_weights_it_serves(chat_server: ChatServer) -> None:
    embedder = UserEmbedder(UserEmbedderConfig(4, 4, llm="llama@1"))
    embedder.check_fits("", load_llm(f"vllm:echo@{chat_server.url}", serves="llama@1"))
    with pytest.raises(FingerprintMismatchError, match="'llama@1'; was given 'openai:echo"):
        embedder.check_fits("", load_llm(f"vllm:echo@{chat_server.url}"))
