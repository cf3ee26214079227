"""Vectors smoothed over a graph of users, so that one with few records or none borrows from neighbours.

With S and the graph of `persona.population.graph`, x a user's vector, e_0 = x, and n the user's records,

    m_l = W (S e_(l-1)) + V (S e_(l-1) * e_(l-1))      e_l = m_l / |m_l|      l = 1 .. L
    z   = s * sum_l a_l e_l                            smoothed = (n x + p z) / (n + p)

m_l is the message of NGCF, without the user's own part and without its non-linearity; W and V start as the identity, a
is a softmax that starts even, s is the mean length of the known vectors, and p, in records, is what the neighbours
count for, as in kNN-Embed. A user without a neighbour keeps the vector as it is; one without records has the
neighbours' alone.

One class serves three papers: the propagation and its product term are NGCF's (arXiv 1905.08108), the step over shared
features is MMHCL's second order, and its training (`persona.population.training`) MMHCL's contrast on FREEDOM's graphs.

A smoothed vector holds something of other users. Make the file anew after somebody was forgotten.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.population.graph import UserGraph
from persona.population.vectors import UserTable


class GraphSmoother(nn.Module):
    """Smooths the vectors of a graph's users.

    Args:
        dim: length of a vector.
        layers: L, at least 1.
        prior: p, above 0.
    """

    def __init__(self, dim: int, *, layers: int = 2, prior: float = 4.0) -> None:
        super().__init__()
        self.prior = prior
        self.own, self.product = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.own.weight)
        nn.init.eye_(self.product.weight)
        self.shares = nn.Parameter(torch.zeros(layers))

    def forward(self, graph: UserGraph, vectors: Tensor) -> Tensor:
        """z over s; zeros for users without a neighbour.  # (users, dim) -> (users, dim)"""
        found, values = torch.zeros_like(vectors), vectors
        for share in self.shares.softmax(0):
            spread = graph.spread(values)
            values = F.normalize(self.own(spread) + self.product(spread * values), dim=1)
            found = found + share * values
        return found

    @torch.no_grad()
    def smooth(self, graph: UserGraph, table: UserTable) -> UserTable:
        """The table with smoothed vectors, whose fingerprint says how they were made."""
        vectors = torch.from_numpy(table.matrix)
        scale = float(vectors.norm(dim=1)[torch.from_numpy(table.known)].mean())
        borrowed = scale * self(graph, vectors)
        records = torch.from_numpy(table.records).float()[:, None]
        mixed = (records * vectors + self.prior * borrowed) / (records + self.prior)
        smoothed = torch.where(borrowed.any(1, keepdim=True), mixed, vectors)
        digest = hashlib.blake2b(digest_size=6)
        for weights in self.parameters():
            digest.update(weights.detach().numpy().tobytes())
        return table.changed(smoothed.numpy(), f"smoothed={digest.hexdigest()},{self.prior:g}")
