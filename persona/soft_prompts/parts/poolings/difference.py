"""What a user makes of things, less what others make of the like.

With k_i the unit vector of what record i is about, and q_j, p_j learned: what peers wrote about, and what of it,

    d = sum_i (g_i - c e_i) / (n + m)        e_i = sum_j softmax_j(k_i . q_j / |q_j| / 0.1) p_j

and 0.1 mean_i |g_i - e_i|^2 / width beside the loss, where g_i counts as given, so that e_i is the mean of what the
training users wrote about the like of it. c is `weight`, m that of the null record.

Source: DEP, Latent Inter-User Difference Modeling for LLM Personalization (arXiv 2507.20849), whose peers are the users
who reviewed the same item. Means of many users stand for them here: no other user's record is read or kept in the
weights, and an item need not have been seen before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records

_TEMPERATURE, _LOSS = 0.1, 0.1


class DifferencePooling(Pooling):
    """The difference of the module's docstring, with a number of `peers`."""

    def __init__(self, config: UserEmbedderConfig, *, peers: int = 16, weight: float = 1.0) -> None:
        super().__init__()
        self.size, self.weight = config.width, weight
        self.about = nn.Parameter(torch.randn(peers, config.encoder_dim))
        self.peers = nn.Parameter(0.1 * torch.randn(peers, config.width))

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, width)"""
        mask = records.mask[..., None]
        likeness = F.normalize(records.keys, dim=-1) @ F.normalize(self.about, dim=-1).T
        usual = (likeness / _TEMPERATURE).softmax(-1) @ self.peers * mask
        self.loss = None
        if self.training:
            errors = (records.hidden.detach() - usual).square().mean(-1, keepdim=True)
            self.loss = _LOSS * (errors * mask).sum() / mask.sum().clamp_min(1)
        count = mask.sum(1) + records.null_records
        difference: Tensor = (records.hidden - self.weight * usual).sum(1) / count
        return difference
