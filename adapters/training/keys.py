"""The keys of gated rank-one edits: what a user's records look like to each layer.

::

    y = W x + s sum_j o_j sigmoid((sim_j - gate) / 0.1)        sim_j = x^T C^-1 k_j / (k_j^T C^-1 k_j)

A key `k_j` is the mean of what the layer reads over some of the user's records, all of them with one key; with more the
records are clustered (k-means). `C` is the mean of ``x x^T`` over records of others, or the identity. A row of A holds
``C^-1 k_j`` divided by its product with the key, so that ``A x`` is `sim`, whose mean over the key's own tokens is 1.
The edit `o_j`, a column of B, is learnt from zero; A is not. Two vectors for a user, layer and key.

Source: "Key-Locked Rank One Editing for Text-to-Image Personalization" (Perfusion, arXiv 2305.01644), carried over to
text, which the paper does not claim: values alone are edited. What ``W`` makes of the key's direction is not taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from persona.adapters.layers import inputs_of
from persona.adapters.training.lessons import Lesson, TokenExample
from persona.adapters.training.losses import UserLosses
from persona.adapters.training.trainer import AdapterTrainer

_RIDGE = 1e-2
"""Share of the mean variance that is added to every direction, so that `C` has an inverse."""


def keyed(
    trainer: AdapterTrainer, *, prior: Tensor | None = None, others: Sequence[TokenExample] = ()
) -> Callable[[Sequence[Lesson]], list[Lesson]]:
    """A `prepare` for `persona.adapters.training.users.train_users`: each user's training starts from their own keys.

    Args:
        trainer: with the model and the shape; `LoraSpec.r` is the number of keys.
        prior: the shared prior that records are read under; None for none.  # (size,)
        others: records of others, for `C`; none for the identity.
    """
    moments: list[Tensor] = []
    if others:
        with trainer.stacked(prior) as losses:
            read = [torch.cat(own).double() for own in zip(*(_read(losses, each) for each in others), strict=True)]
        moments = [x.T @ x / len(x) for x in read]
        moments = [each + _RIDGE * each.diagonal().mean() * torch.eye(len(each)) for each in moments]

    def prepare(lessons: Sequence[Lesson]) -> list[Lesson]:
        with trainer.stacked(prior) as losses:
            return [replace(lesson, start=_start(losses, lesson.train, moments)) for lesson in lessons]

    return prepare


def _start(losses: UserLosses, examples: Sequence[TokenExample], moments: Sequence[Tensor]) -> Tensor:
    """The adapter with the keys of some records, which changes nothing yet.  # (size,)"""
    family = losses.stack.family
    read = [_read(losses, each) for each in examples]
    groups = _clustered(torch.stack([own[-1].mean(0) for own in read]), family.spec.r)
    row = torch.zeros(1, family.size)
    for place, (a, _) in enumerate(family.pairs(row)):
        for number, group in enumerate(groups):
            key = torch.cat([read[index][place] for index in group]).double().mean(0)
            along = torch.linalg.solve(moments[place], key) if moments else key
            a[0, number] = along / (along @ key).clamp_min(1e-12)
    return row[0]


@torch.no_grad()
def _read(losses: UserLosses, example: TokenExample) -> list[Tensor]:
    """What each layer reads over an example, prompt and answer, without a user's adapter.  # (tokens, in) each"""
    names = [module.name for module in losses.stack.family.modules]
    with inputs_of(losses.stack.model, dict.fromkeys(names, lambda x: x.flatten(0, -2).float().cpu())) as inputs:
        losses.under_prior([example])
    return [inputs[name] for name in names]


def _clustered(means: Tensor, count: int) -> list[list[int]]:
    """Which records have a key together.  # means: (records, in)"""
    different = len(np.unique(means.numpy(), axis=0))
    if min(count, different) == 1:
        return [list(range(len(means)))]
    from sklearn.cluster import KMeans

    labels = KMeans(min(count, different), n_init=5, random_state=0).fit_predict(means.numpy()).tolist()
    return [[index for index, label in enumerate(labels) if label == cluster] for cluster in sorted(set(labels))]
