"""What a model is found to do, on tiny models that do it or do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from persona.channels import check_way
from persona.errors import UnsupportedChannelError
from persona.llm.frozen.probe import Probe, ordinary_tokens, same_scores
from persona.llm.inputs import Batching
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, TEXT, GenerationOptions, Request
from tests.zoo.tiny_models import letters, tiny_llm

OPTIONS = GenerationOptions(max_new_tokens=4)


@pytest.mark.parametrize(
    ("name", "batching", "pads_left"),
    [
        ("LlamaForCausalLM", Batching.PADDED, True),
        ("T5ForConditionalGeneration", Batching.PADDED, False),
        ("BartForCausalLM", Batching.EQUAL, False),
        ("RecurrentGemmaForCausalLM", Batching.EQUAL, False),
        ("RwkvForCausalLM", Batching.ALONE, False),
    ],
)
def test_batches(name: str, batching: Batching, pads_left: bool) -> None:
    probe = tiny_llm(name).probe
    assert probe.batching is batching
    assert probe.loss_pads_left is pads_left
    assert probe.loss_refusal is None
    assert probe.soft_prompt_refusal is None


@pytest.mark.parametrize("name", ["CpmAntForCausalLM", "XLNetLMHeadModel"])
def test_what_a_model_cannot_take_is_refused_with_the_reason(name: str) -> None:
    llm = tiny_llm(name)
    refusal = llm.refusal(SOFT_PROMPT)
    assert refusal
    assert SOFT_PROMPT not in llm.channels
    with pytest.raises(UnsupportedChannelError, match=f"needs: soft_prompt, which is not for it: {refusal}"):
        llm.generate([Request("a", soft_prompt=torch.zeros(2, llm.hidden_size))], OPTIONS)
    with pytest.raises(UnsupportedChannelError, match="cannot be trained with"):
        TargetLoss(llm)


def test_text_asks_nothing_of_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the model was probed")

    monkeypatch.setattr(Probe, "_generated", fail)
    monkeypatch.setattr(Probe, "_scored", fail)
    llm = tiny_llm("LlamaForCausalLM")
    check_way(llm, TEXT, "a test")
    assert llm.generate([Request("a")], OPTIONS)


def test_inputs_for_each_layer_are_those_of_the_nearest_token() -> None:
    llm = tiny_llm("Gemma4ForCausalLM")
    ids = [10, 20, 30]
    with torch.no_grad():
        own = llm.model.get_input_embeddings()(torch.tensor(ids))
    assert llm.probe.soft_prompt_refusal is None
    assert llm.probe.stand_in(own + 0.01 * torch.randn(own.shape)) == ids
    plain = tiny_llm("LlamaForCausalLM")
    assert len(set(plain.probe.stand_in(torch.zeros(3, plain.hidden_size)))) == 1


def test_what_modules_keep_of_a_request_is_gone_before_the_next() -> None:
    llm, fresh = tiny_llm("RecurrentGemmaForCausalLM"), tiny_llm("RecurrentGemmaForCausalLM")
    llm.generate([Request("another's request")], OPTIONS)
    llm.generate([Request("and one more")], OPTIONS)
    assert llm.generate([Request("a")], OPTIONS) == fresh.generate([Request("a")], OPTIONS)


def test_a_model_that_cannot_be_computed_is_asked_alone() -> None:
    llm = tiny_llm("LlamaForCausalLM")
    llm.model.lm_head = nn.Linear(3, 3)
    assert llm.probe.batching is Batching.ALONE
    assert llm.probe.soft_prompt_refusal
    assert llm.probe.loss_refusal


def test_a_model_that_passes_no_gradients_is_not_trained_by() -> None:
    llm = tiny_llm("LlamaForCausalLM")
    llm.model.model.norm.register_forward_hook(lambda module, inputs, output: output.detach())
    assert llm.probe.loss_refusal == "it passes no gradients to its input"


def test_probing_leaves_the_model_as_it_was() -> None:
    llm = tiny_llm("LlamaForCausalLM")
    llm.model.train()
    ids = torch.tensor([[10, 11, 12]])
    with torch.no_grad():
        before = llm.model(input_ids=ids).logits
        assert llm.channels
        assert torch.equal(llm.model(input_ids=ids).logits, before)
    assert all(module.training for module in llm.model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in llm.model.parameters())


def test_scores_that_are_ruled_out_do_not_count() -> None:
    scores = torch.tensor([1.0, 2.0, -torch.inf, -3e38])
    assert same_scores(scores + 1e-6, scores, 1e-3)
    assert not same_scores(scores + torch.tensor([0.1, 0, 0, 0]), scores, 1e-3)
    assert not same_scores(torch.tensor([1.0, 2.0, 3.0, -3e38]), scores, 1e-3)
    assert not same_scores(scores[:3], scores, 1e-3)


def test_ordinary_tokens_are_different_and_mean_nothing_special() -> None:
    tokens = ordinary_tokens(letters(), [0, 1, 2], 320)
    assert len(tokens) == len(set(tokens)) == 11
    assert not {0, 1, 2} & set(tokens)
    assert ordinary_tokens(letters(), [0, 1, 2, 5], 8) == [3, 4, 6, 7]
    assert isinstance(tiny_llm("LlamaForCausalLM"), TransformersLM)
