"""Answers in pieces: joined they are what `generate` answers, and nothing is taken back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from langchain_core.runnables import RunnableLambda

from persona.errors import GenerationError, InvalidOptionError
from persona.llm.answers.streams import awaited, from_thread, pieces_of
from persona.llm.load import load_llm
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.llm.transformers import TransformersLM
from persona.protocols import Answer, Choices, GenerationOptions, LanguageModel, Message, Request

PROMPTS = ["Once upon a time", "A", "Café, 東京 and 🎈"]


class Typist:
    """Writes what it is given, in pieces."""

    channels, fingerprint, tokenizer = frozenset({"text"}), "typist", WhitespaceTokenizer()

    def __init__(self, *pieces: str | Answer) -> None:
        self.pieces, self.left = pieces, False

    def generate(self, requests: object, options: GenerationOptions) -> list[str]:
        return ["".join(piece for piece in self.pieces if isinstance(piece, str))]

    def stream(self, request: Request, options: GenerationOptions) -> Iterator[str | Answer]:
        try:
            yield from self.pieces
        finally:
            self.left = True


def streamed(llm: LanguageModel, request: Request, options: GenerationOptions) -> tuple[list[str], Answer]:
    *pieces, whole = pieces_of(llm, request, options)
    assert isinstance(whole, Answer)
    texts = [piece for piece in pieces if isinstance(piece, str)]
    assert len(texts) == len(pieces)
    return texts, whole


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> TransformersLM:
    llm = load_llm(llama_folder)
    assert isinstance(llm, TransformersLM)
    return llm


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "options", [GenerationOptions(24), GenerationOptions(24, stop=("a", "e")), GenerationOptions(8, 3)]
)
@pytest.mark.parametrize("soft", [False, True])
def test_the_pieces_of_a_model_are_its_answer(
    llama: TransformersLM, prompt: str, options: GenerationOptions, soft: bool
) -> None:
    vectors = torch.randn(2, llama.hidden_size, generator=torch.Generator().manual_seed(0)) if soft else None
    request = Request(prompt, vectors)
    pieces, whole = streamed(llama, request, options)
    assert "".join(pieces) == whole.text == llama.generate([request], options)[0]
    assert all(pieces)
    if options == GenerationOptions(24):
        assert len(pieces) > 3
        assert whole.finish == "length"


def test_an_answer_by_choices_is_one_piece(llama: TransformersLM) -> None:
    request = Request("Yes or no?", choices=Choices(("yes", "no")))
    pieces, whole = streamed(llama, request, GenerationOptions(8, answers="likelihood"))
    assert pieces == [whole.text]
    assert whole.mode == "likelihood"


def test_whoever_leaves_early_stops_the_model(llama: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    forward = llama.model.forward

    def slow(*args: object, **kwargs: object) -> object:
        steps.append(1)
        time.sleep(0.02)
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.model, "forward", slow)
    pieces = llama.stream(Request("A"), GenerationOptions(100))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert len(steps) < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("persona-stream")]
    assert llama.generate([Request("A")], GenerationOptions(2))


def test_errors_of_a_model_arrive(llama: TransformersLM) -> None:
    with pytest.raises(InvalidOptionError, match="too few for `max_new_tokens=500`"):
        list(pieces_of(llama, Request("A"), GenerationOptions(500)))
    with pytest.raises(InvalidOptionError, match="`stop` must be"):
        list(pieces_of(llama, Request("A"), GenerationOptions(stop=("",))))


def test_an_llm_of_ones_own() -> None:
    typist = Typist("<thi", "nk>2?</think>", "**4", "** of", " 5", " ST", "OP", " more")
    pieces, whole = streamed(typist, Request("A"), GenerationOptions(stop=("STOP",)))
    assert (pieces, whole.text) == (["**4** of", " 5", " "], "**4** of 5 ")
    assert typist.left, "nothing is read behind a stop string"
    assert streamed(Typist("**4", "**"), Request("A"), GenerationOptions()) == (["4"], Answer("4"))
    whole_at_the_end = Typist("4 ", Answer("4 of 5", "length"))
    assert streamed(whole_at_the_end, Request("A"), GenerationOptions())[1] == Answer("4 of 5", "length")
    with pytest.raises(GenerationError, match="must answer with a text, answered: int"):
        list(pieces_of(Typist(7), Request("A"), GenerationOptions()))  # type: ignore[arg-type]


def test_an_llm_that_writes_no_pieces_gives_one() -> None:
    for llm in (load_llm(lambda prompt: prompt * 2), load_llm(RunnableLambda(lambda prompt: prompt * 2))):
        assert streamed(llm, Request("ab"), GenerationOptions()) == (["abab"], Answer("abab"))
    assert streamed(load_llm(lambda prompt: ""), Request("ab"), GenerationOptions())[0] == []
    turns = (Message("user", "Hi."),)
    assert streamed(load_llm(lambda prompt: prompt), Request("A", turns=turns), GenerationOptions())[0] == [
        "User: Hi.\n\nUser: A\n\nAssistant:"
    ]


def test_a_runnable_streams_and_fails_in_one_line() -> None:
    def pieces(inputs: Iterator[str]) -> Iterator[str]:
        for text in inputs:
            yield from text
            if text == "broken":
                raise TimeoutError("too late\nat all")

    from langchain_core.runnables import RunnableGenerator

    llm = load_llm(RunnableGenerator(pieces))
    assert streamed(llm, Request("abc"), GenerationOptions())[0] == ["a", "b", "c"]
    with pytest.raises(GenerationError, match=r"did not answer: TimeoutError: too late$"):
        list(pieces_of(llm, Request("broken"), GenerationOptions()))


def test_an_event_loop_is_not_blocked() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    async def both() -> tuple[list[int], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        items = [item async for item in awaited(slow())]
        ticking.cancel()
        return items, ticks

    items, ticks = asyncio.run(both())
    assert items == [0, 1, 2]
    assert ticks > 4


def test_what_a_thread_raises_arrives() -> None:
    def work(put: Callable[[str], None], left: object) -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        list(from_thread(work))

    async def ask() -> list[object]:
        items: Iterator[object] = from_thread(work)
        return [item async for item in awaited(items)]

    with pytest.raises(KeyError, match="gone"):
        asyncio.run(ask())


def test_a_stalled_stream_does_not_hold_the_end_of_the_program() -> None:
    code = """if True:
        import asyncio, time
        from persona.llm.answers.streams import awaited

        def stalled():
            yield "a"
            time.sleep(60)

        async def ask():
            pieces = awaited(stalled())
            await anext(pieces)
            await asyncio.wait_for(anext(pieces), 0.1)

        try:
            asyncio.run(ask())
        except TimeoutError:
            print("left")
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=20, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("left\n", "")
