"""The script that trains `tiny`: what it trains on, and that a seed gives the same weights again."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from persona.eval.world.bounds import no_user_answer
from persona.eval.world.world import World

SCRIPT = Path(__file__).parents[2] / "examples" / "train_tiny.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("train_tiny", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_tiny"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_tiny"]


@pytest.fixture(scope="module")
def tokenizer(script: ModuleType) -> Any:
    return script.make_tokenizer(script.world_texts(World(0), users=40))


def _trained(script: ModuleType, tokenizer: Any, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = script.make_model(tokenizer, 32, 2)
    sequences = script.Sequences(World(seed), tokenizer, seed, 4, 6)
    script.train(model, sequences, short_steps=2, steps=2, batch=2, muon_rate=0.01, adam_rate=1e-3)
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def test_the_same_seed_gives_the_same_weights(script: ModuleType, tokenizer: Any) -> None:
    first, again, other = (_trained(script, tokenizer, seed) for seed in (0, 0, 1))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_sequence_is_prompts_with_their_answers(script: ModuleType, tokenizer: Any) -> None:
    """The weights of answers stand on exactly the answers: the user's own, each followed by <eos>."""
    sequences = script.Sequences(World(0), tokenizer, 0, 0, 1_000)
    answer, eos = (tokenizer.convert_tokens_to_ids(token) for token in (script.ANSWER, script.EOS))
    for index, sequence in enumerate(islice(sequences, 12)):
        task = script.WHOLE_TASKS[index % len(script.WHOLE_TASKS)]
        user = World(0).user("pretrain", index)
        begins = [place + 1 for place, token in enumerate(sequence.ids) if token == answer]
        said = []
        for begin in begins:
            end = sequence.ids.index(eos, begin)
            assert set(sequence.weights[begin : end + 1]) == {script.ANSWER_WEIGHT[task]}
            said.append(tokenizer.decode(sequence.ids[begin:end]))
        turns = script.WHOLE_PLANS[task].turns
        assert said == [World(0).question(task, user, 0, number, turns).gold for number in range(turns)]


def test_at_last_a_question_without_history_gets_the_default_answer(script: ModuleType, tokenizer: Any) -> None:
    sequences = script.Sequences(World(0), tokenizer, 0, 0, 0)
    answer, eos = (tokenizer.convert_tokens_to_ids(token) for token in (script.ANSWER, script.EOS))
    alone = 0
    for index, sequence in enumerate(islice(sequences, 60)):
        task = script.WHOLE_TASKS[index % len(script.WHOLE_TASKS)]
        asked = World(0).question(task, World(0).user("pretrain", index), 0)
        if sequence.ids[: sequence.ids.index(answer) + 1] == tokenizer(asked.question.input)["input_ids"]:
            alone += 1
            said = sequence.ids[sequence.ids.index(answer) + 1 :]
            assert said[-1] == eos
            assert tokenizer.decode(said[:-1]) == no_user_answer(asked.content)
    assert 5 < alone < 40


def test_short_sequences_come_first(script: ModuleType, tokenizer: Any) -> None:
    lengths = [len(sequence.ids) for sequence in islice(script.Sequences(World(0), tokenizer, 0, 16, 1_000), 48)]

    assert max(lengths[:16]) < 250
    assert sum(lengths[16:]) / 32 > 1.5 * sum(lengths[:16]) / 16


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_makes_steps_of_equal_length_in_all_directions(script: ModuleType, shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = gradient
    script.Muon([parameter], lr=1.0).step()

    found = torch.linalg.svdvals(parameter.detach()) / max(1.0, shape[0] / shape[1]) ** 0.5
    # Five Newton-Schulz iterations bring singular values near 1, those of a square matrix's smallest ones less so.
    assert found.max() < 1.3
    assert found.median() > 0.6
    assert torch.sum(parameter.detach() * gradient) < 0
