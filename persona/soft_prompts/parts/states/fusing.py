"""Two sources in one code, brought together step by step, so that neither drowns the other.

With m the mixed heads, which the loss of the LLM shapes, t the usual answer, a mean of texts, and n calls in training,

    a = W_m m + b      b = W_t t      z = a + min(1, n / fuse) * min(1, |a| / |b|) * b

and 1 - cos(a, b) is added to the loss: the two are aligned first, then one is faded into the other; only z is coded.

Source: the progressive fusion before quantisation of PRORec ("Progressive Collaborative and Semantic Knowledge Fusion
for Generative Recommendation"), which keeps the semantic side of an item from dominating its code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.states.projection import SLOW, Projection


class Fused(Projection):
    """The projection of the module's docstring; in evaluation the fusion is whole."""

    calls: Tensor

    def __init__(self, config: UserEmbedderConfig, size: int, dim: int, fuse: int) -> None:
        super().__init__(config, size, dim, each=False)
        if size == config.width:
            raise InvalidOptionError("`fuse` fuses the usual answer with the heads: it needs answer tokens")
        self.width, self.fuse = config.width, fuse
        self.register_buffer("calls", torch.zeros(()))
        self._apart = torch.zeros(())

    def forward(self, state: Tensor) -> Tensor:
        """z.  # (batch, dim)"""
        super().forward(state)  # the first batch gives it its components
        mixed, usual = (state * self.scale).tensor_split([self.width], dim=1)
        first = SLOW * F.linear(mixed, self.down.weight[:, : self.width], self.down.bias)
        second = SLOW * F.linear(usual, self.down.weight[:, self.width :])
        self._apart = 1 - F.cosine_similarity(first, second).mean()
        share = 1.0
        if self.learning:
            self.calls += 1
            share = min(1.0, float(self.calls) / self.fuse)
        length, of_usual = (torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (first, second))
        coded: Tensor = first + share * (length / of_usual.clamp_min(1e-12)).clamp_max(1).detach() * second
        return coded

    def loss(self, state: Tensor, back: Tensor) -> Tensor:
        """The loss of a projection, and how far the two of the last call are apart.  # ()"""
        return super().loss(state, back) + self._apart
