"""A user's state is nearer to the user's own records than to those of others, by a margin.

With z_u a linear map of the state onto the unit sphere, and x_v a record of user v there,

    L = mean over pairs of different users u, v of the step of max(0, m + |z_u - x_u|^2 - |z_u - x_v|^2)

x_u is drawn; it is one that the example's history lacks (the question is made of it) where there is one.

Source: collaborative metric learning (Hsieh et al., WWW 2017), of users and films there, here of users and their texts.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.training.objectives.base import Objective, Step
from persona.soft_prompts.training.objectives.contrast import on_sphere, own_records


class MetricObjective(Objective):
    """The hinge of the module's docstring; `margin` is m, of squared distances from 0 to 4."""

    def __init__(self, config: Any, state_size: int, *, weight: float = 1.0, margin: float = 0.5) -> None:
        super().__init__()
        self.weight, self.margin, self.blocks = weight, margin, config.view_dims
        self.map = nn.Linear(state_size, config.value_dim, bias=False)

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        states = F.normalize(self.map(step.states(step.histories)), dim=1)
        return hinge(states, on_sphere(own_records(step), self.blocks), step.others(), self.margin)


def hinge(states: Tensor, records: Tensor, others: Tensor, margin: float) -> Tensor:
    """The mean of the module's docstring; 0 where there is no other user.  # ()"""
    distances = 2 - 2 * states @ records.T
    over = (margin + distances.diagonal()[:, None] - distances).clamp_min(0)
    return (over * others).sum() / others.sum().clamp_min(1)
