"""A state of few numbers: which dimensions are kept is learned, and users with many records keep more of them.

With a one learned number per dimension, g = sigmoid(a), n the records of a user, and t_n the k_n-th largest g,

    s' = float16(s * g) * [g >= t_n]      k_n = keep where n >= often, else rare

In the backward pass the bracket and the rounding count as 1, so that a dimension that is left out can come back.

Source: "Differentiable Neural Input Search for Recommender Systems" (DNIS, arXiv 2006.04466), soft selection of
embedding dimensions by frequency.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import State

_BITS = 16


class PrunedState(State):
    """The gates of the module's docstring. `bits` is that of a user with many records.

    Args:
        keep: numbers that are kept.
        rare: those of a user with fewer than `often` records; None for as many.
    """

    def __init__(
        self, config: UserEmbedderConfig, size: int, *, keep: int = 64, rare: int | None = None, often: int = 10
    ) -> None:
        super().__init__()
        self.keep, self.rare, self.often = keep, keep if rare is None else rare, often
        if not 1 <= self.rare <= keep <= size:
            raise InvalidOptionError(
                f"the state has {size} numbers: `keep` must be from 1 to {size} and `rare` no more, "
                f"were: {keep} and {self.rare}"
            )
        self.bits = _BITS * keep
        self.gates = nn.Parameter(1 + 0.01 * torch.randn(size))

    def forward(self, state: Tensor, counts: Tensor) -> Tensor:
        """See the module.  # (batch, size)"""
        soft = state * self.gates.sigmoid()
        ranks = self._order().argsort()  # of each dimension
        kept = soft.half().to(soft) * (ranks < self._kept(counts)[:, None])
        return kept.detach() + (soft - soft.detach())

    @torch.no_grad()
    def written(self, state: Tensor, counts: Tensor) -> list[bytes]:
        """The kept numbers in float16, by falling gate."""
        ordered = (state * self.gates.sigmoid())[:, self._order()].half().cpu().numpy().astype("<f2")
        return [row[:kept].tobytes() for row, kept in zip(ordered, self._kept(counts).tolist(), strict=True)]

    def read(self, written: Sequence[bytes]) -> Tensor:
        """See `State`.  # (batch, size)"""
        states, order = self.gates.new_zeros(len(written), len(self.gates)), self._order()
        for row, data in enumerate(written):
            numbers = np.frombuffer(data, "<f2").astype(np.float32)
            states[row, order[: len(numbers)]] = torch.from_numpy(numbers).to(states)
        return states

    def _order(self) -> Tensor:
        """The dimensions by falling gate.  # (size,)"""
        return self.gates.detach().argsort(descending=True, stable=True)

    def _kept(self, counts: Tensor) -> Tensor:
        """k_n of some users.  # (batch,)"""
        return torch.where(counts >= self.often, self.keep, self.rare)
