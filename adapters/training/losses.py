"""The losses of many users at once: every row of a batch is computed with its own user's adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from persona.adapters.stacked import PRIOR_SLOT, StackedLoRA
from persona.adapters.training.lessons import TokenExample
from persona.llm.loss import TargetLoss
from persona.protocols import GenerationOptions

_EVALUATED = 4
"""How many times a step's tokens are evaluated at once: without gradients there is room for more."""


class UserLosses:
    """Each user's mean loss under an adapter, in nats per token.

    Args:
        stack: the adapters' layers.
        loss: of the frozen LLM.
        chunk_tokens: most tokens in a training step.
    """

    def __init__(self, stack: StackedLoRA, loss: TargetLoss, chunk_tokens: int) -> None:
        self.stack, self._loss, self._chunk_tokens = stack, loss, chunk_tokens

    def means(self, rows: Tensor, batches: Sequence[Sequence[TokenExample]]) -> Tensor:
        """The mean over each user's examples, at least one, in one pass; gradients reach `rows`.  # (users,)

        Args:
            rows: a row for each user, or one for all.  # (users or 1, size)
            batches: the examples of each user.
        """
        with self.stack.using(rows.to(self.stack.device, self.stack.dtype)):
            each = self._each(_filled(batches)).double()
        return _means(each, batches)

    def divergences(
        self, rows: Tensor, batches: Sequence[Sequence[TokenExample]], shown: Sequence[Sequence[TokenExample]]
    ) -> Tensor:
        """How far answers are from those of the plain LLM with a user's records in its prompt, in nats.  # (users,)

        Args:
            rows: as in `means`, as are the batches; gradients reach them.
            shown: the records of each user. The first are left out where the LLM can read no more.
        """
        filled, known = _filled(batches), [own for own in shown for _ in range(max(map(len, batches)))]
        targets = [example.target for example in filled]
        longest = self._loss.llm.input_limit(GenerationOptions(max_new_tokens=max(map(len, targets))))
        prompts = [_with_records(own, example, longest) for own, example in zip(known, filled, strict=True)]
        expected = self._loss.log_probabilities(prompts, targets)
        with self.stack.using(rows.to(self.stack.device, self.stack.dtype)):
            each = self._loss.divergences(expected, [example.prompt for example in filled], targets)
        return _means(each.double(), batches)

    def gradients(self, rows: Tensor, batches: Sequence[Sequence[TokenExample]]) -> Tensor:
        """The gradient of each user's mean loss.  # (users, size)"""
        leaf = rows.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(self.means(leaf, batches).sum(), leaf)
        return gradients

    def under_prior(self, examples: Sequence[TokenExample]) -> Tensor:
        """The loss of each example with the prior alone, the plain model's where there is none.  # (examples,)"""
        slot = None if self.stack.family.prior is None else PRIOR_SLOT
        with self.stack.rows([slot] * len(examples)):
            return self._each(examples)

    @torch.no_grad()
    def evaluated(self, rows: Tensor, examples: Sequence[Sequence[TokenExample]]) -> list[float | None]:
        """The mean over each user's examples, as many at a time as fit; None for a user without any.

        Args:
            rows: a row for each user, or one for all.  # (users or 1, size)
            examples: of each user.
        """
        losses: list[float | None] = [None] * len(examples)
        asked = [user for user, own in enumerate(examples) if own]
        if not asked:
            return losses
        longest = max(len(one) for own in examples for one in own)
        budget = _EVALUATED * self._chunk_tokens
        # Many users with few examples go side by side; one user with many goes part after part.
        part = max(1, min(max(len(examples[user]) for user in asked), budget // longest))
        at_once = max(1, budget // (part * longest))
        for start in range(0, len(asked), at_once):
            users = asked[start : start + at_once]
            totals = dict.fromkeys(users, 0.0)
            for first in range(0, max(len(examples[user]) for user in users), part):
                now = [user for user in users if len(examples[user]) > first]
                batches = [examples[user][first : first + part] for user in now]
                chosen = rows if len(rows) == 1 else rows[torch.tensor(now, device=rows.device)]
                for user, mean, batch in zip(now, self.means(chosen, batches).tolist(), batches, strict=True):
                    totals[user] += mean * len(batch)
            for user, total in totals.items():
                losses[user] = total / len(examples[user])
        return losses

    def _each(self, examples: Sequence[TokenExample]) -> Tensor:
        return self._loss([example.prompt for example in examples], [example.target for example in examples])


def _filled(batches: Sequence[Sequence[TokenExample]]) -> list[TokenExample]:
    """All examples, short batches filled up with some that do not count (`_means`)."""
    size = max(map(len, batches))
    return [example for batch in batches for example in (*batch, *[batch[0]] * (size - len(batch)))]


def _means(each: Tensor, batches: Sequence[Sequence[TokenExample]]) -> Tensor:
    """The mean over each batch of what was computed for `_filled` ones.  # (batches,)"""
    size = max(map(len, batches))
    weights = [1 / len(batch) if index < len(batch) else 0.0 for batch in batches for index in range(size)]
    return (each * torch.tensor(weights, dtype=torch.float64, device=each.device)).view(-1, size).sum(1)


def _with_records(records: Sequence[TokenExample], example: TokenExample, longest: int | None) -> list[int]:
    """The tokens of as many of the records as there is room for, and then those of the prompt."""
    prompt = list(example.prompt)
    for record in reversed(records):
        if longest is not None and len(record) + len(prompt) > longest:
            break
        prompt = [*record.prompt, *record.target, *prompt]
    return prompt
