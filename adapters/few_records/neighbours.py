"""An adapter for a user with few records: the mean of the neighbours' adapters, those that fit the records best.

The nearest of the users who have an adapter are those under whose adapters the user's own answers are likeliest. With
loss ``l_j`` of adapter `j` (mean nats per token) on the user's `m` examples, the `k` nearest have weights proportional
to ``exp(-m l_j)``: what Bayes' rule gives them if all were as likely before and an example counted as one token.

**Mean of products.** ``sum_j w_j B_j A_j`` is what the neighbours compute on the average; means of A and of B apart are
not. It has rank ``k r``, and its best approximation of rank `r` comes from a singular value decomposition, which needs
no matrix of the layer's size: with ``[w_1 B_1, ...] = Q R`` and ``[A_1; ...]^T = P T`` only ``R T^T``, of ``k r`` rows
and columns, is decomposed.

Such an adapter holds something of the neighbours: it is computed anew when the user has new records, not when a
neighbour is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import ExampleMaker
from persona.adapters.family import Family
from persona.adapters.training.lessons import TokenExample
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import publish_untrained
from persona.adapters.versions import PUBLISHED, AdapterReport
from persona.errors import UnknownAdapterError, check_least


class Neighbours:
    """Computes adapters as means of other users' adapters.

    Args:
        trainer: with the model and the adapters' shape.
        rows: the other users' adapters, such as `trained_rows`.  # (n, size)
        prior: the shared prior that they lie over; None for none.  # (size,)
        k: most neighbours of a user, at least 1.
        records: most records of a user that choose, the newest, at least 1: each costs a forward pass for every
            adapter, and a few are enough.

    Raises:
        InvalidOptionError: if a number is out of its range.
    """

    def __init__(
        self, trainer: AdapterTrainer, rows: Tensor, *, prior: Tensor | None = None, k: int = 4, records: int = 24
    ) -> None:
        check_least(1, k=k, records=records)
        self._trainer, self._rows, self._prior, self._k, self._records = trainer, rows, prior, k, records

    def row(self, examples: Sequence[TokenExample]) -> Tensor:
        """The adapter of a user with these examples, at least one.  # (size,)"""
        losses = self._trainer.losses(self._rows, examples, prior=self._prior)
        near = sorted(range(len(losses)), key=losses.__getitem__)[: self._k]
        weights = torch.softmax(-len(examples) * torch.tensor([losses[index] for index in near]), dim=0)
        return mean_of_products(self._trainer.family, self._rows[near], weights)

    def publish(
        self, bank: AdapterBank, examples: ExampleMaker, *, user_ids: Iterable[str] | None = None
    ) -> AdapterReport:
        """Publish adapters for users where they beat the prior (`publish_untrained`)."""
        return publish_untrained(
            self._trainer,
            bank,
            examples,
            lambda profile, tokens: self.row(tokens[-self._records :]),
            prior=self._prior,
            user_ids=user_ids,
            judged=self._records,
        )


def trained_rows(bank: AdapterBank, family: Family, *, most: int = 64) -> Tensor:
    """Published adapters that were trained.  # (at most `most`, size)

    Raises:
        UnknownAdapterError: if the bank has none of this family.
    """
    trained = (one for one in bank.current_adapters(family) if one.state == PUBLISHED and "loss" in one.metrics)
    rows = [bank.row(one) for one in islice(trained, most)]
    if not rows:
        raise UnknownAdapterError(f"there are no neighbours in the family {family.key} yet: train users first")
    return torch.stack(rows)


def mean_of_products(family: Family, rows: Tensor, weights: Tensor) -> Tensor:
    """The adapter whose products come closest to the weighted mean of others'; exact where that has no higher rank.

    Args:
        family: theirs.
        rows: the others.  # (n, size)
        weights: of each.  # (n,)
    """
    family.check_linear("a mean of products")
    mean = torch.zeros(1, family.size, dtype=rows.dtype)
    for (a, b), (mean_a, mean_b) in zip(family.pairs(rows.double()), family.pairs(mean), strict=True):
        tall = (b * weights.double()[:, None, None]).permute(1, 0, 2).flatten(1)  # (out, n r)
        wide = a.flatten(0, 1)  # (n r, in)
        left, upper = torch.linalg.qr(tall)
        right, lower = torch.linalg.qr(wide.T)
        u, s, v = torch.linalg.svd(upper @ lower.T)
        rank = min(family.spec.r, len(s))
        root = s[:rank].sqrt()
        mean_b[0, :, :rank] = (left @ (u[:, :rank] * root)).to(mean.dtype)
        mean_a[0, :rank] = ((right @ (v[:rank].T * root)).T).to(mean.dtype)
    return mean[0]
