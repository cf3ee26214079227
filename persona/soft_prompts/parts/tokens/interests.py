"""A soft token for each interest of a user, the widest first.

With the centres c_(k) of a user's records and how many records n_(k) each has, as `ClustersPooling` finds them,

    token k += n_(k) / (n_(k) + 1) T c_(k)        for the first tokens, beside a linear layer of the state for all

In training each interest's token is left out with the chance `drop`, though not all: any subset must be readable, so a
token says what its own interest is and leans on no other.

Sources: Break-A-Scene (arXiv 2305.16311), one handle for each concept of an image and union sampling, the random
subsets; the clusters are those of kNN-Embed (arXiv 2205.06205).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Records
from persona.soft_prompts.parts.poolings.clusters import clustered, subset
from persona.soft_prompts.parts.tokens.linear import LinearTokens, zero


class InterestTokens(LinearTokens):
    """The tokens of the module's docstring."""

    reads_records = True

    def __init__(self, config: UserEmbedderConfig, *, interests: int = 4, steps: int = 3, drop: float = 0.25) -> None:
        super().__init__(config)
        if not 1 <= interests <= config.n_tokens:
            raise InvalidOptionError(
                f"there are {config.n_tokens} soft tokens: `interests` must be from 1 to that, was: {interests}"
            )
        self.steps, self.drop = steps, drop
        self.seeds = nn.Parameter(torch.randn(interests, config.width))
        self.token = zero(nn.Linear(config.width, config.llm_hidden, bias=False))

    def forward(self, mixed: Tensor, records: Records) -> Tensor:
        """See the module.  # (batch, n_tokens, llm_hidden)"""
        centres, counts = clustered(records.hidden, records.mask, self.seeds, self.steps)
        counts, order = torch.sort(counts, dim=1, descending=True, stable=True)
        centres = centres.gather(1, order[..., None].expand_as(centres))
        shares = counts / (counts + 1)
        if self.training:
            shares = shares * subset(shares, self.drop)
        own = self.token(shares[..., None] * centres)
        return super().forward(mixed, records) + F.pad(own, (0, 0, 0, self.shape[0] - own.shape[1]))
