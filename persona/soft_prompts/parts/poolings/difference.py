"""What a user has beyond like users: the mean record less a weighted mean of peers.

With m the mean of a user's records, and p_j learned vectors that stand for kinds of users,

    d = m - c * sum_j softmax_j(m . p_j / sqrt(width)) p_j

c is `weight`. A constant that all users share says nothing of one user; it is what the vectors p_j learn to hold.
The input is that of difference-aware personalization, which compares a user with others; learned vectors stand for them
here, so that no other user's record is needed to answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records


class DifferencePooling(Pooling):
    """The difference of the module's docstring, with a number of `peers`."""

    def __init__(self, config: UserEmbedderConfig, *, peers: int = 16, weight: float = 1.0) -> None:
        super().__init__()
        self.size, self.weight = config.width, weight
        self.peers = nn.Parameter(torch.randn(peers, config.width) / config.width**0.5)

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, width)"""
        mean = records.mean()
        shares = (mean @ self.peers.T / self.size**0.5).softmax(-1)
        difference: Tensor = mean - self.weight * shares @ self.peers
        return difference
