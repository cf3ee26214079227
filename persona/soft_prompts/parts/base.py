"""What every part of a user embedder is: its interface, and what it is given.

    views -> records -> pooling -> state -> tokens

The networks of `persona.soft_prompts.network` (mode ``"attention"``) ask the parts that `UserEmbedderConfig` names. All
that a part learns is trained and saved with the user embedder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from persona.lamp.tasks import LampSplit
from persona.records import Profile


class View(ABC):
    """Numbers of each record, which become a further block of its value. Learns nothing itself.

    Attributes:
        dim: how many.
    """

    dim: int

    @classmethod
    def fitted(cls, split: LampSplit, **options: Any) -> dict[str, Any]:
        """Its options, with what it takes from a training split, such as a vocabulary."""
        return options

    @abstractmethod
    def read(self, profile: Profile) -> NDArray[np.float32]:
        """The numbers of each record, of the order of 1; zeros where there is nothing.  # (records, dim)"""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """The records of some users, as a pooling reads them.

    Attributes:
        hidden: g_i of each record, zeros where there is none.  # (batch, records, width)
        keys: vectors of the input sides.  # (batch, records, encoder_dim)
        values: blocks of text, target, style and further views.  # (batch, records, value_dim)
        mask: True where there is a record.  # (batch, records)
        query: vectors of the questions, or None.  # (batch, encoder_dim)
        days: ages in days, or None.  # (batch, records)
        weights: attention of the heads; the rest to 1 is that of the null record.  # (batch, heads, records)
        null: g_0, what stands for no record.  # (width,)
        null_records: its weight in a mean, in records.  # ()
    """

    hidden: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor
    query: Tensor | None
    days: Tensor | None
    weights: Tensor
    null: Tensor
    null_records: Tensor

    def mean(self) -> Tensor:
        """(sum_i g_i + m g_0) / (n + m).  # (batch, width)"""
        count = self.mask.sum(1, keepdim=True) + self.null_records
        return (self.hidden.sum(1) + self.null_records * self.null) / count


class Part(nn.Module):
    """A part that is a network. What it draws from torch in training follows from the seed and the step.

    Attributes:
        loss: what a call in training adds to the loss, e.g. of a codebook; None for nothing.  # ()
    """

    loss: Tensor | None = None


class Pooling(Part, ABC):
    """From the records of a user to one vector. The order of records without dates must not matter, unless it says so.

    Args:
        config: `UserEmbedderConfig`.

    Attributes:
        size: numbers of the vector.
    """

    size: int

    @abstractmethod
    def forward(self, records: Records) -> Tensor:
        """The vectors, of the order of 1.  # (batch, size)"""


class State(Part, ABC):
    """What is kept of a user: everything that the tokens are made from passes through it.

    Args:
        config: `UserEmbedderConfig`.
        size: numbers of a dense state: the mixed heads and, with answer tokens, the vector of the usual answer.

    Attributes:
        bits: that one user's state takes in a store.
    """

    bits: int

    @abstractmethod
    def forward(self, state: Tensor, counts: Tensor) -> Tensor:
        """The state as it is after storing and reading; gradients pass.

        Args:
            state: dense.  # (batch, size)
            counts: records of each user.  # (batch,)

        Returns:
            (batch, size)
        """

    @abstractmethod
    def written(self, state: Tensor, counts: Tensor) -> list[bytes]:
        """What a store keeps of each state, in whole bytes; arguments as above."""

    @abstractmethod
    def read(self, written: Sequence[bytes]) -> Tensor:
        """The states as `forward` gives them.  # (batch, size)"""


class Tokens(Part, ABC):
    """From a user's state to soft tokens, which are added to the instruction.

    Args:
        config: `UserEmbedderConfig`.

    Attributes:
        reads_records: whether it needs more than the state; else it is given None for records that are in a store.
        steers: whether it adds to the LLM's hidden states as well.
        unordered: whether the LLM is to read its tokens as a set.
    """

    reads_records: bool = False
    steers: bool = False
    unordered: bool = False

    @abstractmethod
    def forward(self, mixed: Tensor, records: Records) -> Tensor:
        """Tokens over the LLM's scale; zeros before any training.  # (batch, n_tokens, llm_hidden)"""

    def shown(self, draw: np.random.Generator) -> int | None:
        """How many of the tokens a step of the training shows, from the first on; None for all."""
        return None

    def steering(self, mixed: Tensor, records: Records) -> dict[int, Tensor]:
        """What is added behind blocks of the LLM, over its scale; nothing by default.  # (batch, llm_hidden) each"""
        return {}
