"""Objectives: their contract in a training, and their formulas by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from persona.errors import InvalidOptionError
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.parts.registry import PARTS
from persona.soft_prompts.training.objectives.noise import contrast, perturbed
from persona.soft_prompts.training.options import UserEmbedderTraining
from tests.soft_prompts.splits import fresh, train, world_split

SMALL = UserEmbedderTraining(
    warm_up=2, steps=4, batch=4, ks=(0,), leave_one_out=2, evaluate_every=2, validation_users=0.25, new_user_steps=0
)


def trained(llm: Any, encoder: Any, out: Path, stop: int | None = None, **options: Any) -> UserEmbedder:
    """A short training, stopped after a step; the losses of its steps lie in ``out / "losses"``."""

    def progress(each: Any) -> None:
        if each.stage == "answers":
            with (out / "losses").open("a") as file:
                file.write(f"{each.loss}\n")
        if (each.stage, each.done) == ("answers", stop):
            raise KeyboardInterrupt

    out.mkdir(exist_ok=True)
    embedder = fresh(llm, encoder, copies=False)
    train(embedder, world_split("LaMP_3", 8), llm, encoder, replace(SMALL, **options), out, progress=progress)
    return embedder


@pytest.mark.parametrize("name", PARTS["objective"])
def test_an_objective_changes_the_training_and_resumes_to_the_same_weights(
    tiny: Any, encoder: Any, tmp_path: Path, name: str
) -> None:
    whole = trained(tiny, encoder, tmp_path / "whole", objectives=name)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, tmp_path / "stopped", stop=3, objectives=name)
    resumed = trained(tiny, encoder, tmp_path / "stopped", objectives=name)
    assert resumed.fingerprint == whole.fingerprint
    trained(tiny, encoder, tmp_path / "plain")
    assert (tmp_path / "whole/losses").read_text() != (tmp_path / "plain/losses").read_text()
    assert set(whole.state_dict()) == set(fresh(tiny, encoder).state_dict())  # what an objective learns is not kept


def test_without_the_user_there_is_nothing_to_add(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    one = trained(tiny, encoder, tmp_path / "one", without_user=True)
    other = trained(tiny, encoder, tmp_path / "other", without_user=True, objectives="noise")
    assert one.fingerprint == other.fingerprint


def test_objectives_that_are_none(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"a user embedder's objective must be one of .*noise"):
        trained(tiny, encoder, tmp_path, objectives="nois")
    with pytest.raises(InvalidOptionError, match="parts are given as"):
        UserEmbedderTraining(objectives="noise +")


def test_norm_scaled_noise_by_hand() -> None:
    """Row 2: a record of length 5 moves by a fifth of it; a record of zeros stays."""
    values, noise = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, -2.0], [1.0, 0.0]])
    torch.testing.assert_close(perturbed(values, noise, 0.2), torch.tensor([[3.0, 3.0], [0.0, 0.0]]))


def test_the_contrast_with_anchors_by_hand() -> None:
    """Row 2: two users at right angles, temperature 1: each keeps its own anchor with e / (e + 1)."""
    anchors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = torch.tensor(math.log(math.e + 1) - 1)
    torch.testing.assert_close(contrast(torch.eye(2), anchors, 1.0), expected)
