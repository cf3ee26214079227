"""Likelihoods of choices from a server that gives the log-probabilities of a prompt's tokens, as vLLM does."""

from __future__ import annotations

from typing import Any

import pytest

from persona.errors import EndpointError, GenerationError, InvalidOptionError, PersonaWarning
from persona.llm.answers.modes import answer_mode, answers
from persona.llm.load import load_llm
from persona.protocols import Answer, Choices, GenerationOptions, Request
from tests.llm.endpoint.server import Reply, refusal, serving, turn

STARS = Choices(("1", "22", "333"))
OPTIONS = GenerationOptions(max_new_tokens=4, answers="likelihood")
END, OPEN = 2, 1


def ids(text: str) -> list[int]:
    return [100 + ord(letter) for letter in text]


def logprob(prompt: list[int], at: int) -> float:
    """That of a token after those before it: any numbers, but another one for every place."""
    return -((sum(prompt[: at + 1]) * 7919) % 1000) / 1000 - 0.001


def vllm(path: str, body: dict[str, Any]) -> Reply:
    """A vLLM server with a model of byte tokens, and a template that opens a turn."""
    if "messages" in body:
        prompt = [OPEN, *ids(body["messages"][-1]["content"]), OPEN]
        held = body.get("structured_outputs", {}).get("choice", ["?"])[0]
        status, content, headers = turn(held)
        content["choices"][0]["token_ids"] = [*ids(held), END]
        return status, {**content, "prompt_token_ids": prompt if body.get("return_token_ids") else None}, headers
    choices = []
    for index, prompt in enumerate(body["prompt"]):
        known = ids(prompt) if isinstance(prompt, str) else prompt
        choice: dict[str, Any] = {"index": index, "text": "x", "finish_reason": "length"}
        if body.get("return_token_ids"):
            assert body["add_special_tokens"] is False
            choice["prompt_token_ids"] = known
        if "prompt_logprobs" in body:
            rows = [{str(token): {"logprob": logprob(known, at)}} for at, token in enumerate(known)]
            choice["prompt_logprobs"] = [None, *rows[1:]]
        choices.append(choice)
    # In any order: they say themselves which prompt is theirs.
    return 200, {"id": "1", "object": "x", "created": 0, "model": "m", "choices": choices[::-1]}, {}


def expected(prompt: str, choice: str) -> float:
    tokens = [OPEN, *ids(prompt), OPEN, *ids(choice), END]
    begin = len(tokens) - len(choice) - 1
    return sum(logprob(tokens, at) for at in range(begin, len(tokens)))


def test_scores_are_sums_over_the_choice_and_its_end() -> None:
    requests = [Request(prompt, choices=STARS) for prompt in ("A", "B", "A")]
    with serving(vllm) as server:
        llm: Any = load_llm(f"vllm:m@{server.url}", retries=0)
        scores = llm.choice_scores(requests)
        asked = len(server.received)
        found = dict(answers(llm, requests, OPTIONS))
    for request, some in zip(requests, scores, strict=True):
        assert some == pytest.approx([expected(request.prompt, choice) for choice in STARS.texts])
    assert scores[0] == scores[2]
    assert scores[0] != scores[1]
    assert asked == 2 + 2 * 2  # ids of choices, the end, and two for each different question
    assert len(server.received) == asked + 2 * 2
    best = [STARS.texts[some.index(max(some))] for some in scores]
    assert found == {index: Answer(text, mode="likelihood") for index, text in enumerate(best)}
    with pytest.raises(InvalidOptionError, match="request 0 has none"):
        llm.choice_scores([Request("A")])


def without_ids(path: str, body: dict[str, Any]) -> Reply:
    """A gateway before a vLLM server, which lets fields of the protocol through alone."""
    return vllm(path, {name: body[name] for name in ("messages", "prompt", "structured_outputs") if name in body})


def refusing(path: str, body: dict[str, Any]) -> Reply:
    """A server without log-probabilities of prompts."""
    return refusal(400, "prompt_logprobs are not supported") if "prompt_logprobs" in body else vllm(path, body)


@pytest.mark.parametrize("server", [without_ids, refusing])
def test_a_server_that_gives_none_is_held_to_the_choices(server: Any) -> None:
    requests = [Request(prompt, choices=STARS) for prompt in "AB"]
    with serving(server) as running:
        llm: Any = load_llm(f"vllm:m@{running.url}", retries=0)
        assert answer_mode(llm, OPTIONS) == "likelihood"
        with pytest.warns(PersonaWarning, match="gives no likelihoods of choices, so its answers are held") as warned:
            found = dict(answers(llm, requests, OPTIONS))
        assert found == {index: Answer("1", mode="constrained") for index in range(2)}
        asked = len(running.received)
        dict(answers(llm, requests, OPTIONS))
        assert len(running.received) == asked + 2
        assert all(isinstance(each, GenerationError) for each in llm.choice_scores(requests))
    assert len(warned) == 1


def test_a_prompt_that_is_too_long_fails_for_itself() -> None:
    def server(path: str, body: dict[str, Any]) -> Reply:
        long = "messages" in body and body["messages"][-1]["content"] == "long"
        return refusal(400, "This model's maximum context length is 8 tokens") if long else vllm(path, body)

    with serving(server) as running:
        llm = load_llm(f"vllm:m@{running.url}", retries=0)
        found = dict(answers(llm, [Request("long", choices=STARS), Request("B", choices=STARS)], OPTIONS))
    assert isinstance(found[0], EndpointError)
    assert isinstance(found[1], Answer)
    assert found[1].mode == "likelihood"


def test_other_endpoints_give_none() -> None:
    llm = load_llm("openai:m@http://127.0.0.1:9/v1", api_key="k")
    assert answer_mode(llm, OPTIONS) == "constrained"
