"""Records that have nothing to do with the question change nothing: prior preservation with records of others.

A share of the examples is shown again with another user's history: of a few training users who are drawn, the one none
of whose records is near the question. With p the LLM behind that user's soft prompt and p_0 behind the neutral prompt,
that of a user without records, both along the right answer y,

    L = mean over these examples of mean_t KL(p_0(. | y_<t) || p(. | y_<t))

It adds two passes of the LLM over this share of a step, one of them without gradients.

Source: the auxiliary images of StyleForge, which keep a model's prior while a style is bound; transferred from images
of people to the records of other users.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from persona.soft_prompts.histories import History
from persona.soft_prompts.training.examples import Example
from persona.soft_prompts.training.objectives.base import Objective, Step

_DRAWN = 4
"""Users among whom the one is sought whose records are farthest from the question."""


class AuxiliaryObjective(Objective):
    """The divergence of the module's docstring, of a `share` of the examples."""

    reads_llm = True

    def __init__(self, config: Any, state_size: int, *, weight: float = 0.1, share: float = 0.25) -> None:
        super().__init__()
        self.weight, self.share, self.dim = weight, share, config.encoder_dim

    def term(self, step: Step) -> Tensor:
        """See the module; 0 where no example or no other user is drawn.  # ()"""
        rows = np.flatnonzero(step.draw.random(len(step.shown)) < self.share).tolist()
        found = [(row, history) for row in rows if (history := foreign(step, step.shown[row], self.dim)) is not None]
        if not found:
            return torch.zeros((), device=step.loss.device)
        shown = replace(step.only([row for row, _ in found]), histories=[history for _, history in found])
        prompts, answers = shown.asked()
        expected = step.loss.log_probabilities(prompts, answers, *shown.neutral())
        return step.loss.divergences(expected, prompts, answers, *shown.given()).mean()


def foreign(step: Step, example: Example, dim: int) -> History | None:
    """Records of another user, far from the question; None where nobody else has been drawn."""
    users, histories = step.examples.users, step.examples.histories
    drawn = [users[number] for number in step.draw.permutation(len(users))[:_DRAWN]]
    others = [histories[user_id] for user_id in drawn if user_id != example.user_id and len(histories[user_id])]
    nearest = [float((other.values[:, :dim].astype(np.float32) @ example.query).max()) for other in others]
    return others[int(np.argmin(nearest))] if others else None
