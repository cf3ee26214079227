"""Answers of endpoints in pieces, over the real client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from persona.errors import EndpointError
from persona.llm.answers.streams import pieces_of
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.protocols import Answer, GenerationOptions, LanguageModel, Request
from persona.store.profile_store import ProfileStore
from tests.llm.endpoint.server import Reply, Server, refusal, serving, turn

PIECES = ["<think>2?", "</think>\n\n", "**4**", " of", " 5", " STOP", " 6"]
OPTIONS = GenerationOptions(9, stop=("STOP",))


def events(*chunks: dict[str, Any] | str) -> Reply:
    """A reply in pieces."""
    lines = [chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}" for chunk in chunks]
    return 200, "".join(f"{line}\n\n" for line in lines).encode(), {"Content-Type": "text/event-stream"}


def chunk(text: str | None, finish: str | None = None, *, chat: bool = True) -> dict[str, Any]:
    content = {"delta": {"content": text}} if chat else {"text": text}
    return {
        "id": "1",
        "object": "x",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, **content}],
    }


def answer(path: str, body: dict[str, Any]) -> Reply:
    """What each model sends."""
    model, chat = body["model"], path.endswith("/chat/completions")
    if model == "deaf":
        return turn("4 of 5")
    if model == "refuses":
        return refusal(400, "the prompt is too long")
    if model == "breaks":
        return events(chunk("4 of"), 'data: {"choices": [{"del')
    if model == "fails":
        return events(chunk("4 of"), {"error": {"message": "out of memory"}})
    usage = {"id": "1", "object": "x", "created": 0, "model": "m", "choices": []}
    parts = [chunk(None, chat=chat), *(chunk(piece, chat=chat) for piece in PIECES), chunk("", "length", chat=chat)]
    return events(*parts, usage, "data: [DONE]")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(answer) as running:
        yield running


def streamed(llm: LanguageModel) -> tuple[list[str], Answer]:
    *pieces, whole = pieces_of(llm, Request("How many?"), OPTIONS)
    assert isinstance(whole, Answer)
    return [str(piece) for piece in pieces], whole


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("own", [False, True])
def test_pieces_come_without_thinking_and_end_at_a_stop_string(server: Server, endpoint: str, own: bool) -> None:
    with openai.OpenAI(base_url=server.url, api_key="k") as client:
        llm = load_llm(client if own else f"vllm:m@{server.url}", endpoint=endpoint, **{"model": "m"} if own else {})
        found = streamed(llm)
    assert found == (["**4** of", " 5", " "], Answer("**4** of 5 ", thought=True))
    sent = server.received[-1][1]
    assert (sent["stream"], sent["stop"], sent["max_tokens"]) == (True, ["STOP"], 9)


def test_how_it_ended_is_told(server: Server) -> None:
    *pieces, whole = pieces_of(load_llm(f"vllm:m@{server.url}"), Request("How many?"), GenerationOptions(9))
    assert "".join(map(str, pieces)) == "**4** of 5 STOP 6"
    assert whole == Answer("**4** of 5 STOP 6", "length", thought=True)


def test_an_endpoint_that_sends_no_pieces_is_asked_for_the_whole(server: Server) -> None:
    pieces, whole = streamed(load_llm(f"vllm:deaf@{server.url}"))
    assert "".join(pieces) == whole.text == "4 of 5"
    assert "stream" not in server.received[-1][1]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("refuses", r"refused the request \(400\): the prompt is too long"),
        ("breaks", "broke off its answer: JSONDecodeError"),
        ("fails", "did not answer: APIError: out of memory"),
    ],
)
def test_what_breaks_is_one_line(server: Server, model: str, said: str) -> None:
    with pytest.raises(EndpointError, match=said) as caught:
        streamed(load_llm(f"vllm:{model}@{server.url}", retries=0))
    assert "\n" not in str(caught.value)


def test_a_personalizer_streams_from_within_an_event_loop(server: Server, tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        personalizer = Personalizer(load_llm(f"vllm:m@{server.url}"), store, (), options=OPTIONS)

        async def ask() -> tuple[list[str], str]:
            async with personalizer.astream("ana", "How many?") as stream:
                pieces = [piece async for piece in stream]
            return pieces, stream.generation.text

        assert asyncio.run(ask()) == (["**4** of", " 5", " "], "**4** of 5 ")
