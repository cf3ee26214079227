"""Noise on records that must not move a user's state: norm-scaled perturbation and anchored InfoNCE.

With z_u the state of user u, x_i the value of a record, n a vector of Gaussian noise and z'_u the state from

    x'_i = x_i + eps * |x_i| * n / |n|        L = -log softmax_v(cos(z'_u, z_v) / tau)[u]

over u and the other users v of the step: z_u is the anchor, and gradients go through both.

Source: the modulus-guided perturbation of "Semantic Item Graph Enhancement for Multimodal Recommendation", transferred
from items to a user's records.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.training.objectives.base import Objective, Step
from persona.soft_prompts.training.objectives.contrast import contrast


class NoiseObjective(Objective):
    """The InfoNCE of the module's docstring; `scale` is eps, `temperature` tau."""

    def __init__(
        self, config: Any, state_size: int, *, weight: float = 0.1, scale: float = 0.5, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.weight, self.scale, self.temperature = weight, scale, temperature

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        batch = step.batch(step.histories)
        draw = torch.Generator().manual_seed(int(step.draw.integers(2**31)))
        noise = torch.randn(batch.values.shape, generator=draw).to(batch.values)
        moved = step.state(batch, perturbed(batch.values, noise, self.scale))
        return contrast(moved, step.state(batch), self.temperature, step.others())


def perturbed(values: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Values moved by `scale` of their length in the direction of the noise.  # (..., dim)"""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    moved: Tensor = values + scale * length * F.normalize(noise, dim=-1)
    return moved
