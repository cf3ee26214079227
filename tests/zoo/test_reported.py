"""What was reported of real models, as it was reported; the zoo has the kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family, LoraSpec, find_modules
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.stacked import StackedLoRA
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.versions import AdapterDraft
from persona.protocols import GenerationOptions, Request
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.zoo.tiny_models import tiny_llm, tiny_model

PROMPTS = ["hello", "a much longer prompt than the others", "mid size", "z"]
OPTIONS = GenerationOptions(max_new_tokens=6)


@pytest.mark.parametrize(
    "name",
    [
        "T5ForConditionalGeneration",
        "LEDForConditionalGeneration",
        "FSMTForConditionalGeneration",
        "NllbMoeForConditionalGeneration",
    ],
)
def test_users_of_a_pool_keep_their_own_adapters(name: str, tmp_path: Path) -> None:
    llm, spec, users = tiny_llm(name), LoraSpec(r=4, alpha=8), ("ana", "bo", "cy")
    generator = torch.Generator().manual_seed(1)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([(user, Record("x")) for user in users])
        bank, family = AdapterBank(store), Family(llm.fingerprint, spec, find_modules(llm.model, spec))
        bank.add_family(family, None)
        rows = {user: torch.randn(family.size, generator=generator) * 0.2 for user in users}
        drafts = [AdapterDraft(user, row, store.profile(user).revision) for user, row in rows.items()]
        names = [adapter.name for adapter in bank.publish(family, drafts)]
        with AdapterPool(bank, llm):
            asked = [Request(prompt, adapter=name) for prompt, name in zip(PROMPTS, [*names, None], strict=True)]
            alone = [llm.generate([request], OPTIONS)[0] for request in asked]
            assert llm.generate(asked, OPTIONS) == alone
            assert alone[:3] != llm.generate([Request(prompt) for prompt in PROMPTS[:3]], OPTIONS)


@pytest.mark.parametrize("targets", [("all-linear",), ("c_attn",)])
def test_gpt2_is_trained(targets: tuple[str, ...]) -> None:
    trainer = AdapterTrainer(tiny_llm("GPT2LMHeadModel"), LoraSpec(r=4, targets=targets))
    assert {module.name.rpartition(".")[2] for module in trainer.family.modules} >= {"c_attn"}


@pytest.mark.parametrize("name", ["Llama4ForCausalLM", "PhimoeForCausalLM", "MixtralForCausalLM"])
def test_routers_do_not_stop_the_first_request(name: str) -> None:
    model = tiny_model(name)
    with torch.no_grad(), StackedLoRA(model, LoraSpec(r=2), slots=1) as stack, stack.rows([1, None]):
        assert model(input_ids=torch.randint(3, 300, (2, 7))).logits.isfinite().all()


@pytest.mark.parametrize(
    "name",
    [
        "BambaForCausalLM",
        "FalconH1ForCausalLM",
        "OpenAIGPTLMHeadModel",
        "Gemma4ForCausalLM",
        "Gemma3ForConditionalGeneration",
    ],
)
def test_soft_prompts_of_models_whose_generate_takes_no_embeddings(name: str) -> None:
    llm = tiny_llm(name)
    assert llm.generate([Request("hi", soft_prompt=torch.randn(3, llm.hidden_size))], OPTIONS)


@pytest.mark.parametrize(
    "name",
    ["MambaForCausalLM", "RecurrentGemmaForCausalLM", "RwkvForCausalLM", "BartForCausalLM", "RoFormerForCausalLM"],
)
def test_padding_does_not_leak(name: str) -> None:
    llm = tiny_llm(name)
    alone = [llm.generate([Request(prompt)], OPTIONS)[0] for prompt in PROMPTS]
    assert llm.generate([Request(prompt) for prompt in PROMPTS], OPTIONS) == alone
