"""A beginning that prompts share is read once, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from persona.llm.frozen.beginnings import LEAST, shared_beginnings
from persona.llm.inputs import ModelInput
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import Choices, GenerationOptions, Request

HISTORY = " ".join(f"the library bought ladder {number} and painted it." for number in range(20))
QUESTIONS = ("Who bought it?", "What?", "Tell me how many of them there were in the cellar last week", "Why then?")


@pytest.fixture(scope="module")
def llm() -> TransformersLM:
    loaded = load_llm("tiny", dtype="float64")
    assert isinstance(loaded, TransformersLM)
    return loaded


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_prompts_alone(llm: TransformersLM, beams: int) -> None:
    options = GenerationOptions(max_new_tokens=8, num_beams=beams)
    requests = [*(Request(f"{HISTORY} {question}") for question in QUESTIONS), Request("Once upon a time")]
    alone = [llm.generate([request], options)[0] for request in requests]
    assert llm.generate(requests, options) == alone
    assert len(set(alone)) > 1


def test_choices_are_scored_as_alone(llm: TransformersLM) -> None:
    choices = Choices(("yes", "no, not at all", "perhaps"))
    requests = [Request(f"{HISTORY} {question}", choices=choices) for question in QUESTIONS]
    alone = torch.tensor([llm.choice_scores([request])[0] for request in requests], dtype=torch.float64)
    together = torch.tensor(llm.choice_scores(requests), dtype=torch.float64)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_it_is_read_once(llm: TransformersLM) -> None:
    requests = [Request(f"{HISTORY} {question}") for question in QUESTIONS]
    lengths = [len(ids) for ids in llm.prompt_ids([request.prompt for request in requests])]
    assert llm.probe.takes_beginnings
    read = 0

    def count(module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal read
        read += output.shape[0] * output.shape[1]

    hook = llm.frozen.layer.register_forward_hook(count)
    llm.generate(requests, GenerationOptions(max_new_tokens=1))
    hook.remove()
    assert min(lengths) < read < 1.5 * max(lengths)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("float64", 1e-11)])
def test_records_that_were_read_are_their_text_in_front(dtype: str, most: float) -> None:
    """Row 46: from kept keys and values of reference records come the scores of the whole text."""
    llm = load_llm("tiny", dtype=dtype)
    assert isinstance(llm, TransformersLM)
    frozen, (whole,) = llm.frozen, llm.prompt_ids([f"{HISTORY} {QUESTIONS[0]}"])
    start = len(whole) - 8
    with torch.inference_mode():
        records = frozen.beginning(whole[:start])
        assert records is not None
        question = records.seen_by(frozen.padded([whole[start:]], None, lambda vectors: ()))
        found = frozen.forward(question, use_cache=True, past_key_values=records.rows(1)).logits
        expected = frozen.logits(frozen.padded([whole], None, lambda vectors: ()))[:, start:]
    assert (found - expected).abs().max() < most


def test_who_shares_a_beginning() -> None:
    start = tuple(range(LEAST + 10))
    inputs = {
        "a": ModelInput((*start, 1)),
        "b": ModelInput((*start, 1, 2)),
        "all of it": ModelInput(start),
        "soft": ModelInput((*start, 3), torch.zeros(1, 4)),
        "steered": ModelInput((*start, 3), steering={0: torch.zeros(4)}),
        "adapter": ModelInput((*start, 4), adapter="one"),
        "same adapter": ModelInput((*start, 5), adapter="one"),
        "short": ModelInput((1, 2)),
        "another": ModelInput((*start[1:], 9, 9)),
    }
    assert shared_beginnings(inputs) == [
        (["a", "b", "all of it"], LEAST + 9),
        (["adapter", "same adapter"], LEAST + 10),
        (["soft", "steered", "short", "another"], 0),
    ]


def test_a_little_that_is_shared_is_not_worth_batches_of_their_own() -> None:
    start = tuple(range(LEAST + 1))
    inputs = {n: ModelInput((*start, *([n] * 9 * LEAST))) for n in range(2)}
    assert shared_beginnings(inputs) == [([0, 1], 0)]
