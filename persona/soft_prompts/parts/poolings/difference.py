"""What a user makes of things, less what others make of the like.

With k_i the vector of what record i is about, brought to the order of 1,

    d = sum_i (g_i - c e_i) / (n + m)        e_i = W k_i + b

W and b are trained by mean_i |g_i - e_i|^2 / width beside the loss, with g_i as given, and by nothing else: over the
records of all training users, e_i is what is usually written about the like of it. c is `weight`, m that of the null
record.

Source: DEP, Latent Inter-User Difference Modeling for LLM Personalization (arXiv 2507.20849): a record less a weighted
mean of what peers wrote of the same item. The regression stands for that mean, so no other user's record is read or
kept in the weights, and an item need not have been seen before.
"""

from __future__ import annotations

from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records


class DifferencePooling(Pooling):
    """The difference of the module's docstring."""

    def __init__(self, config: UserEmbedderConfig, *, weight: float = 1.0) -> None:
        super().__init__()
        self.size, self.weight = config.width, weight
        self.usual = nn.Linear(config.encoder_dim, config.width)
        nn.init.zeros_(self.usual.weight)

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, width)"""
        mask = records.mask[..., None]
        usual = self.usual(records.keys * records.keys.shape[2] ** 0.5) * mask
        errors = (records.hidden.detach() - usual).square().mean(-1)
        self.loss = errors.sum() / mask.sum().clamp_min(1) if self.training else None
        count = mask.sum(1) + records.null_records
        difference: Tensor = (records.hidden - self.weight * usual.detach()).sum(1) / count
        return difference
