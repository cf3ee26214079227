"""A state as numbers of few values each: finite scalar quantisation, which has no codebook that could collapse.

With z of `Projection`, `groups` times as many numbers as there are `levels`, and L the level of number i,

    y = (L - 1) / 2 * tanh(z)      q = round(y)            where L is odd
                                   q = round(y - 1/2) + 1/2    where it is even
    z' = 2 q / (L - 1)

So z' has L values from -1 to 1, and a group has as many codes as the product of its levels: 8 * 8 * 8 * 6 * 5 = 15360.
Gradients pass as if q were y. In training |s - s'|^2, the mean over numbers, is added to the loss.

Source: "Finite Scalar Quantization: VQ-VAE Made Simple" (Mentzer et al., arXiv 2309.15505), whose offset for even L is
half a step here; RecGPT codes the text of items so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import State
from persona.soft_prompts.parts.states.packing import bits_of, packed, unpacked
from persona.soft_prompts.parts.states.projection import Projection


class ScalarCodes(State):
    """The numbers of the module's docstring; together they take log2 of the number of codes in a store."""

    reach: Tensor  # (L - 1) / 2 of each number

    def __init__(
        self, config: UserEmbedderConfig, size: int, *, levels: Sequence[int] = (8, 8, 8, 6, 5), groups: int = 1
    ) -> None:
        super().__init__()
        if groups < 1 or not levels or min(levels) < 2:
            raise InvalidOptionError(f"there must be levels of at least 2 values, were: {levels!r} times {groups}")
        self.sizes = [*levels] * groups
        self.bits = bits_of(self.sizes)
        self.projection = Projection(config, size, len(self.sizes), each=True)
        self.register_buffer("reach", (torch.tensor(self.sizes) - 1) / 2, persistent=False)

    def forward(self, state: Tensor, counts: Tensor) -> Tensor:
        """See the module.  # (batch, size)"""
        bounded = self.reach * self.projection(state).tanh()
        rounded = self._rounded(bounded).detach() + (bounded - bounded.detach())
        back = self.projection.back(rounded / self.reach)
        self.loss = self.projection.loss(state, back) if self.training else None
        return back

    @torch.no_grad()
    def codes(self, state: Tensor) -> Tensor:
        """The value of each number, counted from 0, int64.  # (batch, groups * levels)"""
        rounded = self._rounded(self.reach * self.projection(state).tanh())
        return (rounded + self.reach).round().long()

    def read_codes(self, codes: Tensor) -> Tensor:
        """The states that codes stand for.  # (batch, size)"""
        return self.projection.back((codes - self.reach) / self.reach)

    def written(self, state: Tensor, counts: Tensor) -> list[bytes]:
        """See `State`."""
        return [packed(row, self.sizes) for row in self.codes(state).tolist()]

    def read(self, written: Sequence[bytes]) -> Tensor:
        """See `State`.  # (batch, size)"""
        return self.read_codes(torch.tensor([unpacked(each, self.sizes) for each in written], device=self.reach.device))

    def _rounded(self, bounded: Tensor) -> Tensor:
        """q.  # (batch, groups * levels)"""
        offset = self.reach % 1  # a half where the level is even
        return (bounded - offset).round() + offset
