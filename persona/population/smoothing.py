"""Vectors smoothed over a graph of users, so that one with few records or none borrows from neighbours.

With S and the graph of `persona.population.graph`, x a user's vector, e_0 = x, and n the user's records,

    m_l = W (S e_(l-1)) + V (S e_(l-1) * e_(l-1))      e_l = m_l / |m_l|      l = 1 .. L
    z   = s * sum_l a_l e_l                            smoothed = (n x + p z) / (n + p)

m_l is the message of NGCF, without the user's own part and without its non-linearity; W and V start as the identity, a
is a softmax that starts even, s is the mean length of the known vectors, and p, in records, is what the neighbours
count for, as in kNN-Embed. A user without a neighbour keeps the vector as it is; one without records has the
neighbours' alone.

One class serves three papers: the propagation and its product term are NGCF's (arXiv 1905.08108), the step over shared
features is MMHCL's second order, and `train_smoother` is MMHCL's contrast of the second order with the first, on graphs
pruned as in FREEDOM (arXiv 2211.06924). Some users' own vectors are hidden, as if they were new, and have to be told
from one another by their neighbours:

    loss = - mean over the hidden users u of log softmax_v (cos(z_u, x_v) / t) at v = u

A smoothed vector holds something of other users. Make the file anew after somebody was forgotten.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class SmootherTraining:
    """How a smoother is trained.

    Attributes:
        steps: of Adam.
        learning_rate: of all weights.
        hidden: share of the users whose own vectors are hidden in a step.
        keep: share of what users hold that is left in the graph of a step.
        temperature: t.
        seed: of all draws.
    """

    steps: int = 100
    learning_rate: float = 1e-3
    hidden: float = 0.2
    keep: float = 0.8
    temperature: float = 0.2
    seed: int = 0


def train_smoother(
    smoother: GraphSmoother, graph: UserGraph, table: UserTable, options: SmootherTraining | None = None
) -> list[float]:
    """Train `smoother` in place on users of whom nobody is reported on; the loss of each step."""
    options = options or SmootherTraining()
    generator = torch.Generator().manual_seed(options.seed)
    vectors, known = torch.from_numpy(table.matrix), torch.from_numpy(table.known).nonzero()[:, 0]
    count = max(2, round(options.hidden * len(known)))
    optimizer = torch.optim.Adam(smoother.parameters(), options.learning_rate)
    losses = []
    for _ in range(options.steps):
        hidden = known[torch.randperm(len(known), generator=generator)[:count]]
        seen = graph.pruned(options.keep, generator).without_near(hidden)
        guesses = F.normalize(smoother(seen, vectors.index_fill(0, hidden, 0.0))[hidden], dim=1)
        scores = guesses @ F.normalize(vectors[hidden], dim=1).T / options.temperature
        loss = F.cross_entropy(scores, torch.arange(len(scores)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


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
