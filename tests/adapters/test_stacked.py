"""Stacked adapters: equal to PEFT's, and gone without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from persona.adapters.family import LoraSpec, find_modules
from persona.adapters.stacked import PRIOR_SLOT, StackedLoRA
from persona.errors import InvalidOptionError

LENGTH, VOCABULARY = 9, 61

# PEFT reads an attribute that transformers has given another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call]


def neox() -> Any:
    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        pad_token_id=0,
    )
    return GPTNeoXForCausalLM(config).eval()  # type: ignore[no-untyped-call]


def t5() -> Any:
    torch.manual_seed(2)
    make: Any = T5Config
    config = make(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=2.0,
    )
    return T5ForConditionalGeneration(config).eval()  # type: ignore[no-untyped-call]


MODELS = {
    "llama-qv": (llama, ("q_proj", "v_proj")),
    "llama-all": (llama, ("all-linear",)),
    "neox": (neox, ("query_key_value", "dense_h_to_4h")),
    "t5-qv": (t5, ("q", "v")),
    "t5-all": (t5, ("all-linear",)),
}


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[Any, LoraSpec]:
    make, targets = MODELS[request.param]
    return make(), LoraSpec(r=4, alpha=8, targets=targets, rslora=request.param == "neox")


def adapters(stack: StackedLoRA, number: int) -> Tensor:
    """Random adapters, large enough to change tokens.  # (number, size)"""
    rows = torch.randn(number, stack.family.size, generator=torch.Generator().manual_seed(7)) * 0.2
    for slot, row in enumerate(rows, 1):
        stack.write(slot, row)
    return rows


def peft_of(model: Any, stack: StackedLoRA, rows: Tensor) -> PeftModel:
    """The same adapters in PEFT, named 1, 2, ..."""
    spec = stack.family.spec
    names = [module.name for module in stack.family.modules]
    config = LoraConfig(r=spec.r, lora_alpha=8, target_modules=names, use_rslora=spec.rslora)
    wrapped = get_peft_model(model, config, adapter_name="1")
    for slot in range(2, len(rows) + 1):
        wrapped.add_adapter(str(slot), config)
    layers = dict(wrapped.named_modules())
    for module, (a, b) in zip(stack.family.modules, stack.family.pairs(rows), strict=True):
        layer: Any = layers[f"base_model.model.{module.name}"]
        for index in range(len(rows)):
            layer.lora_A[str(index + 1)].weight.data = a[index].clone()
            layer.lora_B[str(index + 1)].weight.data = b[index].clone()
    return wrapped.eval()


def batch(model: Any, rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (rows, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    arguments = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        arguments["decoder_input_ids"] = torch.randint(3, VOCABULARY, (rows, 4), generator=generator)
    return arguments


@pytest.mark.parametrize("num_beams", [1, 3])
def test_outputs_are_those_of_peft(case: tuple[Any, LoraSpec], num_beams: int) -> None:
    model, spec = case
    stack = StackedLoRA(model, spec, slots=5)
    rows = adapters(stack, 3)
    slots = [2, None, 1, 3, 2, None]
    inputs = batch(model, len(slots))
    asked = {name: value for name, value in inputs.items() if not name.startswith("decoder")}
    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": num_beams, "do_sample": False, **asked}
    with torch.inference_mode():
        plain = model(**inputs).logits
        with stack.rows(slots):
            ours = model(**inputs).logits
            tokens = model.generate(**options)
        stack.remove()
        wrapped = peft_of(model, stack, rows)
        names = ["__base__" if slot is None else str(slot) for slot in slots]
        theirs = wrapped(**inputs, adapter_names=names).logits
        generate: Any = wrapped.generate
        their_tokens = generate(**options, adapter_names=names)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert tokens.tolist() == their_tokens.tolist()
    assert not torch.allclose(ours[0], plain[0], atol=0.1)  # the adapters are no trifle


def test_rows_of_the_plain_model_are_bit_equal(case: tuple[Any, LoraSpec]) -> None:
    model, spec = case
    inputs = batch(model, 4)
    with torch.inference_mode():
        before = model(**inputs).logits
        stack = StackedLoRA(model, spec, slots=2)
        prior = torch.randn(stack.family.size) * 0.2
        stack.remove()
        with StackedLoRA(model, spec, slots=2, prior=prior) as stack:
            adapters(stack, 2)
            with stack.rows([None, 1, None, 2]):
                mixed = model(**inputs).logits
            with stack.rows([None] * 4):
                assert torch.equal(model(**inputs).logits, before)
            assert torch.equal(model(**inputs).logits, before)
    assert torch.equal(mixed[[0, 2]], before[[0, 2]])
    assert not torch.allclose(mixed[[1, 3]], before[[1, 3]], atol=0.1)


def test_a_removed_stack_leaves_nothing(case: tuple[Any, LoraSpec]) -> None:
    model, spec = case
    inputs = batch(model, 2)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: tensor.requires_grad for name, tensor in model.named_parameters()}
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with torch.no_grad():
        before = model(**inputs).logits
        stack = StackedLoRA(model, spec, slots=1)
        adapters(stack, 1)
        with stack.rows([1, 1]):
            model(**inputs)
        stack.remove()
        assert torch.equal(model(**inputs).logits, before)
    assert {name: tensor.requires_grad for name, tensor in model.named_parameters()} == flags
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_prior_lies_under_every_adapter() -> None:
    model, spec = llama(), LoraSpec(r=4, alpha=8)
    inputs = batch(model, 3)
    with StackedLoRA(model, spec, slots=1) as stack:
        prior, private = adapters(stack, 1)[0], torch.randn(stack.family.size) * 0.1
        family = stack.family
        both = []
        for (a, b), (shared_a, shared_b) in zip(family.pairs(private[None]), family.pairs(prior[None]), strict=True):
            both.append((torch.cat((shared_a, a), 1), torch.cat((shared_b, b), 2)))
    with torch.inference_mode():
        doubled = torch.cat([part.flatten() for pair in both for part in pair])
        with StackedLoRA(model, LoraSpec(r=8, alpha=16), slots=1) as stack:
            stack.write(1, doubled)
            with stack.rows([1, 1, None]):
                expected = model(**inputs).logits
        with StackedLoRA(model, spec, slots=2, prior=prior) as stack:
            stack.write(2, private)
            with stack.rows([2, 2, None]):
                torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
            with stack.rows([PRIOR_SLOT] * 3):
                alone = model(**inputs).logits
        with StackedLoRA(model, spec, slots=1) as stack:
            stack.write(1, prior)
            with stack.rows([1] * 3):
                torch.testing.assert_close(alone, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_gradients_reach_each_row_and_no_other() -> None:
    model, spec = llama(), LoraSpec(r=4, alpha=8, targets=("q_proj", "down_proj"))
    inputs = batch(model, 4)
    with StackedLoRA(model, spec, slots=1) as stack:
        rows = (torch.randn(2, stack.family.size) * 0.2).requires_grad_()
        with stack.using(rows):
            model(**inputs).logits[:2].square().mean().backward()
    assert rows.grad is not None
    assert rows.grad[0].abs().min() > 0
    assert not rows.grad[1].any()


@pytest.mark.parametrize("name", ["out_proj", "proj", "embed_tokens"])
def test_a_target_that_names_no_layer_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=rf"linear layers \(.*q_proj.*\), was: '{name}'"):
        find_modules(llama(), LoraSpec(targets=("q_proj", name)))


@pytest.mark.parametrize("slot", [-1, 3])
def test_a_slot_that_is_not_there_is_refused(slot: int) -> None:
    with StackedLoRA(llama(), LoraSpec(), slots=2) as stack:
        with pytest.raises(InvalidOptionError, match=f"from 1 to 2, was: {slot}"), stack.rows([slot]):
            pass
        with pytest.raises(InvalidOptionError, match=f"from 1 to 2, was: {slot}"):
            stack.write(slot, torch.zeros(stack.family.size))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int8"])
def test_what_is_at_rest_comes_back(dtype: str) -> None:
    with StackedLoRA(llama(), LoraSpec(r=4, dtype=dtype), slots=1) as stack:
        family, row = stack.family, adapters(stack, 1)[0]
        payload = family.encode(row)
        assert len(payload) == family.nbytes
        back = family.decode(payload)
        # Relative error of the products B A, which is what the model sees.
        errors = []
        for (a, b), (old_a, old_b) in zip(family.pairs(back[None].float()), family.pairs(row[None]), strict=True):
            exact = old_b @ old_a
            errors.append(float((b @ a - exact).norm() / exact.norm()))
    limit = {"float32": 0.0, "float64": 0.0, "float16": 1e-3, "bfloat16": 5e-3, "int8": 0.02}[dtype]
    assert max(errors) <= limit
    assert family.from_name(family.name) == family


def test_numbers_that_are_not_finite_are_refused() -> None:
    family = StackedLoRA(llama(), LoraSpec(dtype="float16"), slots=1).family
    with pytest.raises(InvalidOptionError, match="finite"):
        family.encode(torch.full((family.size,), 1e6))
