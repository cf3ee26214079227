"""With a user's prompt the LLM prefers the user's own answer to another user's answer to a like question.

With y the user's own answer, w the other one, p the LLM with the user's soft prompt and p_0 with the neutral prompt,
that of a user without records, whose probabilities are the reference,

    L = -log sigmoid(beta * (log p(y) / p_0(y) - log p(w) / p_0(w)))

w is the answer to the nearest question by another training user who answered it otherwise, of some that are drawn; of
a longer one than y the beginning, which fits wherever y does.
It adds four passes of the LLM over questions and answers to a step, two of them without gradients.

Source: "Direct Preference Optimization: Your Language Model is Secretly a Reward Model" (arXiv 2305.18290), as Pigeon
uses it on preferred images; pairs of a user's own and another user's text are our transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.training.objectives.base import Given, Objective, Step

_POOL = 256
"""Training questions that are drawn to find a like one among."""


class PreferenceObjective(Objective):
    """The loss of the module's docstring."""

    reads_llm = True

    def __init__(self, config: Any, state_size: int, *, weight: float = 0.3, beta: float = 0.1) -> None:
        super().__init__()
        self.weight, self.beta = weight, beta

    def term(self, step: Step) -> Tensor:
        """See the module; 0 where nobody answered otherwise.  # ()"""
        found = [(row, answer) for row, answer in enumerate(rivals(step)) if answer is not None]
        if not found:
            return torch.zeros((), device=step.loss.device)
        step = step.only([row for row, _ in found])
        prompts, own = step.asked()
        others = step.loss.llm.target_ids([answer for _, answer in found])
        answers = own + [other[: len(answer)] for other, answer in zip(others, own, strict=True)]
        user = log_likelihoods(step, prompts, answers, step.given())
        with torch.no_grad():
            reference = log_likelihoods(step, prompts, answers, step.neutral())
        return preference(user - reference, self.beta)


def rivals(step: Step) -> list[str | None]:
    """For each example another user's other answer to the nearest question; None where there is none."""
    train = step.examples.train
    drawn = [train[number] for number in step.draw.permutation(len(train))[:_POOL]]
    likeness = step.queries() @ np.stack([example.query for example in drawn]).T
    found: list[str | None] = []
    for example, row in zip(step.shown, likeness, strict=True):
        legal = np.array([other.user_id != example.user_id and other.gold != example.gold for other in drawn])
        found.append(drawn[int(np.where(legal, row, -np.inf).argmax())].gold if legal.any() else None)
    return found


def log_likelihoods(step: Step, prompts: list[list[int]], answers: Sequence[Sequence[int]], given: Given) -> Tensor:
    """log p of the answers, own ones first.  # (2 * shown,)"""
    lengths = torch.tensor([len(answer) for answer in answers], device=step.loss.device)
    soft_prompts, steering = given
    twice = {block: vectors.repeat(2, 1) for block, vectors in steering.items()}
    return -lengths * step.loss(prompts * 2, answers, soft_prompts.repeat(2, 1, 1), twice)


def preference(gains: Tensor, beta: float) -> Tensor:
    """The loss of log p / p_0 of own answers and then of the others.  # (2 * shown,) -> ()"""
    own, other = gains.chunk(2)
    return -F.logsigmoid(beta * (own - other)).mean()
