"""What every objective is: its interface, and the step that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from persona.llm.loss import TargetLoss
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import History, HistoryBatch
from persona.soft_prompts.training.examples import Example, Examples
from persona.soft_prompts.training.tokens import ExampleTokens

Given: TypeAlias = tuple[Tensor, Mapping[int, Tensor]]
"""Soft prompts, and vectors by block of the LLM.  # (users, n_tokens, llm_hidden), (users, llm_hidden) each"""


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
        warm_up: whether the LLM computes nothing in this step.
    """

    embedder: UserEmbedder
    shown: Sequence[Example]
    histories: Sequence[History]
    examples: Examples
    draw: np.random.Generator
    tokens: ExampleTokens
    loss: TargetLoss
    warm_up: bool = False

    def batch(self, histories: Sequence[History], queries: NDArray[np.float32] | None = None) -> HistoryBatch:
        """Histories as the user embedder reads them, e.g. those of the step, masked or of other users."""
        return HistoryBatch.of(histories, self.embedder.config, queries, self.loss.device)

    def state(self, batch: HistoryBatch, values: Tensor | None = None) -> Tensor:
        """The users' states without a question (`UserEmbedder.state`), of other values if given.  # (batch, size)"""
        values = batch.values if values is None else values
        keys = values[..., : batch.keys.shape[2]]
        return self.embedder.state(keys, values, batch.mask, None, batch.days)

    def states(self, histories: Sequence[History]) -> Tensor:
        """The states of these histories.  # (histories, size)"""
        return self.state(self.batch(histories))

    def given(self) -> Given:
        """What the LLM is told of the users, with the questions of the step."""
        batch = self.batch(self.histories, self.queries())
        return batch.soft_prompts(self.embedder), batch.steering(self.embedder)

    @torch.no_grad()
    def neutral(self) -> Given:
        """The same, were they users without records; without gradients."""
        return replace(self, histories=[history.nothing() for history in self.histories]).given()

    def asked(self) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the questions alone, and of their answers."""
        pairs = [self.tokens.of(example, 0) for example in self.shown]
        return [prompt for prompt, _ in pairs], [target for _, target in pairs]

    def only(self, rows: Sequence[int]) -> Step:
        """The step with some of its examples."""
        shown, histories = [self.shown[row] for row in rows], [self.histories[row] for row in rows]
        return replace(self, shown=shown, histories=histories)

    def others(self) -> Tensor:
        """Whether two examples are of different users.  # (shown, shown)"""
        users = np.array([example.user_id for example in self.shown])
        return torch.from_numpy(users[:, None] != users).to(self.loss.device)

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

    def forward(self, step: Step) -> Tensor:
        """The term over the examples that show a record; 0 where none does.  # ()"""
        known = [row for row, history in enumerate(step.histories) if len(history)]
        return self.term(step.only(known)) if known else torch.zeros((), device=step.loss.device)

    @abstractmethod
    def term(self, step: Step) -> Tensor:
        """The mean over the examples of a step, at least one, each with a record.  # ()"""
