"""Objectives: their contract in a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.parts.registry import PARTS, made
from persona.soft_prompts.training.examples import Examples
from persona.soft_prompts.training.objectives.base import Step
from persona.soft_prompts.training.objectives.templates import said_of_user
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.soft_prompts.training.tokens import ExampleTokens
from tests.soft_prompts.splits import fresh, train, world_split

SMALL = UserEmbedderTraining(
    warm_up=2, steps=4, batch=4, ks=(0,), leave_one_out=2, evaluate_every=2, validation_users=0.25, new_user_steps=0
)


def trained(llm: Any, encoder: Any, out: Path, stop: int | None = None, **options: Any) -> UserEmbedder:
    """A short training, stopped after a step; the losses of its steps lie in ``out / "losses"``."""

    def progress(each: Any) -> None:
        with (out / "losses").open("a") as file:
            file.write(f"{each.loss}\n")
        if (each.stage, each.done) == ("answers", stop):
            raise KeyboardInterrupt

    out.mkdir(exist_ok=True)
    embedder = fresh(llm, encoder, copies=False)
    train(embedder, world_split("LaMP_3", 8), llm, encoder, replace(SMALL, **options), out, progress=progress)
    return embedder


@pytest.fixture(scope="module")
def plain(tiny: Any, encoder: Any, tmp_path_factory: Any) -> str:
    """The losses of a training without objectives."""
    out = tmp_path_factory.mktemp("plain")
    trained(tiny, encoder, out)
    return str((out / "losses").read_text())


@pytest.mark.parametrize("name", PARTS["objective"])
def test_an_objective_changes_the_training_and_resumes_to_the_same_weights(
    tiny: Any, encoder: Any, tmp_path: Path, plain: str, name: str
) -> None:
    whole = trained(tiny, encoder, tmp_path / "whole", objectives=name)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, tmp_path / "stopped", stop=3, objectives=name)
    resumed = trained(tiny, encoder, tmp_path / "stopped", objectives=name)
    assert resumed.fingerprint == whole.fingerprint
    assert (tmp_path / "whole/losses").read_text() != plain
    assert set(whole.state_dict()) == set(fresh(tiny, encoder).state_dict())  # what an objective learns is not kept


@pytest.fixture(scope="module")
def step(tiny: Any, encoder: Any) -> Step:
    """A step of the user embedder without further parts."""
    return step_of(tiny, encoder)


def step_of(llm: Any, encoder: Any, **parts: str) -> Step:
    """Four examples of two users with all their records, and an embedder that tells users apart."""
    embedder = fresh(llm, encoder, copies=False, **parts)
    draw = torch.Generator().manual_seed(0)
    for parameter in embedder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    split = world_split("LaMP_3", 8)
    examples = Examples(split, HistoryReader(embedder.config, encoder), SMALL)
    shown = [each for each in examples.train if each.user_id in examples.users[:2] and each.from_record]
    histories = [examples.shown(example, SMALL) for example in shown]
    tokens = ExampleTokens(split.task, llm, None, 2, 256)
    return Step(embedder, shown, histories, examples, np.random.default_rng(0), tokens, TargetLoss(llm), warm_up=True)


def term(step: Step, name: str) -> Tensor:
    """What an objective adds; its gradients are finite."""
    torch.manual_seed(0)
    (objective,) = made("objective", name, step.embedder.config, sum(step.embedder.pooling.sizes))
    step.embedder.zero_grad()
    added: Tensor = objective(replace(step, draw=np.random.default_rng(0)))
    if added.requires_grad:
        added.backward()  # type: ignore[no-untyped-call]
        learned = [*step.embedder.parameters(), *objective.parameters()]
        assert all(bool(each.grad.isfinite().all()) for each in learned if each.grad is not None)
    return added.detach()


@pytest.mark.parametrize("name", PARTS["objective"])
def test_empty_histories_add_nothing_and_one_example_adds_a_number(step: Step, name: str) -> None:
    assert term(step, name) != 0
    nothing = [history.nothing() for history in step.histories]
    assert term(replace(step, histories=nothing), name) == 0
    some = replace(step, histories=[*nothing[:1], *step.histories[1:]])
    torch.testing.assert_close(term(some, name), term(step.only(range(1, len(step.shown))), name))
    alone = step.only([0])
    assert bool(term(alone, name).isfinite())
    if name in ("noise", "masked", "metric"):  # nobody to be told from
        assert term(alone, name) == 0
        of_one = [row for row, each in enumerate(step.shown) if each.user_id == step.shown[0].user_id]
        assert len(of_one) > 1
        assert term(step.only(of_one), name) == 0


def test_a_caption_is_the_llms_loss_of_what_is_said_of_the_user(step: Step) -> None:
    """Row 21: of the families of templates this one alone, the first 32 tokens of the sentence."""
    pairs = [said_of_user(step.tokens.task, example) for example in step.shown]
    prompts, said = zip(*[pair for pair in pairs if pair], strict=True)
    llm = step.loss.llm
    targets = [target[:32] for target in llm.target_ids(said)]
    with torch.no_grad():
        expected = step.loss(llm.prompt_ids(prompts), targets, *step.given()).mean()
    torch.testing.assert_close(term(step, "templates(weight=1, usual=0, record=0, caption=1)"), expected)


def test_without_the_user_there_is_nothing_to_add(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    one = trained(tiny, encoder, tmp_path / "one", without_user=True)
    other = trained(tiny, encoder, tmp_path / "other", without_user=True, objectives="noise")
    assert one.fingerprint == other.fingerprint


def test_objectives_that_are_none(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"a user embedder's objective must be one of .*noise"):
        trained(tiny, encoder, tmp_path, objectives="nois")
    with pytest.raises(InvalidOptionError, match="parts are given as"):
        UserEmbedderTraining(objectives="noise +")


@pytest.mark.parametrize("name", ["context", "preference", "auxiliary", "templates"])
def test_the_llm_is_told_all_that_is_said_of_a_user(tiny: Any, llama_folder: Path, encoder: Any, name: str) -> None:
    """Vectors behind the LLM's blocks as well as soft tokens; row 41 reads an encoder, which has none."""
    llm = load_llm(llama_folder, overlong="truncate") if name == "context" else tiny
    told = step_of(llm, encoder, tokens="bands")
    term(told, name)
    gradients = [each.grad for each in told.embedder.pooling.tokens.write.parameters()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)
