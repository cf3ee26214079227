"""A state of few numbers: which dimensions are kept is learned.

With a one learned number per dimension, g = sigmoid(a), and t the `keep`-th largest g,

    s' = s * g * [g >= t]

In the backward pass the bracket counts as 1, so that a dimension that is left out can come back.

Source: differentiable neural input search (DNIS), soft selection of embedding dimensions; here for all users at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import State

_BITS = 16


class PrunedState(State):
    """The gates of the module's docstring; the kept numbers are stored in float16."""

    def __init__(self, config: UserEmbedderConfig, size: int, *, keep: int = 64) -> None:
        super().__init__()
        if not 1 <= keep <= size:
            raise InvalidOptionError(f"the state has {size} numbers: `keep` must be from 1 to {size}, was: {keep}")
        self.keep, self.bits = keep, _BITS * keep
        self.gates = nn.Parameter(1 + 0.01 * torch.randn(size))

    def forward(self, state: Tensor) -> Tensor:
        """See the module.  # (batch, size)"""
        open_ = self.gates.sigmoid()
        kept = torch.zeros_like(open_).scatter(0, open_.topk(self.keep).indices, 1.0)
        soft = state * open_
        return soft + (soft * kept - soft).detach()
