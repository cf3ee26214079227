"""Shares of clusters, smoothed by neighbours, so that a user without records has some (kNN-Embed)."""

from __future__ import annotations

import torch
from torch import Tensor

from persona.population.graph import UserGraph


def smoothed_mixtures(graph: UserGraph, mixtures: Tensor, records: Tensor, *, prior: float = 8.0) -> Tensor:
    """What shares of some clusters each user has, smoothed by the neighbours' shares.

        p(c|u) = (1 - l) p_mle(c|u) + l * mean over the neighbours v of p_mle(c|v)      l = prior / (prior + records)

    After kNN-Embed (El-Kishky et al., arXiv 2205.06205): so a user without records, whom a label or a field links to
    others, has theirs. For a user's own records `persona.retrievers.vectors.multi_interest` does the same.

    Args:
        graph: of the users.
        mixtures: p_mle, rows that sum to 1, or zeros for a user without records.  # (users, clusters)
        records: of each user.  # (users,)
        prior: how many records the neighbours count for.

    Returns:
        # (users, clusters); the row of a user without a neighbour is as it was.
    """
    means = graph.means(mixtures)
    share = (prior / (prior + records.float()))[:, None]
    return torch.where(means.any(1, keepdim=True), (1 - share) * mixtures + share * means, mixtures)
