"""Training of a smoother: some users' own vectors are hidden, and neighbours have to tell them from one another.

With z_u what the smoother makes of the neighbours of u, x_u the hidden vector and t a temperature,

    loss = - mean over the hidden users u of log softmax_v (cos(z_u, x_v) / t) at v = u

This is MMHCL's contrast of the second order, users who share a feature, with the first, the user's own vector. In each
step the graph is another one, pruned as in FREEDOM (arXiv 2211.06924; `UserGraph.pruned`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from persona.population.graph import UserGraph
from persona.population.smoothing import GraphSmoother
from persona.population.vectors import UserTable


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
    """Train `smoother` in place, on users that no result is reported for; the loss of each step."""
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
