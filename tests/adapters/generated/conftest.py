"""Fixtures of the tests of generated adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from persona.adapters.family import LoraSpec
from persona.adapters.generated.generator import ACTIVATIONS, AdapterGenerator, GeneratorConfig
from persona.adapters.training.trainer import AdapterTrainer
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM


@pytest.fixture(scope="session")
def llm(llama_folder: Path) -> TransformersLM:
    """The very small model, loaded once: nothing here may change it."""
    loaded = load_llm(llama_folder)
    assert isinstance(loaded, TransformersLM)
    return loaded


@pytest.fixture(scope="session")
def trainer(llm: TransformersLM) -> AdapterTrainer:
    return AdapterTrainer(llm, LoraSpec(r=4, alpha=8))


@pytest.fixture(scope="session")
def generator(trainer: AdapterTrainer) -> AdapterGenerator:
    """One with random weights, the heads of B too."""
    config = GeneratorConfig(ACTIVATIONS, trainer.family.name, dim=32, surprise=64, width=16, heads=2, tokens=8)
    made = AdapterGenerator(config, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for head in made.writer.heads_b:
            torch.nn.init.normal_(head.weight)  # type: ignore[arg-type]
    return made.eval()
