"""A history in spaces of its own for each aspect: what records are about, and how their user writes.

    e_i = norm(A k_i) for the topic, norm(B g_i) for the style        output = sqrt(dim) sum_i [e_i, e'_i] / (n + m)

A and B are trained beside the loss by pairs of records of a batch. With s_ij the cosines in an aspect's space over 0.1,

    L = mean over the pairs (i, j): log(1 + sum_h exp(s_ih - s_ij)) over the records h that stand against i

=======  ===========================================  ====================================
aspect   pairs                                        against
=======  ===========================================  ====================================
topic    of the same target: a label, or a rating     records of another target
style    of the same user, of unlike topics           records of others, of like topics
=======  ===========================================  ====================================

Topics are like if the cosine of two keys is above the median. Labels and ratings need no two aspects: the targets of a
task are either. It is a pooling with a loss, not an objective, so that the projections are part of the user embedder.

Source: Specialized Document Embeddings for Aspect-based Similarity of Research Papers (arXiv 2203.14541).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records

_TEMPERATURE, _SAME = 0.1, 0.999
_RECORDS = 256
"""Most records of a batch that pairs are made of."""


class AspectsPooling(Pooling):
    """The two aspects of the module's docstring, `dim` numbers each; `weight` is that of their loss."""

    def __init__(self, config: UserEmbedderConfig, *, dim: int = 64, weight: float = 0.1) -> None:
        super().__init__()
        self.size, self.weight, self.encoder_dim = 2 * dim, weight, config.encoder_dim
        self.topic = nn.Linear(config.encoder_dim, dim, bias=False)
        self.style = nn.Linear(config.width, dim, bias=False)

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, 2 * dim)"""
        mask = records.mask[..., None]
        topic, style = F.normalize(self.topic(records.keys), dim=-1), F.normalize(self.style(records.hidden), dim=-1)
        self.loss = self._loss(records, topic, style) if self.training else None
        count = mask.sum(1) + records.null_records
        mean: Tensor = (self.size / 2) ** 0.5 * (torch.cat((topic, style), dim=-1) * mask).sum(1) / count
        return mean

    def _loss(self, records: Records, topic: Tensor, style: Tensor) -> Tensor:
        """The losses of both aspects on records of the batch.  # ()"""
        users, rows = records.mask.nonzero(as_tuple=True)
        drawn = torch.randperm(len(users))[:_RECORDS].to(users.device)
        users, rows = users[drawn], rows[drawn]
        keys = F.normalize(records.keys[users, rows], dim=-1)
        targets = F.normalize(records.values[users, rows, self.encoder_dim : 2 * self.encoder_dim], dim=-1)
        same_target, likeness = targets @ targets.T > _SAME, keys @ keys.T
        another_target = ~same_target & targets.any(1)[:, None] & targets.any(1)
        # A user may be in a batch twice: rows that share a record are of one user.
        same_user = torch.eye(len(records.mask), dtype=torch.bool, device=users.device)
        shared = (same_target & (likeness > _SAME)).nonzero(as_tuple=True)
        same_user[users[shared[0]], users[shared[1]]] = True
        same_user = same_user[users[:, None], users]
        like = likeness > likeness.median() if len(users) else same_user
        own = ~torch.eye(len(users), dtype=torch.bool, device=users.device)
        topics = paired(topic[users, rows], same_target & own, another_target)
        return self.weight * (topics + paired(style[users, rows], same_user & ~like, ~same_user & like))


def paired(vectors: Tensor, same: Tensor, others: Tensor) -> Tensor:
    """L of the module's docstring; 0 without pairs.  # ()

    Args:
        vectors: of length 1.  # (records, dim)
        same: the pairs.  # (records, records)
        others: what they are set against.  # (records, records)
    """
    scores = vectors @ vectors.T / _TEMPERATURE
    against = scores.masked_fill(~others, -1e4).logsumexp(1, keepdim=True)
    return (F.softplus(against - scores) * same).sum() / same.sum().clamp_min(1)
