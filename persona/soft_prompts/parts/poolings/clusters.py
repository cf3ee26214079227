"""A user's interests: records in k clusters, a vector for each, the widest first.

Soft k-means on the unit sphere, from learned seeds c_k, with m_k = 1 record at each seed. Repeated `steps` times,

    a_ik = softmax_k(cos(g_i, c_k) / 0.1)        c_k = (sum_i a_ik g_i + c_k0) / (sum_i a_ik + 1)

and with the shares of all users, pi_k, and the weight m of the null record,

    p_k = (sum_i a_ik + m pi_k) / (n + m)        output = [c_(1), ..., c_(k), p_(1), ..., p_(k)] by falling p

In training each cluster is left out with the chance `drop`, though not all: a user's interests must not lean on one
another.

Sources: kNN-Embed (arXiv 2205.06205), a mixture over interests with smoothed weights, here by all users instead of the
nearest; the random subsets: union sampling of Break-A-Scene (arXiv 2305.16311), one handle for each concept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records

_TEMPERATURE = 0.1


class ClustersPooling(Pooling):
    """The clusters of the module's docstring."""

    def __init__(self, config: UserEmbedderConfig, *, clusters: int = 4, steps: int = 3, drop: float = 0.25) -> None:
        super().__init__()
        self.clusters, self.steps, self.drop = clusters, steps, drop
        self.size = clusters * (config.width + 1)
        self.seeds = nn.Parameter(torch.randn(clusters, config.width))
        self.log_shares = nn.Parameter(torch.zeros(clusters))

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, clusters * (width + 1))"""
        centres, weights = clustered(records.hidden, records.mask, self.seeds, self.steps)
        count = records.mask.sum(1, keepdim=True) + records.null_records
        weights = (weights + records.null_records * self.log_shares.softmax(0)) / count
        weights, order = torch.sort(weights, dim=1, descending=True, stable=True)
        centres = centres.gather(1, order[..., None].expand_as(centres))
        if self.training:
            centres = centres * subset(weights, self.drop)[..., None]
        return torch.cat((centres.flatten(1), weights), dim=1)


def clustered(hidden: Tensor, mask: Tensor, seeds: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Centres of records and how many records each has, by the soft k-means of the module's docstring.

    Args:
        hidden: of records, zeros where there is none.  # (batch, records, width)
        mask: True where there is a record.  # (batch, records)
        seeds: where the centres are at first.  # (clusters, width)
        steps: repetitions.

    Returns:
        (batch, clusters, width), (batch, clusters)
    """
    centres = seeds.expand(len(hidden), -1, -1)
    directions = F.normalize(hidden, dim=-1)
    weights = hidden.new_zeros(len(hidden), len(seeds))
    for _ in range(steps):
        likeness = directions @ F.normalize(centres, dim=-1).transpose(1, 2) / _TEMPERATURE
        shares = likeness.softmax(-1) * mask[..., None]  # (batch, records, clusters)
        weights = shares.sum(1)
        centres = (shares.transpose(1, 2) @ hidden + seeds) / (weights[..., None] + 1)
    return centres, weights


def subset(weights: Tensor, drop: float) -> Tensor:
    """1 for the clusters of each user that stay, at least one, and 0 for others.  # (batch, clusters)"""
    kept = torch.rand(weights.shape) >= drop
    kept.scatter_(1, torch.randint(weights.shape[1], (len(kept), 1)), True)
    return kept.to(weights)
