"""Vectors added to hidden states: each row its own, sums are sums, and the model stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.llm.continuous.engine import Engine
from persona.llm.continuous.sampling import SamplingOptions
from persona.llm.frozen.steering import Steered, blocks
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import STEERING, Choices, GenerationOptions, Request

OPTIONS = GenerationOptions(max_new_tokens=12)
PROMPTS = ("A moody film.", "Bread", "What shall we read on a rainy day?")


def vector(seed: int, length: float = 20.0) -> Tensor:
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    made: Tensor = length * drawn / drawn.norm()
    return made


def scores(llm: TransformersLM, rows: list[Mapping[int, Tensor] | None]) -> Tensor:
    """The scores after each token of one text, with other vectors in each row.  # (rows, length, vocabulary)"""
    batch = llm.frozen.padded([[5, 6, 7, 8]] * len(rows), None, lambda soft: ())
    with llm.computing(), Steered(llm.frozen.blocks, rows):
        found: Tensor = llm.frozen.logits(batch)
    return found


def requests() -> list[Request]:
    plain = [Request(prompt) for prompt in PROMPTS]
    steered = [replace(each, steering={number % 2: vector(number, 40.0)}) for number, each in enumerate(plain)]
    return [*plain, *steered, replace(steered[0], steering={0: vector(7, 40.0), 1: vector(8, 40.0)})]


def test_each_row_of_a_batch_gets_the_answer_that_it_gets_alone(llm: TransformersLM) -> None:
    alone = [llm.generate([each], OPTIONS)[0] for each in requests()]
    assert llm.generate(requests(), OPTIONS) == alone
    assert len(set(alone[:4])) == 4
    assert alone[3:6] != alone[:3]
    beams = replace(OPTIONS, num_beams=3)
    assert llm.generate(requests(), beams) == [llm.generate([each], beams)[0] for each in requests()]


def test_the_engine_answers_rows_with_their_own_vectors(llm: TransformersLM) -> None:
    options = SamplingOptions(max_new_tokens=12, temperature=0.0)
    with Engine(llm) as engine:
        tickets = [engine.submit(each, options) for each in requests()]
        written = [ticket.result().text for ticket in tickets]
    assert written == llm.generate(requests(), OPTIONS)


def test_choices_are_scored_with_the_vectors_of_their_request(llm: TransformersLM) -> None:
    choices = Choices(("yes", "no", "perhaps"))
    asked = [replace(each, choices=choices) for each in requests()]
    found = torch.tensor(llm.choice_scores(asked))
    alone = torch.tensor([llm.choice_scores([each])[0] for each in asked])
    assert torch.allclose(found, alone, atol=1e-4)
    assert not torch.allclose(found[:3], found[3:6], atol=0.1)


def test_a_sum_of_vectors_is_both_added_one_behind_the_other(llm: TransformersLM) -> None:
    one, two = vector(1), vector(2)
    with llm.computing(), Steered(llm.frozen.blocks, [{0: one}]):
        both = scores(llm, [{0: two}])
    assert torch.allclose(scores(llm, [{0: one + two}]), both, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both, scores(llm, [{0: one}]), atol=1e-2)


def test_plain_rows_and_rows_of_zeros_are_bit_equal_to_the_plain_model(llm: TransformersLM) -> None:
    plain = scores(llm, [None, None, None])
    found = scores(llm, [None, {1: vector(3)}, {1: torch.zeros(32)}])
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[2], plain[2])
    assert not torch.equal(found[1], plain[1])


def test_the_model_is_frozen_and_no_hook_is_left_after_an_error_either(llm: TransformersLM) -> None:
    def bits() -> str:
        digest = hashlib.sha256()
        for name, each in llm.model.state_dict().items():
            digest.update(name.encode() + each.numpy().tobytes())
        return digest.hexdigest()

    before, plain = bits(), scores(llm, [None])
    llm.generate(requests(), OPTIONS)
    with pytest.raises(ZeroDivisionError), Steered(llm.frozen.blocks, [{0: vector(1)}]):
        raise ZeroDivisionError
    assert bits() == before
    assert torch.equal(scores(llm, [None]), plain)
    assert not any(module._forward_hooks for module in llm.model.modules())


def test_gradients_flow_to_the_vectors_alone(llm: TransformersLM) -> None:
    own = vector(1).requires_grad_()
    with Steered(llm.frozen.blocks, [{0: own}, None]):
        loss = TargetLoss(llm)([[5, 6], [5, 6]], [[7, 8], [7, 8]])
    (gradient,) = torch.autograd.grad(loss[0], own, retain_graph=True)
    assert gradient.norm() > 0
    assert torch.autograd.grad(loss[1], own)[0].norm() == 0


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        ({2: torch.zeros(32)}, "block from 0 to 1, was: 2"),
        ({0: torch.zeros(31)}, r"shape \(32,\)"),
        ({0: torch.full((32,), torch.nan)}, "finite"),
    ],
)
def test_what_does_not_fit_is_refused(llm: TransformersLM, steering: dict[int, Tensor], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        llm.generate([Request("A", steering=steering)], OPTIONS)


def test_an_llm_without_hidden_states_refuses_steering_by_name() -> None:
    with pytest.raises(UnsupportedChannelError, match=STEERING):
        load_llm(lambda prompt: prompt).generate([Request("A", steering={0: torch.zeros(32)})], OPTIONS)


def test_the_blocks_are_those_of_the_decoder(llm: TransformersLM) -> None:
    assert llm.frozen.blocks == tuple(llm.model.model.layers)
    assert blocks(torch.nn.Linear(1, 1)) == ()
    assert STEERING in llm.channels
