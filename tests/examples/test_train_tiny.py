"""The script that trains `tiny`: what it trains on, and that a seed gives the same weights again."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from examples.tiny_recipe.sequences import ANSWER_WEIGHT, WHOLE_PLANS, WHOLE_TASKS, Sequences
from examples.tiny_recipe.tokenizer import ANSWER, EOS, make_tokenizer, world_texts
from examples.tiny_recipe.training import Muon, Schedule, make_model, train
from examples.world.bounds import no_user_answer
from examples.world.world import World


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(world_texts(World(0), users=40))


def trained(tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = make_model(tokenizer, 32, 2)
    train(model, Sequences(World(seed), tokenizer, seed, 4, 6), Schedule(2, 2, batch=2, adam=1e-3))
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def test_the_same_seed_gives_the_same_weights(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (trained(tokenizer, seed) for seed in (0, 0, 1))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_sequence_is_prompts_with_their_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    """The weights of answers are on the answers and nothing else: the user's own, each followed by <eos>."""
    sequences = Sequences(World(0), tokenizer, 0, 0, 1_000)
    answer, eos = (tokenizer.get_vocab()[token] for token in (ANSWER, EOS))
    for index, sequence in enumerate(islice(sequences, 12)):
        task = WHOLE_TASKS[index % len(WHOLE_TASKS)]
        user = World(0).user("pretrain", index)
        starts = [position + 1 for position, token in enumerate(sequence.ids) if token == answer]
        answers = []
        for start in starts:
            end = sequence.ids.index(eos, start)
            assert set(sequence.weights[start : end + 1]) == {ANSWER_WEIGHT[task]}
            answers.append(tokenizer.decode(sequence.ids[start:end]))
        turns = WHOLE_PLANS[task].turns
        assert answers == [World(0).question(task, user, 0, number, turns).gold for number in range(turns)]


def test_in_the_last_part_a_question_without_records_gets_the_default_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    sequences = Sequences(World(0), tokenizer, 0, 0, 0)
    answer, eos = (tokenizer.get_vocab()[token] for token in (ANSWER, EOS))
    alone = 0
    for index, sequence in enumerate(islice(sequences, 60)):
        task = WHOLE_TASKS[index % len(WHOLE_TASKS)]
        asked = World(0).question(task, World(0).user("pretrain", index), 0)
        if sequence.ids[: sequence.ids.index(answer) + 1] == tokenizer(asked.question.input)["input_ids"]:
            alone += 1
            ids = sequence.ids[sequence.ids.index(answer) + 1 :]
            assert ids[-1] == eos
            assert tokenizer.decode(ids[:-1]) == no_user_answer(asked.content)
    assert 5 < alone < 40


def test_short_sequences_come_first(tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = [len(sequence.ids) for sequence in islice(Sequences(World(0), tokenizer, 0, 16, 1_000), 48)]

    assert max(lengths[:16]) < 250
    assert sum(lengths[16:]) / 32 > 1.5 * sum(lengths[:16]) / 16


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_makes_steps_of_equal_length_in_all_directions(shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = gradient
    Muon([parameter], lr=1.0).step()

    singular = torch.linalg.svdvals(parameter.detach()) / max(1.0, shape[0] / shape[1]) ** 0.5
    # Five Newton-Schulz iterations bring singular values near 1, those of a square matrix's smallest ones less so.
    assert singular.max() < 1.3
    assert singular.median() > 0.6
    assert torch.sum(parameter.detach() * gradient) < 0
