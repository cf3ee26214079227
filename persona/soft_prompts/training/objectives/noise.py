"""Noise on records that must not move a user's state: norm-scaled perturbation and anchored InfoNCE.

With z_u the state of user u, x_i the value of a record, n a vector of Gaussian noise and z'_u the state from

    x'_i = x_i + eps * |x_i| * n / |n|        L = -log softmax_v(cos(z'_u, z_v) / tau)[u]

over the users v of the step: z_u is the anchor, and gradients go through both.

Source: the modulus-guided perturbation of "Semantic Item Graph Enhancement for Multimodal Recommendation", transferred
from items to a user's records.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.training.objectives.base import Objective, Step


class NoiseObjective(Objective):
    """The InfoNCE of the module's docstring; `scale` is eps, `temperature` tau."""

    def __init__(
        self, config: Any, state_size: int, *, weight: float = 0.1, scale: float = 0.2, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.weight, self.scale, self.temperature = weight, scale, temperature

    def forward(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        batch = step.batch(step.histories)
        draw = torch.Generator().manual_seed(int(step.draw.integers(2**31)))
        noise = torch.randn(batch.values.shape, generator=draw).to(batch.values)
        values = perturbed(batch.values, noise, self.scale)
        keys = values[..., : batch.keys.shape[2]]
        moved = step.embedder.state(keys, values, batch.mask, None, batch.days)
        return contrast(moved, step.states(step.histories), self.temperature)


def perturbed(values: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Values moved by `scale` of their length in the direction of the noise.  # (..., dim)"""
    moved: Tensor = values + scale * torch.linalg.vector_norm(values, dim=-1, keepdim=True) * F.normalize(noise, dim=-1)
    return moved


def contrast(states: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """-log softmax of each state's cosine with its anchor among all anchors, mean.  # ()"""
    scores = F.normalize(states, dim=1) @ F.normalize(anchors, dim=1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(states), device=scores.device))
