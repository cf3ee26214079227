"""What objectives that compare users share: InfoNCE over the users of a step, and records as points on a sphere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.training.objectives.base import Step


def contrast(states: Tensor, anchors: Tensor, temperature: float, others: Tensor | None = None) -> Tensor:
    """-log softmax of each state's cosine with its anchor among it and those of others, mean.

    Args:
        states: of users.  # (users, size)
        anchors: one for each.  # (users, size)
        temperature: the cosines are divided by it.
        others: whose anchors each is told from (`Step.others`); None for all of them.  # (users, users)

    Returns:
        0 where there is no other.  # ()
    """
    scores = F.normalize(states, dim=1) @ F.normalize(anchors, dim=1).T / temperature
    if others is not None:
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~(others | own), -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def own_records(step: Step) -> Tensor:
    """A record of each user, drawn: one that the example's history lacks, where there is one.  # (shown, value_dim)"""
    drawn = []
    for example in step.shown:
        values = step.examples.histories[example.user_id].values
        left_out = np.setdiff1d(np.arange(len(values)), example.rows)
        drawn.append(values[step.draw.choice(left_out if len(left_out) else example.rows)])
    return torch.from_numpy(np.stack(drawn)).to(step.loss.device).float()


def on_sphere(values: Tensor, blocks: Sequence[int]) -> Tensor:
    """Records as vectors of length 1, in which all blocks of a value count alike.  # (..., value_dim)"""
    unit = [F.normalize(part, dim=-1) for part in torch.split(values, list(blocks), dim=-1)]
    return F.normalize(torch.cat(unit, dim=-1), dim=-1)
