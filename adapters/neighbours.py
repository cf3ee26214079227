"""An adapter for a user with too few records to train one: the mean of those that fit these few best.

>>> neighbours = Neighbours(trainer, bank, prior=prior)
>>> neighbours.lend(examples)
LendingReport(users=410, published=322, kept_prior=88, without_examples=0, passed_over=0)

The nearest of the users who have an adapter are those under whose adapters the user's own answers are likeliest. With
loss ``l_j`` of adapter `j` (mean nats per token) on the user's `m` examples, the `k` nearest have weights proportional
to ``exp(-m l_j)``: what Bayes' rule gives them if all were as likely before and an example counted as one token.

**Mean of products.** ``sum_j w_j B_j A_j`` is what the neighbours compute on the average; means of A and of B apart are
not. It has rank ``k r``, and its best approximation of rank `r` comes from a singular value decomposition, which needs
no matrix of the layer's size: with ``[w_1 B_1, ...] = Q R`` and ``[A_1; ...]^T = P T`` only ``R T^T``, of ``k r`` rows
and columns, is decomposed.

A mean is published only if its loss is below the prior's. Both are taken on the few records that also chose the
neighbours, so this is a weaker gate than that of training. A lent adapter holds something of its neighbours: it is
made anew when the user has new records, not when a neighbour is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from persona.adapters.bank import PUBLISHED, AdapterBank, AdapterDraft
from persona.adapters.examples import ExampleMaker
from persona.adapters.family import Family
from persona.adapters.training import AdapterTrainer
from persona.errors import InvalidOptionError, UnknownAdapterError


@dataclass(frozen=True, slots=True)
class LendingReport:
    """What a run did.

    Attributes:
        users: users who were looked at.
        published: those who got an adapter.
        kept_prior: those for whom no neighbour beat the prior.
        without_examples: those who have nothing to compare by.
        passed_over: users who were forgotten, or whose records were deleted, meanwhile.
    """

    users: int = 0
    published: int = 0
    kept_prior: int = 0
    without_examples: int = 0
    passed_over: int = 0


class Neighbours:
    """See the module.

    Args:
        trainer: with the model and the adapters' shape; its `margin` is that of the gate.
        bank: where adapters are read and put.
        prior: the shared prior; None for none.  # (size,)
        k: most neighbours of a user, at least 1.
        candidates: how many users' adapters are looked at, at least `k`: the first that are found.
        rows: adapters to look at instead of the bank's own.  # (n, size)
        records: most records of a user that choose, the newest, at least 1: each costs a forward pass for every
            candidate, and a few are enough.

    Raises:
        InvalidOptionError: if a number is out of its range.
        UnknownAdapterError: if the bank has no adapters of this family yet.
    """

    def __init__(
        self,
        trainer: AdapterTrainer,
        bank: AdapterBank,
        *,
        prior: Tensor | None = None,
        k: int = 4,
        candidates: int = 64,
        rows: Tensor | None = None,
        records: int = 24,
    ) -> None:
        if not 1 <= k <= candidates:
            raise InvalidOptionError(f"`k` must be from 1 to `candidates`, was: {k} of {candidates}")
        if records < 1:
            raise InvalidOptionError(f"`records` must be at least 1, was: {records}")
        self.family = trainer.family.over(prior)
        self._trainer, self._bank, self._prior, self._k, self._records = trainer, bank, prior, k, records
        self._rows = self._of_bank(candidates) if rows is None else rows  # (candidates, size)

    def _of_bank(self, candidates: int) -> Tensor:
        """Adapters that were trained, not lent."""
        trained = (
            one for one in self._bank.current_adapters(self.family) if one.state == PUBLISHED and "loss" in one.metrics
        )
        rows = [self._bank.row(one) for one in islice(trained, candidates)]
        if not rows:
            raise UnknownAdapterError(f"there are no neighbours in the family {self.family.key} yet: train users first")
        return torch.stack(rows)

    def lend(self, examples: ExampleMaker, *, user_ids: Iterable[str] | None = None, window: int = 64) -> LendingReport:
        """Give adapters to users.

        Args:
            examples: makes a user's examples.
            user_ids: to whom; None for the users with records that no version of theirs has seen.
            window: how many are published together.
        """
        wanted = self._bank.stale_users(self.family) if user_ids is None else iter(user_ids)
        report = LendingReport()
        while some := list(islice(wanted, window)):
            drafts = [draft for draft in (self._draft(user_id, examples) for user_id in some) if draft is not None]
            kept = self._bank.publish(self.family, drafts)
            published = sum(adapter.state == PUBLISHED for adapter in kept)
            report = replace(
                report,
                users=report.users + len(some),
                published=report.published + published,
                kept_prior=report.kept_prior + len(kept) - published,
                without_examples=report.without_examples + len(some) - len(drafts),
                passed_over=report.passed_over + len(drafts) - len(kept),
            )
        return report

    def _draft(self, user_id: str, examples: ExampleMaker) -> AdapterDraft | None:
        profile = self._bank.store.profile(user_id)
        tokens = self._trainer.tokens(examples(profile))[-self._records :]
        if not tokens:
            return None
        nothing = torch.zeros(1, self.family.size, dtype=self._rows.dtype)
        *losses, loss_prior = self._trainer.losses(torch.cat((self._rows, nothing)), tokens, prior=self._prior)
        near = sorted(range(len(losses)), key=losses.__getitem__)[: self._k]
        weights = torch.softmax(-len(tokens) * torch.tensor([losses[place] for place in near]), dim=0)
        row = mean_of_products(self.family, self._rows[near], weights)
        (loss,) = self._trainer.losses(row[None], tokens, prior=self._prior)
        wins = loss < loss_prior * (1 - self._trainer.options.margin)
        metrics = {"loss_lent": loss, "loss_prior": loss_prior, "examples": len(tokens), "neighbours": len(near)}
        return AdapterDraft(user_id, row if wins else None, profile.revision, metrics)


def mean_of_products(family: Family, rows: Tensor, weights: Tensor) -> Tensor:
    """The adapter of the family's rank whose products come closest to the weighted mean of others'.

    Args:
        family: theirs.
        rows: the others.  # (n, size)
        weights: of each.  # (n,)

    Returns:
        Of the type of `rows`; exact where the mean has no higher rank.  # (size,)
    """
    mean = torch.zeros(1, family.size, dtype=rows.dtype)
    r = family.spec.r
    for (a, b), (mean_a, mean_b) in zip(family.pairs(rows.double()), family.pairs(mean), strict=True):
        tall = (b * weights.double()[:, None, None]).permute(1, 0, 2).flatten(1)  # (out, n r)
        wide = a.flatten(0, 1)  # (n r, in)
        left, upper = torch.linalg.qr(tall)
        right, lower = torch.linalg.qr(wide.T)
        u, s, v = torch.linalg.svd(upper @ lower.T)
        kept = min(r, len(s))
        root = s[:kept].sqrt()
        mean_b[0, :, :kept] = (left @ (u[:, :kept] * root)).to(mean.dtype)
        mean_a[0, :kept] = ((right @ (v[:kept].T * root)).T).to(mean.dtype)
    return mean[0]
