"""Training generators: users of two kinds are told apart from what is read of them, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from persona.adapters.examples import Example
from persona.adapters.generated.generator import ACTIVATIONS, VECTOR
from persona.adapters.generated.training import CHECKPOINT, GeneratorTraining, train_generator
from persona.adapters.training.lessons import TokenExample
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import InvalidOptionError
from persona.llm.checkpoint import hash_parameters

OPTIONS = GeneratorTraining(
    ACTIVATIONS, steps=60, users=6, learning_rate=0.01, evaluate_every=20, validation=0.2, width=16, blocks=1, tokens=6
)


def users(trainer: AdapterTrainer, count: int = 16) -> list[tuple[TokenExample, ...]]:
    """Even users answer always 1, odd ones always 2."""
    return [
        trainer.tokens([Example(f"film {user} {place}", str(1 + user % 2)) for place in range(5)])
        for user in range(count)
    ]


@pytest.fixture(scope="module")
def prior(trainer: AdapterTrainer) -> torch.Tensor:
    examples = [Example(f"film {user} 9", str(1 + user % 2)) for user in range(16)]
    return trainer.train_prior(examples).row


@pytest.mark.parametrize("kind", [VECTOR, ACTIVATIONS])
def test_it_tells_users_apart_and_leaves_the_llm_alone(trainer: AdapterTrainer, prior: torch.Tensor, kind: str) -> None:
    before = hash_parameters(trainer.llm.model)
    options = replace(OPTIONS, kind=kind)
    done = train_generator(trainer, users(trainer), options, prior=prior)
    assert done.loss < done.loss_before / 2
    without = train_generator(trainer, users(trainer), replace(options, with_user=False), prior=prior)
    assert done.loss < 0.75 * without.loss
    assert hash_parameters(trainer.llm.model) == before
    done.generator.check_fits(trainer.family.over(prior))


def test_any_vector_of_a_user_will_do(trainer: AdapterTrainer, prior: torch.Tensor) -> None:
    vectors = [torch.tensor([[float(user % 2), 0.5]]) for user in range(16)]
    done = train_generator(trainer, users(trainer), replace(OPTIONS, kind=VECTOR), prior=prior, vectors=vectors)
    assert done.generator.config.dim == 2
    assert done.loss < done.loss_before / 2


def test_a_killed_run_goes_on_to_the_same_weights(trainer: AdapterTrainer, prior: torch.Tensor, tmp_path: Path) -> None:
    options, own = replace(OPTIONS, distil=0.5, steps=8, evaluate_every=3), users(trainer, 8)
    whole = train_generator(trainer, own, options, prior=prior).generator

    def kill(steps: int, seconds: float) -> None:
        if steps == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(trainer, own, options, prior=prior, folder=tmp_path, progress=kill)
    with pytest.raises(InvalidOptionError, match="checkpoint of a run with other options"):
        train_generator(trainer, own, replace(options, seed=1), prior=prior, folder=tmp_path)
    steps: list[int] = []
    gone_on = train_generator(
        trainer, own, options, prior=prior, folder=tmp_path, progress=lambda done, seconds: steps.append(done)
    ).generator
    assert steps == [4, 5, 6, 7, 8]
    assert gone_on.fingerprint == whole.fingerprint
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_divergence_is_from_the_llm_with_the_records_in_its_prompt(trainer: AdapterTrainer) -> None:
    own, other = users(trainer, 1)[0][:2], users(trainer, 1)[0][2]
    row = torch.zeros(1, trainer.family.size)
    with trainer.stacked(None) as losses:
        found = losses.divergences(row, [[other]], [own])
    model, records = trainer.llm.model, [token for each in own for token in (*each.prompt, *each.target)]
    size = len(other.target)

    def scores(before: list[int]) -> torch.Tensor:
        with torch.no_grad():
            ids = torch.tensor([[*before, *other.prompt, *other.target[:-1]]])
            scored: torch.Tensor = model(ids).logits[0, -size:].log_softmax(-1)
            return scored

    with_records, plain = scores(records), scores([])
    expected = (with_records.exp() * (with_records - plain)).sum(1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-3)
    assert float(expected) > 0.01


def test_options_that_cannot_be(trainer: AdapterTrainer) -> None:
    with pytest.raises(InvalidOptionError, match="at least 4 users with 2 examples each, was: 3"):
        train_generator(trainer, users(trainer, 3))
    for change, message in (
        ({"records": 2}, "`records` must be above `targets`, 2, was: 2"),
        ({"validation": 1.0}, "`validation` must be above 0"),
        ({"distil": -1.0}, "`distil` must be at least 0"),
        ({"steps": 0}, "`steps` must be at least 1, was: 0"),
    ):
        with pytest.raises(InvalidOptionError, match=message):
            GeneratorTraining(**change)
