"""From an answer's tokens to its text, and stop strings while it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from persona.errors import InvalidOptionError
from persona.llm.answers.tokens import AnswerTokens
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import Answer, Choices, GenerationOptions, Request

PLAIN, RAW = GenerationOptions(), GenerationOptions(raw=True)
MARKS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "[THINK]", "[/THINK]"]


@pytest.fixture
def tokenizer(llama_folder: Path) -> Any:
    loaded = AutoTokenizer.from_pretrained(llama_folder)
    loaded.add_special_tokens({"extra_special_tokens": MARKS})
    return loaded


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> TransformersLM:
    llm = load_llm(llama_folder)
    assert isinstance(llm, TransformersLM)
    return llm


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" 4 \n", "4"),
        ("[THINK]2?[/THINK]\n4", "4"),
        ("<|channel|>analysis<|message|>2?<|end|><|start|>assistant<|channel|>final<|message|>**4**", "4"),
        ("<|channel|>final<|message|>4<|end|>", "4"),
        ("<|channel|>analysis<|message|>the answer is 4", ""),
        ("4<|end|> and more", "4 and more"),
        ("<think>2?</think>4", "4"),
    ],
)
def test_marks_that_are_special_tokens_go_after_the_thinking(tokenizer: Any, written: str, answer: str) -> None:
    tokens = tokenizer(written, add_special_tokens=False)["input_ids"]
    read = AnswerTokens(tokenizer)
    assert read.answer(tokens, PLAIN) == Answer(answer, thought=written.strip().startswith(("[", "<")))
    assert read.answer(tokens, RAW).text == written.strip()


def test_a_special_token_can_be_a_stop_string(tokenizer: Any) -> None:
    tokens = tokenizer("4<|end|> and more", add_special_tokens=False)["input_ids"]
    read = AnswerTokens(tokenizer)
    assert read.answer(tokens, GenerationOptions(stop=("<|end|>",))).text == "4"
    assert read.is_stopped(tokens[:2], GenerationOptions(stop=("<|end|>",)))


def test_what_is_settled_holds_back_half_a_character(tokenizer: Any) -> None:
    tokens = tokenizer("né 東京!", add_special_tokens=False)["input_ids"]
    read = AnswerTokens(tokenizer)
    seen = [read.settled(tokens[:length], PLAIN) for length in range(len(tokens) + 1)]
    assert all(read.answer(tokens, PLAIN).text.startswith(each) for each in seen)
    assert seen[-1] == "né 東京!"


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_an_answer_is_cut_before_its_stop_string_in_any_batch(llama: TransformersLM, beams: int, soft: bool) -> None:
    vectors = torch.randn(2, llama.hidden_size, generator=torch.Generator().manual_seed(0)) if soft else None
    requests = [Request(prompt, vectors) for prompt in ("A", "Once upon a time", "The end of it all", "two")]
    whole = llama.generate(requests, GenerationOptions(24, beams))
    stops = tuple(text[len(text) // 2 :][:2] for text in whole[:2])
    expected = [min((text.split(stop)[0] for stop in stops), key=len).strip() for text in whole]
    options = GenerationOptions(24, beams, stop=stops)
    assert llama.generate(requests, options) == expected != whole
    assert [llama.generate([each], options)[0] for each in requests] == expected


def test_generation_ends_at_the_stop_string(llama: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = llama.generate([Request("A")], GenerationOptions(24))
    steps = []
    forward = llama.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.model, "forward", counted)
    llama.generate([Request("A")], GenerationOptions(24, stop=(whole[2:4],)))
    assert len(steps) < 16


def test_an_answer_says_how_it_ended(llama: TransformersLM) -> None:
    (cut,) = (answer for _, answer in llama.generate_each([Request("A")], GenerationOptions(8)))
    assert cut.finish == "length"
    stop = GenerationOptions(8, stop=(cut.text[-1],))
    (stopped,) = (answer for _, answer in llama.generate_each([Request("A")], stop))
    assert stopped.finish == "stop"
    chosen = Request("A", choices=Choices(("yes", "no")))
    constrained = GenerationOptions(8, answers="constrained")
    ((_, held), (_, free)) = llama.generate_each([chosen, Request("A")], constrained)
    assert (held.mode, held.finish, free.mode) == ("constrained", "stop", "generate")


@pytest.mark.parametrize("stop", ["\n", ("",), (7,)])
def test_stop_strings_must_be_texts(llama: TransformersLM, stop: Any) -> None:
    with pytest.raises(InvalidOptionError, match="`stop` must be a tuple of texts, none of them empty, was: "):
        llama.generate([Request("A")], GenerationOptions(stop=stop))
