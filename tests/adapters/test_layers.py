"""Which layers can have adapters, by what they see of a batch."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from torch import nn

from persona.adapters.family import LoraSpec, find_modules
from persona.adapters.layers import NOT_COMPUTED, Sight, sights
from persona.adapters.stacked import StackedLoRA
from persona.errors import InvalidOptionError
from tests.zoo.tiny_models import tiny_model


def refused(model: Any) -> dict[str, str]:
    return {name: sight.why for name, sight in sights(model).items() if sight.axis is None}


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "T5ForConditionalGeneration", "GPTNeoXForCausalLM"])
def test_usual_layers_see_requests_in_front(name: str) -> None:
    assert set(sights(tiny_model(name)).values()) == {Sight(0)}


def test_requests_may_be_the_second_dimension() -> None:
    seen = sights(tiny_model("LEDForConditionalGeneration"))
    second = {name.rpartition(".")[2] for name, sight in seen.items() if sight.axis == 1}
    assert second == {"query", "key", "value", "output"} & second != set()
    assert not any("decoder" in name for name, sight in seen.items() if sight.axis == 1)


@pytest.mark.parametrize(
    ("name", "part", "why"),
    [
        ("Llama4ForCausalLM", "router", "one tensor for one tensor"),
        ("NllbMoeForConditionalGeneration", "experts", "it is an expert"),
        ("Gemma3ForConditionalGeneration", "vision_tower", NOT_COMPUTED),
        ("MambaForCausalLM", "out_proj", "Mamba's kernels"),
        ("DeepseekV3ForCausalLM", "shared_experts", "PEFT takes its name"),
    ],
)
def test_layers_that_cannot_be_adapted(name: str, part: str, why: str) -> None:
    model = tiny_model(name)
    found = {layer: reason for layer, reason in refused(model).items() if part in layer}
    assert found
    assert all(why in reason for reason in found.values())
    taken = [module.name for module in find_modules(model, LoraSpec())]
    assert taken
    assert not set(taken) & refused(model).keys()


def test_all_linear_says_what_it_leaves_out_once(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("Llama4ForCausalLM")
    with caplog.at_level(logging.WARNING, logger="persona.adapters"):
        for _ in range(2):
            find_modules(model, LoraSpec())
    (message,) = [record.getMessage() for record in caplog.records]
    assert "Llama4ForCausalLM: adapters leave out model.layers.*.feed_forward.router (it does not answer" in message


def test_a_layer_that_cannot_be_adapted_is_refused_by_name() -> None:
    with pytest.raises(InvalidOptionError, match=r"layer model\.layers\.0\.feed_forward\.router cannot be adapted"):
        StackedLoRA(tiny_model("Llama4ForCausalLM"), LoraSpec(targets=("q_proj", "router")), slots=1)


def test_layers_of_a_tower_that_reads_images_are_left_out_of_names_too() -> None:
    modules = find_modules(tiny_model("Gemma3ForConditionalGeneration"), LoraSpec(targets=("q_proj",)))
    assert {module.name.split(".")[1] for module in modules} == {"language_model"}


def test_gpt2_has_its_layers_the_other_way_round() -> None:
    model = tiny_model("GPT2LMHeadModel")
    sizes = {
        module.name.rpartition("h.0.")[2]: (module.n_in, module.n_out) for module in find_modules(model, LoraSpec())
    }
    assert sizes["attn.c_attn"] == (32, 96)
    assert {"attn.c_proj", "mlp.c_fc", "mlp.c_proj"} <= sizes.keys()


def test_a_model_that_is_none_of_transformers_is_taken_as_it_is() -> None:
    assert sights(nn.Sequential(nn.Linear(3, 3))) == {"0": Sight(0)}


def test_a_model_that_needs_images_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="cannot read text alone"):
        sights(tiny_model("Blip2ForConditionalGeneration"))
