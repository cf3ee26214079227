"""Adapters that PEFT made: they answer here as they do there, or are refused by the name of a field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family, find_modules
from persona.adapters.peft_format import CONFIG, import_adapters, read_spec
from persona.adapters.stacked import StackedLoRA
from persona.adapters.versions import StoredAdapter
from persona.errors import DataFormatError
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.store.profile_store import ProfileStore

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.tensor([[0, 5, 6, 7, 8]])


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[AdapterBank]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("a record"))])
        yield AdapterBank(store)


def saved(llama_folder: Path, folder: Path, changes: dict[str, Any], **config: Any) -> Path:
    """An adapter with random weights in PEFT's layout; `changes` go into its config afterwards."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "init_lora_weights": False,
    }
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), LoraConfig(**options | config))
    tuned.save_pretrained(str(folder))
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def imported(bank: AdapterBank, llm: TransformersLM, folder: Path, **options: Any) -> StoredAdapter:
    """The adapter in `folder`, published as ana's in a family of its own."""
    spec = read_spec(folder)
    family = Family(llm.fingerprint, spec, find_modules(llm.model, spec))
    (adapter,) = import_adapters(bank, [folder], family, user_id="ana", **options)
    return adapter


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({}, {}),
        ({"use_rslora": True}, {}),
        ({"target_modules": "all-linear"}, {}),
        ({"target_modules": r".*\.(q_proj|down_proj)"}, {}),
        ({"layers_to_transform": [1]}, {}),
        ({"layers_to_transform": 0, "layers_pattern": "layers"}, {}),
        ({"exclude_modules": ["model.layers.0.self_attn.v_proj"]}, {}),
        ({"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6}}, {}),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}, {}),
        ({}, {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}),
        ({"bias": "none", "lora_dropout": 0.5, "fan_in_fan_out": False}, {}),
    ],
)
def test_answers_are_those_of_peft(
    bank: AdapterBank,
    llm: TransformersLM,
    llama_folder: Path,
    tmp_path: Path,
    config: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    folder = saved(llama_folder, tmp_path / "adapter", changes, **config)
    adapter = imported(bank, llm, folder, model=llm.model)
    there: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), folder)
    with StackedLoRA(llm.model, adapter.family.spec, 1, base=llm.fingerprint) as stack, torch.inference_mode():
        stack.write(1, bank.row(adapter))
        plain = llm.model(input_ids=IDS).logits
        with stack.rows([1]):
            here = llm.model(input_ids=IDS).logits
        torch.testing.assert_close(here, there(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(here, plain, atol=0.05)


@pytest.mark.parametrize(
    ("field", "config", "changes"),
    [
        ("init_lora_weights", {"init_lora_weights": "pissa"}, {}),
        ("init_lora_weights", {"init_lora_weights": "pissa_niter_4"}, {}),
        ("init_lora_weights", {"init_lora_weights": "olora"}, {}),
        ("init_lora_weights", {}, {"init_lora_weights": "corda"}),
        ("init_lora_weights", {}, {"init_lora_weights": "loftq"}),
        ("init_lora_weights", {}, {"init_lora_weights": "lora_ga"}),
        ("init_lora_weights", {}, {"init_lora_weights": "of a later peft"}),
        ("use_dora", {"use_dora": True}, {}),
        ("bias", {"bias": "lora_only"}, {}),
        ("lora_bias", {}, {"lora_bias": True}),
        ("modules_to_save", {"modules_to_save": ["lm_head"]}, {}),
        ("trainable_token_indices", {"trainable_token_indices": [5, 6]}, {}),
        ("alora_invocation_tokens", {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [5]}, {}),
        ("target_parameters", {}, {"target_parameters": ["mlp.experts.gate_up_proj"]}),
        ("layer_replication", {}, {"layer_replication": [[0, 1], [0, 2]]}),
        ("use_qalora", {}, {"use_qalora": True}),
        ("arrow_config", {}, {"arrow_config": {"top_k": 1}}),
        ("base_model_name_or_path", {}, {"base_model_name_or_path": "another/base"}),
        ("layers_to_transform", {}, {"layers_to_transform": [0]}),
        ("exclude_modules", {}, {"exclude_modules": ["q_proj"]}),
    ],
)
def test_what_peft_would_compute_otherwise_is_refused_by_name(
    bank: AdapterBank,
    llm: TransformersLM,
    llama_folder: Path,
    tmp_path: Path,
    field: str,
    config: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    folder = saved(llama_folder, tmp_path / "adapter", changes, **config)
    with pytest.raises(DataFormatError, match=f"this one has .*`{field}`"):
        imported(bank, llm, folder)
    assert not bank.families()


def test_a_base_model_may_have_two_names(
    bank: AdapterBank, llm: TransformersLM, llama_folder: Path, tmp_path: Path
) -> None:
    changes = {"base_model_name_or_path": "/cache/models--meta--Tiny-Llama/snapshots/0123abc"}
    folder = saved(llama_folder, tmp_path / "adapter", changes)
    with pytest.raises(DataFormatError, match="say so with `base_name`"):
        imported(bank, llm, folder)
    assert imported(bank, llm, folder, base_name="meta/tiny-llama").user_id == "ana"
