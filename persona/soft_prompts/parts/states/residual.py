"""A state as a few codes, coarse to fine: residual quantisation.

With z of `Projection`, r_1 = z, and a codebook E_l of `codes` vectors at each of `levels` levels,

    k_l = argmin_k |r_l - E_l[k]|      r_{l+1} = r_l - E_l[k_l]      z' = sum_l E_l[k_l]

z' stands for z, and gradients pass as if it were z. With sg[.] that stops them, and means over numbers, the loss is

    |s - s'|^2 + sum_l |sg[r_l] - E_l[k_l]|^2 + beta |r_l - sg[E_l[k_l]]|^2

A code that few users of late had is *dead*, and becomes what of a batch is farthest from its code. All begin dead: so
the first batches give the codebooks their values.

With `fuse` the mixed heads and the usual answer are brought together step by step (`Fused`).

Source: RQ-VAE (Lee et al., "Autoregressive Image Generation using Residual Quantization", arXiv 2203.01941), for users
as in ULMRec, which indexes them by 4 levels of 256 codes, and LC-Rec (arXiv 2311.09049), whose loss this is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import State
from persona.soft_prompts.parts.states.fusing import Fused
from persona.soft_prompts.parts.states.packing import bits_of, packed, unpacked
from persona.soft_prompts.parts.states.projection import Projection

_KEEP = 0.99
_DEAD = 0.1
"""Share of an even use below which a code is dead."""


class ResidualCodes(State):
    """The codes of the module's docstring; a level's takes log2(codes) bits in a store."""

    used: Tensor  # (levels, codes)

    def __init__(
        self,
        config: UserEmbedderConfig,
        size: int,
        *,
        levels: int = 4,
        codes: int = 256,
        dim: int = 32,
        beta: float = 0.25,
        fuse: int = 0,
    ) -> None:
        super().__init__()
        self.sizes, self.beta = [codes] * levels, beta
        self.bits = bits_of(self.sizes)
        self.projection = Fused(config, size, dim, fuse) if fuse else Projection(config, size, dim, each=False)
        self.codebooks = nn.Parameter(0.02 * torch.randn(levels, codes, dim))
        # A running mean of how many rows of a batch have each code.
        self.register_buffer("used", torch.zeros(levels, codes))

    def forward(self, state: Tensor, counts: Tensor) -> Tensor:
        """See the module.  # (batch, size)"""
        projection, coded = self.projection, self.projection(state)
        codes, terms = self._coded(coded, projection.learning)
        back = projection.back(self._vectors(codes).detach() + (coded - coded.detach()))
        self.loss = terms + projection.loss(state, back) if self.training else None
        return back

    @torch.no_grad()
    def codes(self, state: Tensor) -> Tensor:
        """The codes of dense states, int64.  # (batch, levels)"""
        return self._coded(self.projection(state))[0]

    def read_codes(self, codes: Tensor) -> Tensor:
        """The states that codes stand for.  # (batch, size)"""
        return self.projection.back(self._vectors(codes))

    def written(self, state: Tensor, counts: Tensor) -> list[bytes]:
        """See `State`."""
        return [packed(row, self.sizes) for row in self.codes(state).tolist()]

    def read(self, written: Sequence[bytes]) -> Tensor:
        """See `State`.  # (batch, size)"""
        codes = [unpacked(each, self.sizes) for each in written]
        return self.read_codes(torch.tensor(codes, device=self.codebooks.device))

    def last_distances(self, state: Tensor) -> Tensor:
        """How far what the levels before leave of a state is from each code of the last.  # (batch, codes)"""
        coded, codes = self.projection(state), self.codes(state)
        before = self._vectors(codes) - self.codebooks[-1][codes[:, -1]]
        return torch.cdist(coded - before, self.codebooks[-1])

    def _vectors(self, codes: Tensor) -> Tensor:
        """z'.  # (batch, dim)"""
        levels = torch.arange(len(self.codebooks), device=codes.device)
        return self.codebooks[levels, codes].sum(1)

    def _coded(self, coded: Tensor, learning: bool = False) -> tuple[Tensor, Tensor]:
        """k_1 ... k_levels, and the loss without its first term.  # (batch, levels), ()"""
        left, codes, loss = coded, [], coded.new_zeros(())
        for level in range(len(self.sizes)):
            if learning:
                self._revive(left.detach(), level)
            codes.append(torch.cdist(left.detach(), self.codebooks[level].detach()).argmin(1))
            vectors = F.embedding(codes[-1], self.codebooks[level])
            loss = loss + F.mse_loss(vectors, left.detach()) + self.beta * F.mse_loss(left, vectors.detach())
            left = left - vectors.detach()
        return torch.stack(codes, dim=1), loss

    @torch.no_grad()
    def _revive(self, left: Tensor, level: int) -> None:
        """Note which codes a batch uses, and put dead ones where rows are farthest from theirs."""
        used, even = self.used[level], len(left) / self.sizes[level]
        distances, codes = torch.cdist(left, self.codebooks[level]).min(1)
        used.mul_(_KEEP).add_(torch.bincount(codes, minlength=len(used)), alpha=1 - _KEEP)
        dead = (used < _DEAD * even).nonzero()[: len(left), 0]
        self.codebooks[level, dead] = left[distances.topk(len(dead)).indices]
        used[dead] = even
