"""What every objective is: its interface, and the step that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from persona.llm.loss import TargetLoss
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import History, HistoryBatch
from persona.soft_prompts.training.examples import Example, Examples
from persona.soft_prompts.training.tokens import ExampleTokens


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of a training.

    Attributes:
        embedder: the user embedder, of mode ``"attention"``.
        shown: the examples of the step.
        histories: what the step shows of each user.
        examples: all of the training: other users' records, and whole histories.
        draw: what is random of the step follows from it.
        tokens: of prompts and answers.
        loss: of the LLM.
    """

    embedder: UserEmbedder
    shown: Sequence[Example]
    histories: Sequence[History]
    examples: Examples
    draw: np.random.Generator
    tokens: ExampleTokens
    loss: TargetLoss

    def batch(self, histories: Sequence[History], queries: NDArray[np.float32] | None = None) -> HistoryBatch:
        """Histories as the user embedder reads them, e.g. those of the step, masked or of other users."""
        return HistoryBatch.of(histories, self.embedder.config, queries, self.loss.device)

    def states(self, histories: Sequence[History]) -> Tensor:
        """The users' states without a question (`UserEmbedder.state`).  # (histories, size)"""
        batch = self.batch(histories)
        return self.embedder.state(batch.keys, batch.values, batch.mask, None, batch.days)

    def queries(self) -> NDArray[np.float32]:
        """Vectors of the questions of the step.  # (shown, encoder_dim)"""
        return np.stack([example.query for example in self.shown])


class Objective(nn.Module, ABC):
    """A term of the loss of the training steps. What it learns itself is not kept.

    Args:
        config: `UserEmbedderConfig`.
        state_size: numbers of a user's state.

    Attributes:
        weight: what it is multiplied by.
        reads_llm: whether it asks the LLM; the warm-up goes without those that do.
    """

    weight: float = 1.0
    reads_llm: bool = False

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The term, a mean over the users of the step.  # ()"""
