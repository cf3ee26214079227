"""Requests are repeated where that may help, at the pace that was asked for, and what ends them is one line."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from persona.errors import EndpointError, InvalidOptionError
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions, Request
from tests.llm.endpoint.server import AT_ONCE, Reply, refusal, serving, turn

OPTIONS = GenerationOptions(max_new_tokens=4)
BROKEN: dict[str, Reply] = {
    "too many": refusal(429, "slow down", **AT_ONCE),
    "down": refusal(503, "overloaded", **AT_ONCE),
    "no connection": (0, None, {}),
    "cut": (200, b'{"choices": [{"mess', {}),
    "another form": (200, {"error": {"message": "upstream"}}, {}),
}


def ask(url: str, prompts: list[str], **options: Any) -> list[str]:
    llm = load_llm(f"openai:m@{url}", api_key="k", **options)
    return llm.generate([Request(prompt) for prompt in prompts], OPTIONS)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_failure_that_may_pass_is_asked_again_so_often(fault: str) -> None:
    with serving(lambda path, body: BROKEN[fault] if len(server.received) < 3 else turn("yes")) as server:
        assert ask(server.url, ["A"], retries=2) == ["yes"]
        assert len(server.received) == 3
    with serving(lambda path, body: BROKEN[fault]) as server, pytest.raises(EndpointError) as caught:
        ask(server.url, ["A"], retries=1)
    assert len(server.received) == 2
    assert "\n" not in str(caught.value)


def test_the_server_says_when_to_come_back() -> None:
    def answer(path: str, body: dict[str, Any]) -> Reply:
        return turn("yes") if len(server.received) > 1 else refusal(429, "slow down", **{"Retry-After": "1"})

    with serving(answer) as server:
        begun = time.perf_counter()
        assert ask(server.url, ["A"]) == ["yes"]
    assert time.perf_counter() - begun >= 1


def test_requests_are_spaced_repeated_ones_too() -> None:
    def answer(path: str, body: dict[str, Any]) -> Reply:
        return BROKEN["down"] if len(server.received) == 2 else turn("yes")

    with serving(answer) as server:
        begun = time.perf_counter()
        ask(server.url, ["A", "B", "C"], requests_per_minute=300)
        assert len(server.received) == 4
    # Four requests have three gaps of a fifth of a second.
    assert time.perf_counter() - begun >= 0.6


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(401, "Incorrect API key"), r"refused the key \(401\): set OPENAI_API_KEY.*: Incorrect API key"),
        (refusal(402, "no credit"), r"wants to be paid first \(402\): no credit"),
        (refusal(404, "no such model"), r"knows no such model or address \(404\): no such model"),
        (refusal(413, "too\nlarge"), r"refused the request \(413\): too large"),
        (refusal(429, "slow", **AT_ONCE), r"allows no more requests for now \(429\): set `requests_per_minute`: slow"),
        (refusal(500, "oops", **AT_ONCE), r"failed \(500\): oops"),
        ((200, b"<html>log in</html>", {"Content-Type": "text/html"}), "sent a page in place of an answer"),
    ],
)
def test_what_it_says_is_one_line(reply: Reply, said: str) -> None:
    with serving(lambda path, body: reply) as server, pytest.raises(EndpointError, match=said) as caught:
        ask(server.url, ["A"], retries=0)
    assert "\n" not in str(caught.value)
    assert "did not answer" not in str(caught.value)


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    def answer(path: str, body: dict[str, Any]) -> Reply:
        time.sleep(0.5)
        return turn("late")

    with (
        serving(answer) as server,
        pytest.raises(EndpointError, match=r"did not answer within 0\.1 s: raise `timeout`, or lower"),
    ):
        ask(server.url, ["A"], retries=0, timeout=0.1)


def test_a_used_up_quota_ends_the_whole() -> None:
    status, content, headers = refusal(429, "You exceeded your current quota", **AT_ONCE)
    content["error"]["code"] = "insufficient_quota"
    with serving(lambda path, body: (status, content, headers)) as server:
        llm: Any = load_llm(f"openai:m@{server.url}", api_key="k", retries=0, max_concurrency=1)
        with pytest.raises(EndpointError, match="has no quota left for this key"):
            list(llm.generate_each([Request(prompt) for prompt in "ABC"], OPTIONS))
    assert len(server.received) == 1


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_a_client_of_ones_own_keeps_its_retries(kind: Any) -> None:
    with serving(lambda path, body: BROKEN["down"]) as server:
        client = kind(base_url=server.url, api_key="k", max_retries=1, default_headers={"X-Mine": "1"})
        llm: Any = load_llm(client, model="m")
        with pytest.raises(EndpointError):
            llm.generate([Request("A")], OPTIONS)
        assert len(server.received) == 2
        with pytest.raises(EndpointError):
            load_llm(client, model="m", retries=0).generate([Request("A")], OPTIONS)
        assert len(server.received) == 3
        if kind is openai.OpenAI:
            client.close()
        else:  # where its connections are
            llm._live.connection.loop.submit(client.close()).result()


@pytest.mark.parametrize(
    "options", [{"retries": -1}, {"timeout": 0}, {"requests_per_minute": 0}, {"timeout": float("nan")}]
)
def test_options_out_of_their_range(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidOptionError, match=f"`{name}` must be"):
        load_llm("openai:m@http://127.0.0.1:9/v1", api_key="k", **options)
