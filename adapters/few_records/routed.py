"""An adapter for a user with few records, without training: shared meta-adapters, weighed by the user's vector.

RecLoRA's idea (arXiv 2408.03533): what users differ in is learnt once, by meta-adapters that all of them share, and a
small network says how much of each a user needs. With weights ``a_1 ... a_n`` of a user, a layer's change is

    sum_i  a_i  B_i A_i

that is products, and not ``(sum_i a_i B_i)(sum_i a_i A_i)`` as there: no meta-adapter meets another's half, and with
`n` of rank ``r / n`` each the sum is one adapter of rank `r` that stands in the same stack as any other: all users
share A, and the columns of B are scaled. The weights are not the softmax of that paper but any real numbers: over a
task adapter a meta-adapter can be a direction, one user at either end.

**The user's vector** is what the LLM did not expect of the user. For each record the gradient of the answer's
log-likelihood with regard to the last hidden states, summed over the answer's tokens (at a tied head that is the
embedding of what was written minus the mean embedding of what was expected), beside the mean of those hidden states;
then the mean over records::

    v = mean over records of [ sum_t d log p(y_t) / d h_t ,  mean_t h_t ]         (2 hidden,)

No other encoder is needed, and a forward pass over the records gives it. The number of records goes in too, so that a
user with one record is moved less than one with ten.

A router is a generator of adapters of kind ``routed`` (`persona.adapters.generated`), and is trained as the others are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from persona.adapters.family import Family
from persona.adapters.generated.network import Usual
from persona.adapters.training.lessons import TokenExample
from persona.adapters.training.trainer import AdapterTrainer

_READ_AT_ONCE = 32


class Router(nn.Module):
    """Meta-adapters, and the network that weighs them by a user's vector.

    Args:
        family: of the adapters.
        dim: length of a vector.
        n: number of meta-adapters, a divisor of the adapters' rank.
        width: units of the network.
        seed: of the meta-adapters.
    """

    def __init__(self, family: Family, dim: int, *, n: int, width: int, seed: int) -> None:
        super().__init__()
        self.family = family
        self.usual = Usual(dim)
        self.read = nn.Linear(dim + 1, width)
        self.weigh = nn.Linear(width, n)
        self.meta = nn.Parameter(family.initial(seed=seed))

    def forward(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """The adapters of users: the weighted sums of the products.  # (users, size)

        Args:
            vectors: of the users.  # (users, dim)
            counts: of their records, at least 1.  # (users,)
        """
        states = torch.tanh(self.read(torch.cat((self.usual(vectors), counts.log()[:, None]), dim=1)))
        return self.rows(self.weigh(states))

    def rows(self, weights: Tensor) -> Tensor:
        """The adapters of users with weights (users, n): A as it is, B's columns scaled.  # (users, size)"""
        scales = weights.repeat_interleave(self.family.spec.r // weights.shape[1], dim=1)[:, None]  # (users, 1, r)
        parts: list[Tensor] = []
        for a, b in self.family.pairs(self.meta[None]):
            parts += [a.flatten(1).expand(len(weights), -1), (b * scales).flatten(1)]
        return torch.cat(parts, dim=1)


def record_vectors(trainer: AdapterTrainer, examples: Sequence[TokenExample], *, prior: Tensor | None = None) -> Tensor:
    """What the LLM, with the prior, did not expect of each record: the user's vector is the mean.

    Returns:
        float32, on the CPU.  # (examples, 2 hidden)
    """
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(inputs[0].detach().requires_grad_())
        return (states[-1], *inputs[1:])

    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    vectors: dict[int, Tensor] = {}
    handle = trainer.llm.model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        for start in range(0, len(order), _READ_AT_ONCE):
            chosen = order[start : start + _READ_AT_ONCE]
            batch = [examples[index] for index in chosen]
            states.clear()
            # Nothing before the head needs a gradient, so the pass through the body leaves no graph behind.
            with torch.enable_grad(), trainer.stacked(prior) as losses:
                each = losses.under_prior(batch)
                lengths = torch.tensor([len(example.target) for example in batch], device=each.device)
                (gradient,) = torch.autograd.grad(-(each * lengths).sum(), states[-1])
            used = (gradient.abs().sum(2, keepdim=True) > 0).to(gradient.dtype)
            hidden = (states[-1].detach() * used).sum(1) / used.sum(1).clamp_min(1)
            vectors |= zip(chosen, torch.cat((gradient.sum(1), hidden), dim=1).float().cpu(), strict=True)
    finally:
        handle.remove()
    return torch.stack([vectors[index] for index in range(len(examples))])
