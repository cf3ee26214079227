"""From a state to the few numbers that are coded, and back.

    z = W (c * s) + b        s' = (V z + v) / c

c makes the usual answer, a mean of unit vectors, as long as the mixed heads. The first batch of a training gives W the
principal components of the states in it, V their transpose, and b and v what centres them; then they learn slowly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig

SLOW = 0.1
"""What the maps' weights are multiplied by, so that steps of a training move them less."""

_LEAST = 0.1
"""Deviation of a component over that of the first, below which it is not stretched further."""


class Projection(nn.Module):
    """The two maps of the module's docstring.

    Args:
        config: of the user embedder.
        size: numbers of a state.
        dim: numbers that are coded.
        each: whether each of them begins with a deviation of 1, or all together.
    """

    scale: Tensor
    begun: Tensor

    def __init__(self, config: UserEmbedderConfig, size: int, dim: int, *, each: bool) -> None:
        super().__init__()
        if not 1 <= dim <= size:
            raise InvalidOptionError(f"a state of {size} numbers is coded by 1 to {size} of its own, was: {dim}")
        self.each = each
        self.down, self.up = nn.Linear(size, dim), nn.Linear(dim, size)
        nn.init.orthogonal_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)
        self.down.weight.data /= SLOW
        self.up.weight.data.copy_(self.down.weight.data.T)
        scale = torch.ones(size)
        scale[config.width :] = config.encoder_dim**0.5
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, state: Tensor) -> Tensor:
        """z.  # (batch, dim)"""
        state = state * self.scale
        if self.learning and not self.begun:
            self._begin(state.detach())
        coded: Tensor = SLOW * self.down(state)
        return coded

    def back(self, coded: Tensor) -> Tensor:
        """s'.  # (batch, size)"""
        state: Tensor = SLOW * self.up(coded) / self.scale
        return state

    def loss(self, state: Tensor, back: Tensor) -> Tensor:
        """|s - s'|^2, which says nothing to the state itself.  # ()"""
        return F.mse_loss(back * self.scale, (state * self.scale).detach())

    @property
    def learning(self) -> bool:
        """Whether it is trained: not only others are, and validation users are not looked at."""
        return self.training and self.down.weight.requires_grad and torch.is_grad_enabled()

    @torch.no_grad()
    def _begin(self, states: Tensor) -> None:
        mean = states.mean(0)
        _, _, components = torch.linalg.svd(states - mean, full_matrices=False)
        # What the batch does not span is filled up with what is there.
        basis = torch.linalg.qr(torch.cat((components, self.down.weight)).T)[0][:, : len(self.down.weight)]
        deviation = ((states - mean) @ basis).square().mean(0).sqrt()  # (dim,)
        if not self.each:
            deviation = deviation.square().mean().sqrt().expand_as(deviation)
        deviation = deviation.clamp_min(max(_LEAST * float(deviation.max()), 1e-6))
        self.down.weight.copy_((basis / deviation).T / SLOW)
        self.up.weight.copy_(basis * deviation / SLOW)
        self.down.bias.copy_(-self.down.weight @ mean)
        self.up.bias.copy_(mean / SLOW)
        self.begun.fill_(True)
