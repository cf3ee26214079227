"""Quantised layers: they answer, pass gradients, take adapters as PEFT does, and stay as they are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from persona.adapters.family import LoraSpec
from persona.adapters.stacked import StackedLoRA
from persona.errors import InvalidOptionError, MissingDependencyError, ModelLoadError
from persona.llm.checkpoint import hash_parameters
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.weights import memory
from persona.protocols import GenerationOptions, Request
from tests.conftest import save_llama

installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
KINDS = pytest.mark.parametrize("kind", ["4bit", "8bit"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama whose rows are whole blocks of 64 numbers."""
    return save_llama(tmp_path / "wide", hidden_size=64, intermediate_size=128)


def test_a_missing_package_is_named(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona.llm.weights.quantized.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs the package bitsandbytes.*'persona-llm\[quantized\]'"):
        load_llm(llama_folder, quantize="4bit")


@installed
@pytest.mark.parametrize(("kind", "said"), [("4bit", "nf4-float32"), ("8bit", "int8-float32")])
def test_the_fingerprint_names_the_kind(folder: Path, kind: str, said: str) -> None:
    whole, quantised = load_llm(folder, device="cpu").fingerprint, load_llm(folder, quantize=kind, device="cpu")
    assert quantised.fingerprint == whole.replace("float32", said)


@installed
@KINDS
def test_answers_do_not_depend_on_the_batch_and_weights_stay(folder: Path, kind: str) -> None:
    llm: Any = load_llm(folder, quantize=kind, device="cpu")
    before = hash_parameters(llm.model)
    soft = torch.full((2, llm.hidden_size), 0.3)
    requests = [Request("one"), Request("a longer one", soft_prompt=soft), Request("the third of them")]
    options = GenerationOptions(max_new_tokens=6)
    together = llm.generate(requests, options)
    assert together == [llm.generate([request], options)[0] for request in requests]
    assert len(set(together)) == 3
    assert hash_parameters(llm.model) == before


@installed
def test_gradients_of_soft_prompts_are_those_of_the_dequantised_model(folder: Path) -> None:
    import bitsandbytes.functional as bnb

    llm: Any = load_llm(folder, quantize="4bit", device="cpu")
    llm.generate([Request("one")], GenerationOptions(max_new_tokens=2))  # which must not turn gradients off
    plain: Any = load_llm(folder, device="cpu")
    with torch.no_grad():
        for name, module in llm.model.named_modules():
            if hasattr(module, "quant_state"):
                plain.model.get_submodule(name).weight.copy_(
                    bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
                )
    soft = torch.linspace(-1, 1, 2 * 3 * llm.hidden_size).reshape(2, 3, -1)

    def gradient(each: Any) -> torch.Tensor:
        vectors = soft.clone().requires_grad_(True)
        loss = TargetLoss(each)(each.prompt_ids(["A?", "B?"]), each.target_ids(["x", "yz"]), vectors).sum()
        return torch.autograd.grad(loss, vectors)[0]

    assert torch.allclose(gradient(llm), gradient(plain), rtol=1e-3, atol=1e-5)


@installed
@KINDS
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_those_of_peft(folder: Path, kind: str) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    llm: Any = load_llm(folder, quantize=kind, device="cpu")
    ids = torch.tensor(llm.prompt_ids(["what is it"]))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with StackedLoRA(llm.model, LoraSpec(r=4, alpha=8, targets=("q_proj", "v_proj")), slots=1) as stack:
        torch.manual_seed(0)
        tuned: Any = get_peft_model(load_llm(folder, quantize=kind, device="cpu").model, config)  # type: ignore[attr-defined]
        state = {
            name.removeprefix("base_model.model."): each for name, each in get_peft_model_state_dict(tuned).items()
        }
        parts = [state[f"{module.name}.lora_{part}.weight"] for module in stack.family.modules for part in "AB"]
        stack.write(1, torch.cat([part.flatten() for part in parts]))
        with torch.no_grad(), stack.rows([1]):
            ours = llm.model(ids).logits
        with torch.no_grad():
            theirs = tuned(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, llm.model(ids).logits, atol=1e-2)


@installed
def test_a_folder_that_holds_quantised_weights_is_loaded_as_it_is(folder: Path, tmp_path: Path) -> None:
    llm: Any = load_llm(folder, quantize="4bit", device="cpu")
    llm.model.save_pretrained(tmp_path / "saved")
    llm._tokenizer.save_pretrained(tmp_path / "saved")
    saved: Any = load_llm(tmp_path / "saved", device="cpu")
    options = GenerationOptions(max_new_tokens=6)
    assert saved.generate([Request("one")], options) == llm.generate([Request("one")], options)
    assert saved.fingerprint.endswith(":nf4-float32")
    with pytest.raises(InvalidOptionError, match="is quantised already: leave `quantize` out"):
        load_llm(tmp_path / "saved", quantize="8bit", device="cpu")


@installed
def test_a_pair_that_was_rewritten_is_refused(folder: Path) -> None:
    llm: Any = load_llm(folder, quantize="4bit", device="cpu")
    layer = llm.model.get_submodule("model.layers.0.self_attn.q_proj")
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelLoadError, match="this 4-bit model was used before it was passed"):
        load_llm((llm.model, llm._tokenizer))


@installed
@KINDS
def test_the_estimate_of_memory_is_near(folder: Path, kind: str) -> None:
    llm: Any = load_llm(folder, quantize=kind, device="cpu")
    estimate = memory.weights_bytes([folder / "model.safetensors"], dtype="float32", quantize=kind)
    assert estimate == pytest.approx(llm.model.get_memory_footprint(), rel=0.05)
