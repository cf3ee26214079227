"""Blending with the plain model where it is sure (row 62): hand-computed scores, and both ends to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.llm.continuous.engine import Engine
from persona.llm.frozen.blending import Blend, Blending
from persona.llm.inputs import ModelInput
from persona.llm.load import load_llm
from persona.protocols import Choices, GenerationOptions, Request


def test_blended_scores_by_hand() -> None:
    """Row 62: log p = log p_user + b (log p_plain - log p_user), in other words a weighted geometric mean."""
    own, plain = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.1, 0.8, 0.1]]).log()
    roots = [math.sqrt(0.05), math.sqrt(0.24), math.sqrt(0.02)]
    expected = torch.tensor([[root / sum(roots) for root in roots]])
    torch.testing.assert_close(Blend(0.5, 0.8)(own + 3, plain - 2).exp(), expected)
    assert Blend(0.5, 0.81)(own, plain).equal(own), "the plain model is not sure"
    never = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert Blend(0.5, 0.0)(never, plain)[0, 1] == -torch.inf


@pytest.mark.parametrize("beams", [1, 2])
def test_both_ends_are_bit_equal(beams: int) -> None:
    """``b = 0`` is the personal model and ``b = 1`` the plain one, and neighbours keep their scores (row 62)."""
    inputs = [ModelInput((1,)), ModelInput((2,), adapter="ana@1"), ModelInput((3,)), ModelInput((4,), lifts={1: 2.0})]
    scores = torch.randn(6 * beams, 9, generator=torch.Generator().manual_seed(0))
    given = scores.view(6, beams, 9)
    for blend, rows in ((Blend(0.0, 0.0), [0, 1, 2, 3, 1, 3]), (Blend(1.0, 0.0), [0, 4, 2, 5, 4, 5])):
        blending = Blending(blend, inputs, beams)
        assert [each.adapter for each in blending.inputs] == [None, "ana@1", None, None, None, None]
        assert not blending.inputs[-1].lifts
        blended = blending(torch.zeros(6 * beams, 1), scores).view(6, beams, 9)
        assert blended.equal(given[rows])
    assert not Blending(Blend(adapter="ana@1"), inputs[:3])
    assert Blending(None, inputs)(torch.zeros(4, 1), scores[:4]) is not None


@pytest.fixture(scope="module")
def llms(llama_folder: Path) -> dict[float | None, Any]:
    """The same model without a blend, and with the plain model's share of 0, a half and 1 wherever it is."""
    made: dict[float | None, Any] = {w: load_llm(llama_folder, blend=Blend(w, 0.0)) for w in (0.0, 0.5, 1.0)}
    return {None: load_llm(llama_folder), **made}


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_batch_of_users(llms: dict[float | None, Any], beams: int) -> None:
    """Row 62 through ``generate``: soft prompts, steering, lifts and nothing personal, side by side."""
    options = GenerationOptions(max_new_tokens=8, num_beams=beams)
    draw, plain = torch.Generator().manual_seed(1), llms[None]
    hidden = plain.hidden_size
    soft = [torch.randn(3, hidden, generator=draw), torch.randn(1, hidden, generator=draw)]
    requests = [
        Request("one", soft_prompt=soft[0]),
        Request("one"),
        Request("another one", soft_prompt=soft[1]),
        Request("two", steering={0: 4 * torch.randn(hidden, generator=draw)}),
        Request("two", lifts={plain.target_ids(["z"])[0][0]: 100.0}),
    ]
    personal = plain.generate(requests, options)
    without = plain.generate([Request(each.prompt) for each in requests], options)
    assert all(own != other for own, other in zip(personal, without, strict=True) if other is not without[1])
    assert llms[0.0].generate(requests, options) == personal
    assert llms[1.0].generate(requests, options) == without
    mixed = llms[0.5].generate(requests, options)
    assert mixed[1] == without[1]
    assert mixed == [llms[0.5].generate([each], options)[0] for each in requests]
    assert mixed not in (personal, without)
    if beams == 1:
        pieces = [each for each in llms[0.5].stream(requests[0], options) if isinstance(each, str)]
        assert "".join(pieces).strip() == mixed[0]


def test_scores_of_choices_are_blended(llms: dict[float | None, Any]) -> None:
    """Row 62 by likelihood: between the two ends, token by token."""
    soft = torch.randn(2, llms[None].hidden_size, generator=torch.Generator().manual_seed(2))
    choices = Choices(("a", "bc", "d"))
    requests = [Request("one", soft_prompt=soft, choices=choices), Request("two", choices=choices)]
    scores = {weight: llm.choice_scores(requests) for weight, llm in llms.items()}
    plain = llms[None].choice_scores([Request("one", choices=choices)])[0]
    torch.testing.assert_close(torch.tensor(scores[0.0]), torch.tensor(scores[None]))
    torch.testing.assert_close(torch.tensor(scores[1.0][0]), torch.tensor(plain))
    torch.testing.assert_close(torch.tensor(scores[0.5][1]), torch.tensor(scores[None][1]))
    assert scores[0.5][0] != scores[0.0][0]


def test_what_blends_says_so(llms: dict[float | None, Any]) -> None:
    assert llms[0.5].settings["blend"] == Blend(0.5, 0.0)
    assert "blend" not in llms[None].settings
    with pytest.raises(UnsupportedChannelError, match="blend"):
        Engine(llms[0.5])
    for weight, floor in ((1.5, 0.5), (0.5, -0.1)):
        with pytest.raises(InvalidOptionError):
            Blend(weight, floor)
