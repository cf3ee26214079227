"""Answers are held to choices in the way that a server takes; what it refuses or passes over is remembered."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from persona.errors import EndpointError, PersonaWarning
from persona.llm.answers.modes import answers
from persona.llm.load import load_llm
from persona.protocols import Answer, Choices, GenerationOptions, Request
from tests.llm.endpoint.server import AT_ONCE, Reply, Server, refusal, serving, turn

GENRES = Choices(("comedy", "action", "dark comedy"))
OPTIONS = GenerationOptions(max_new_tokens=4, answers="constrained")


def asked(url: str, prompts: list[str], llm: Any = None, choices: Choices = GENRES) -> list[Any]:
    llm = llm or load_llm(url, api_key="k", retries=0)
    found = dict(answers(llm, [Request(prompt, choices=choices) for prompt in prompts], OPTIONS))
    return [found[index] for index in range(len(prompts))]


def openai_server(body: dict[str, Any]) -> Reply:
    """Takes a JSON schema and refuses fields that it does not know."""
    if unknown := {"structured_outputs", "guided_choice"} & set(body):
        return refusal(400, f"Unrecognized request argument supplied: {unknown.pop()}")
    form = body.get("response_format")
    if form is None:
        return turn("It is a **comedy**, I think.")
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"]
    schema = form["json_schema"]["schema"]
    assert schema["required"] == ["answer"]
    return turn(json.dumps({"answer": schema["properties"]["answer"]["enum"][-1]}))


def vllm_server(body: dict[str, Any]) -> Reply:
    """Takes choices, and passes over fields that it does not know."""
    return turn(body["structured_outputs"]["choice"][-1]) if "structured_outputs" in body else turn("no idea")


@pytest.mark.parametrize(
    ("kind", "server"), [("openai", openai_server), ("vllm", vllm_server), ("vllm", openai_server)]
)
@pytest.mark.filterwarnings("ignore:openai")
def test_an_answer_is_held_to_choices(kind: str, server: Any) -> None:
    with serving(lambda path, body: server(body)) as running:
        found = asked(f"{kind}:m@{running.url}", ["A", "B", "C"])
    assert found == [Answer("dark comedy", mode="constrained")] * 3
    # The first request found out what the server takes; the others came after it.
    assert len(running.received) == (5 if (kind, server) == ("vllm", openai_server) else 3)


def test_the_answer_in_an_object_has_room() -> None:
    long = Choices(("x" * 40, "y"))
    with serving(lambda path, body: openai_server(body)) as running:
        asked(f"openai:m@{running.url}", ["A"], choices=long)
    ((_, body),) = running.received
    assert body["max_tokens"] >= len(json.dumps({"answer": "x" * 40}))


@pytest.mark.parametrize("message", ["response_format is not supported by this model", "Bad request"])
@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_schema_is_asked_plainly_from_then_on(message: str, status: int) -> None:
    def server(path: str, body: dict[str, Any]) -> Reply:
        return refusal(status, message) if "response_format" in body else turn("It is a **Comedy**.")

    with serving(server) as running:
        llm = load_llm(f"openai:m@{running.url}", api_key="k", retries=0)
        with pytest.warns(PersonaWarning, match="refuses the constraint") as warned:
            assert asked("", ["A", "B"], llm) == [Answer("comedy", mode="read")] * 2
        refused = len(running.received) - 2
        assert [body.get("response_format", {}).get("type") for _, body in running.received] == [
            *("json_schema", "json_object")[:refused],
            None,
            None,
        ]
        assert len(warned) == refused == 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            asked("", ["C"], llm)
    assert running.prompts[-1] == "C"
    assert len(running.received) == refused + 3


def test_a_server_that_knows_the_schema_in_its_older_place_only() -> None:
    """As llama-cpp-python does, which calls it a 500."""

    def server(path: str, body: dict[str, Any]) -> Reply:
        form = body["response_format"]
        if form["type"] != "json_object":
            where = "{'type': 'literal_error', 'loc': ('body', 'response_format', 'type')}"
            return refusal(500, f"1 validation error:\n  {where}", **AT_ONCE)
        return turn(json.dumps({"answer": form["schema"]["properties"]["answer"]["enum"][1]}))

    with serving(server) as running, pytest.warns(PersonaWarning, match="it is asked by 'json_object'"):
        assert asked(f"openai:m@{running.url}", ["A", "B"]) == [Answer("action", mode="constrained")] * 2
    assert len(running.received) == 3


def test_a_server_that_passes_the_schema_over_is_asked_once_and_read() -> None:
    with (
        serving(lambda path, body: turn("Comedy.")) as running,
        pytest.warns(PersonaWarning, match="ignores") as warned,
    ):
        assert asked(f"openai:m@{running.url}", list("ABCD")) == [Answer("comedy", mode="read")] * 4
    assert sorted(running.prompts) == list("ABCD")
    assert len(warned) == 1


def test_a_request_that_is_refused_for_itself_says_nothing_of_the_way() -> None:
    def server(path: str, body: dict[str, Any]) -> Reply:
        bad = body["messages"][-1]["content"] == "bad"
        return refusal(400, "content management policy") if bad else openai_server(body)

    with serving(server) as running:
        llm = load_llm(f"openai:m@{running.url}", api_key="k", retries=0)
        first, second = asked("", ["bad", "B"], llm)
        assert isinstance(first, EndpointError)
        assert second == Answer("dark comedy", mode="constrained")
        # Once it is known what the server takes, no refusal is laid on the way.
        (third,) = asked("", ["bad"], llm)
    assert isinstance(third, EndpointError)
    assert running.prompts == ["bad", "B", "bad"]


def test_an_answer_that_is_cut_is_no_choice_and_blames_nobody() -> None:
    def server(path: str, body: dict[str, Any]) -> Reply:
        return turn('{"answer": "dark', "length") if body["messages"][-1]["content"] == "A" else openai_server(body)

    with serving(server) as running:
        cut, whole = asked(f"openai:m@{running.url}", ["A", "B"])
    assert (cut.mode, cut.finish) == ("read", "length")
    assert whole == Answer("dark comedy", mode="constrained")


def test_own_fields_of_a_request_stay(chat_server: Server) -> None:
    llm = load_llm(f"vllm:m@{chat_server.url}", fields={"extra_body": {"top_k": 1}}, retries=0)
    with pytest.warns(PersonaWarning, match="ignores the constraint"):
        asked("", ["comedy"], llm)
    bodies = [body for _, body in chat_server.received]
    assert all(body["top_k"] == 1 for body in bodies)
    assert bodies[0]["structured_outputs"] == {"choice": list(GENRES.texts)}
