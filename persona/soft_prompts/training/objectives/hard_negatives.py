"""A user's state tells an own record from what others made of the same topic.

With x a record of user u, N(x) the records of other users whose texts are nearest to its text (their answers, length
and style are what differs), f and g linear maps onto a sphere and z_u the state,

    L = -log (e(x) / (e(x) + sum over y in N(x) of e(y)))        e(y) = exp(cos(f(z_u), g(y)) / tau)

x is drawn, as in `persona.soft_prompts.training.objectives.metric`; N(x) is sought among the records of some training
users, drawn anew in each step, so that it follows from nothing that is trained.

Source: hard negatives of the staged training of SAIL-Embedding (a technical report on omni-modal embeddings); that they
are other users' records of the same topic is our transfer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.training.objectives.base import Objective, Step
from persona.soft_prompts.training.objectives.contrast import on_sphere, own_records

_USERS, _RECORDS = 64, 32
"""Users that are drawn, and most records of each."""

_SIZE = 64
"""Dimensions in which states and records are compared."""


class HardNegativesObjective(Objective):
    """The loss of the module's docstring; `negatives` is the size of N(x), `temperature` tau."""

    def __init__(
        self, config: Any, state_size: int, *, weight: float = 0.1, negatives: int = 8, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.weight, self.negatives, self.temperature, self.config = weight, negatives, temperature, config
        self.of_state = nn.Linear(state_size, _SIZE, bias=False)
        self.of_record = nn.Linear(config.value_dim, _SIZE, bias=False)

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        own = own_records(step)
        pool, owners = drawn_records(step)
        others = torch.from_numpy(np.array([each.user_id for each in step.shown])[:, None] != owners).to(own.device)
        dim = self.config.encoder_dim
        near, is_other = nearest(own[:, :dim], pool[:, :dim], others, self.negatives)
        # A record that says the very same is no negative.
        is_other &= (pool[near] != own[:, None]).any(-1)
        candidates = on_sphere(torch.cat((own[:, None], pool[near]), dim=1), self.config.view_dims)
        states = F.normalize(self.of_state(step.states(step.histories)), dim=1)
        scores = torch.einsum("bd,bnd->bn", states, F.normalize(self.of_record(candidates), dim=-1)) / self.temperature
        legal = F.pad(is_other, (1, 0), value=True)
        right = torch.zeros(len(own), dtype=torch.long, device=own.device)
        return F.cross_entropy(scores.masked_fill(~legal, -torch.inf), right)


def nearest(texts: Tensor, pool: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows of `pool` whose directions are nearest to those of `texts`, and which of them are allowed.

    Args:
        texts: vectors.  # (texts, dim)
        pool: vectors.  # (pool, dim)
        allowed: which of the pool for which text; the others come last.  # (texts, pool)
        count: how many, if there are as many.

    Returns:
        # (texts, count), (texts, count)
    """
    likeness = (F.normalize(texts, dim=1) @ F.normalize(pool, dim=1).T).masked_fill(~allowed, -torch.inf)
    best = likeness.topk(min(count, len(pool)), dim=1)
    return best.indices, best.values.isfinite()


def drawn_records(step: Step) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Records of some training users, and whose they are.  # (pool, value_dim), (pool,)"""
    users = step.examples.users
    values, owners = [], []
    for number in step.draw.permutation(len(users))[:_USERS]:
        of_user = step.examples.histories[users[number]].values
        rows = step.draw.permutation(len(of_user))[:_RECORDS]
        values.append(of_user[rows])
        owners += [users[number]] * len(rows)
    return torch.from_numpy(np.concatenate(values)).to(step.loss.device).float(), np.array(owners)
