"""Users whose records differ are spread over the sphere, and two halves of one history fall together.

With z_u and z'_u the states, of length 1, from two halves of a history, and c_u the content of a user's records,

    L = mean_u |z_u - z'_u|^2 + log (sum_uv d_uv exp(-t |z_u - z_v|^2) / sum_uv d_uv)
    d_uv = (1 - cos(c_u, c_v)) / 2

over pairs of different users of the step: alignment, and uniformity calibrated by dissimilarity, so that users who
write about the same need not be pushed apart. c_u is fused on the sphere from the mean vectors of texts and targets: a
spherical Bezier curve, by De Casteljau's construction with

    slerp(a, b, s) = (sin((1 - s) w) a + sin(s w) b) / sin w        cos w = a . b

Sources: alignment and uniformity of "Understanding Contrastive Representation Learning through Alignment and Uniformity
on the Hypersphere" (arXiv 2005.10242); calibration and spherical Bezier fusion of CM3 for multimodal recommendation,
transferred from items to users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.histories import History
from persona.soft_prompts.training.objectives.base import Objective, Step

_NEARLY_ONE = 1 - 1e-6


class UniformityObjective(Objective):
    """The sum of the module's docstring; `sharpness` is t."""

    def __init__(self, config: Any, state_size: int, *, weight: float = 0.1, sharpness: float = 2.0) -> None:
        super().__init__()
        self.weight, self.sharpness, self.blocks = weight, sharpness, config.view_dims

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        cut = [halves(history, step.draw) for history in step.histories]
        one, other = (F.normalize(step.states(half), dim=1) for half in zip(*cut, strict=True))
        values = step.batch(step.histories).values.sum(1)  # only its direction counts
        text, target = (F.normalize(part, dim=1) for part in torch.split(values, self.blocks, dim=1)[:2])
        content = slerp_fuse(torch.stack((text, torch.where(target.any(1, keepdim=True), target, text))))
        weights = (1 - content @ content.T) / 2 * step.others()
        alignment = (one - other).square().sum(1).mean()
        return alignment + calibrated_uniformity(one, weights, self.sharpness)


def halves(history: History, draw: np.random.Generator) -> tuple[History, History]:
    """Two random halves of a history; of a single record both are it."""
    order, middle = draw.permutation(len(history)), len(history) // 2
    first, second = np.sort(order[middle:]), np.sort(order[:middle])
    return history.take(first), history.take(second if middle else first)


def calibrated_uniformity(states: Tensor, weights: Tensor, sharpness: float) -> Tensor:
    """log of the weighted mean of exp(-t |z_u - z_v|^2) over pairs; 0 where no pair has a weight.  # ()"""
    total = weights.sum()
    if not total > 0:
        return torch.zeros_like(total)
    kernel = torch.exp(-sharpness * (2 - 2 * states @ states.T))
    return ((weights * kernel).sum() / total).log()


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """The point at `share` of the way between two of length 1, along the sphere.  # (..., dim)"""
    angle = torch.acos((one * other).sum(-1, keepdim=True).clamp(-_NEARLY_ONE, _NEARLY_ONE))
    return F.normalize(torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other, dim=-1)


def slerp_fuse(vectors: Tensor, share: float = 0.5) -> Tensor:
    """Vectors of length 1 fused to one of length 1: the Bezier curve that they control, at `share`.  # (n, ..., dim)"""
    while len(vectors) > 1:
        vectors = slerp(vectors[:-1], vectors[1:], share)
    return vectors[0]
