"""Generators: what an untrained one writes, and what comes back from a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from persona.adapters.family import AdaptedModule
from persona.adapters.few_records.routed import record_vectors
from persona.adapters.generated.generator import ACTIVATIONS, VECTOR, AdapterGenerator, GeneratorConfig, load_generator
from persona.adapters.generated.network import layers_of
from persona.adapters.generated.reading import ActivationReader
from persona.adapters.training.lessons import TokenExample
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError


def vector_generator(trainer: AdapterTrainer, seed: int = 0) -> AdapterGenerator:
    return AdapterGenerator(GeneratorConfig(VECTOR, trainer.family.name, dim=6, width=8, heads=2), seed=seed)


def test_an_untrained_one_changes_nothing(trainer: AdapterTrainer) -> None:
    rows = vector_generator(trainer).of_vectors(torch.randn(3, 6), torch.tensor([1.0, 2.0, 9.0]))
    assert rows.shape == (3, trainer.family.size)
    for a, b in trainer.family.pairs(rows):
        assert not b.any()
        assert a.std() > 0
    assert not torch.equal(rows[0], rows[1])


def test_without_a_user_every_input_gives_the_same(trainer: AdapterTrainer) -> None:
    shape = GeneratorConfig(VECTOR, trainer.family.name, dim=6, width=8, heads=2, with_user=False)
    rows = AdapterGenerator(shape).of_vectors(torch.randn(2, 6), torch.tensor([1.0, 30.0]))
    assert torch.equal(rows[0], rows[1])


def test_a_chunk_does_not_depend_on_its_padding_or_company(generator: AdapterGenerator) -> None:
    states, marks = torch.randn(2, 2, 3, 8, 32), torch.ones(2, 3, 8, dtype=torch.long)
    marks[0, 2:] = 0
    surprises = torch.randn(2, 64)
    both = generator.of_chunks(states, marks, surprises, torch.tensor([2.0, 3.0]))
    alone = generator.of_chunks(states[:1, :, :2], marks[:1, :2], surprises[:1], torch.tensor([2.0]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
    assert both.shape == (2, generator.chunk_family.size)


def test_the_layers_inputs_are_read_at_the_last_tokens(trainer: AdapterTrainer) -> None:
    examples = [TokenExample((0, 9, 10, 11), (12, 1)), TokenExample((0, 7), (8, 9, 1))]
    read = ActivationReader(trainer, 3)(examples)
    assert read.marks.tolist() == [[1, 1, 2], [1, 2, 2]]
    model = trainer.llm.model
    with torch.no_grad():
        hidden = model(torch.tensor([[0, 9, 10, 11, 12]]), output_hidden_states=True).hidden_states
        for layer in range(2):
            expected = model.model.layers[layer].input_layernorm(hidden[layer])[0, -3:]
            torch.testing.assert_close(read.states[0, layer], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read.surprises, record_vectors(trainer, examples))
    short = ActivationReader(trainer, 6)(examples[1:])
    assert short.marks.tolist() == [[0, 0, 1, 1, 2, 2]]
    assert not short.states[0, :, :2].any()


def test_modules_are_put_into_layers_by_their_first_number() -> None:
    names = ["h.0.attn", "h.0.mlp.1", "h.1.attn", "head"]
    assert layers_of([AdaptedModule(name, 4, 4) for name in names]) == [[0, 1], [2], [3]]
    with pytest.raises(InvalidOptionError, match=r"must read vectors of one length, were: \[4, 5\]"):
        layers_of([AdaptedModule("h.0.a", 4, 4), AdaptedModule("h.1.a", 5, 4)])


def test_a_folder_gives_back_the_same_generator(generator: AdapterGenerator, tmp_path: Path) -> None:
    generator.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"generator.json", "generator.safetensors"}
    loaded = load_generator(tmp_path)
    assert (loaded.config, loaded.fingerprint) == (generator.config, generator.fingerprint)
    inputs = torch.randn(1, 2, 1, 8, 32), torch.ones(1, 1, 8, dtype=torch.long), torch.randn(1, 64), torch.ones(1)
    assert torch.equal(loaded.of_chunks(*inputs), generator.of_chunks(*inputs))
    loaded.check_fits(generator.family)
    with pytest.raises(FingerprintMismatchError, match="load that LLM and task adapter"):
        loaded.check_fits(replace(generator.family, base="another@model"))
    content = json.loads((tmp_path / "generator.json").read_text())
    content["shape"]["width"] = 32
    (tmp_path / "generator.json").write_text(json.dumps(content))
    with pytest.raises(ModelLoadError, match="holds no generator of adapters"):
        load_generator(tmp_path)
    (tmp_path / "generator.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="holds no generator of adapters"):
        load_generator(tmp_path)


def test_shapes_that_cannot_be(trainer: AdapterTrainer) -> None:
    shape = GeneratorConfig(ACTIVATIONS, trainer.family.name, dim=4)
    for change, message in (
        ({"kind": "words"}, "must be one of vector, activations, routed, was: 'words'"),
        ({"chunk_rank": 3}, "must divide the adapters' rank, 4, was: 3"),
        ({"heads": 5}, "must be a multiple of `heads`, 5, was: 64"),
        ({"tokens": 0}, "`tokens` must be at least 1, was: 0"),
    ):
        with pytest.raises(InvalidOptionError, match=message):
            replace(shape, **change)
