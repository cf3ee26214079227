"""A state as a few codes, coarse to fine: residual quantisation.

With z of `Projection`, r_1 = z, and a codebook E_l of `codes` vectors at each of `levels` levels,

    k_l = argmin_k |r_l - E_l[k]|      r_{l+1} = r_l - E_l[k_l]      z' = sum_l E_l[k_l]

z' stands for z, and gradients pass as if it were z. In training |s - s'|^2 + beta sum_l |r_l - E_l[k_l]|^2 is added to
the loss, means over numbers, and each code is the mean of what it stood for of late: with n of a batch, in sum S,

    N <- gamma N + (1 - gamma) n      E <- E + (1 - gamma) (S - n E) / N

A code that few had of late (N) is *dead*, and becomes what of a batch is farthest from its code. All begin dead: so the
first batches give the codebooks their values.

Source: RQ-VAE (arXiv 2203.01941), for users as in ULMRec (4 levels of 256 codes) and LC-Rec (arXiv 2311.09049). Codes
as running means: VQ-VAE (arXiv 1711.00937), appendix; they keep up with a state that is being learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import State
from persona.soft_prompts.parts.states.fusing import Fused
from persona.soft_prompts.parts.states.packing import bits_of, packed, unpacked
from persona.soft_prompts.parts.states.projection import Projection

_KEEP = 0.95
"""gamma: what a batch before counts for."""
_DEAD = 0.1
"""Share of an even use below which a code is dead."""


class ResidualCodes(State):
    """The codes of the module's docstring, log2(codes) bits a level; with `fuse` two sources in one (`Fused`)."""

    used: Tensor  # N.  # (levels, codes)
    codebooks: Tensor  # E.  # (levels, codes, dim)

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
        self.sizes, self.beta, self.bits = [codes] * levels, beta, bits_of([codes] * levels)
        self.projection = Fused(config, size, dim, fuse) if fuse else Projection(config, size, dim, each=False)
        self.register_buffer("codebooks", 0.5 * torch.randn(levels, codes, dim))
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
        return self.read_codes(torch.tensor([unpacked(each, self.sizes) for each in written], device=self.used.device))

    def last_distances(self, state: Tensor) -> Tensor:
        """How far what the levels before leave of a state is from each code of the last.  # (batch, codes)"""
        coded, codes = self.projection(state), self.codes(state)
        before = self._vectors(codes) - self.codebooks[-1][codes[:, -1]]
        return torch.cdist(coded - before, self.codebooks[-1])

    def _vectors(self, codes: Tensor) -> Tensor:
        """z'.  # (batch, dim)"""
        return self.codebooks[torch.arange(len(self.sizes), device=codes.device), codes].sum(1)

    def _coded(self, coded: Tensor, learning: bool = False) -> tuple[Tensor, Tensor]:
        """k_1 ... k_levels, and the loss without its first term.  # (batch, levels), ()"""
        left, codes, loss = coded, [], coded.new_zeros(())
        for level in range(len(self.sizes)):
            if learning:
                self._learn(left.detach(), level)
            codes.append(torch.cdist(left.detach(), self.codebooks[level]).argmin(1))
            vectors = self.codebooks[level][codes[-1]]
            loss = loss + self.beta * F.mse_loss(left, vectors)
            left = left - vectors
        return torch.stack(codes, dim=1), loss

    @torch.no_grad()
    def _learn(self, left: Tensor, level: int) -> None:
        """Move the codes of a level after a batch, and put dead ones where rows are farthest from theirs."""
        used, book, even = self.used[level], self.codebooks[level], len(left) / self.sizes[level]
        distances, codes = torch.cdist(left, book).min(1)
        chosen = F.one_hot(codes, len(book)).to(left)  # (batch, codes)
        used.mul_(_KEEP).add_(chosen.sum(0), alpha=1 - _KEEP)
        moved = chosen.T @ left - chosen.sum(0)[:, None] * book
        book += (1 - _KEEP) * moved / used.clamp_min(1e-6)[:, None]
        dead = (used < _DEAD * even).nonzero()[: len(left), 0]
        book[dead] = left[distances.topk(len(dead)).indices]
        used[dead] = even
