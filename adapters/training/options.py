"""The options of training users' adapters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from persona.errors import InvalidOptionError, check_least, check_positive
from persona.llm.checks import check_seed
from persona.llm.optimization import rate_share

_WARM_UP = 0.1
"""Share of a user's steps in which the learning rate rises."""

_MOST_HELD_OUT = 16


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train.

    Attributes:
        learning_rate: the highest, above 0.
        epochs: how often each example is seen, at least 1.
        min_steps: fewest steps of a user's training: with few examples there are more epochs. At least 0.
        batch_size: most examples of one user in a step, at least 1.
        weight_decay: of AdamW.
        clip: largest norm of a user's gradient; None for any.
        holdout: share of a user's examples, the newest, that are held out, at most 16; from 0 to below 1. 0 holds none
            out and publishes whatever was learnt.
        refit: train published adapters anew, on the held-out examples too.
        patience: epochs without a better held-out loss after which a user's training ends, with the best epoch's
            adapter; None trains to the end.
        min_records: fewest examples of a user who is trained, at least 1.
        max_tokens: longest example, prompt and target; longer ones are left out. None for what the model can take.
        chunk_tokens: most tokens in a step, at least 1: decides how many users are trained at once. 512 fill a CPU
            core; `persona.adapters.training.planning` finds the best size for a machine by trying.
        window: users that are sorted by length together, about; at least 1.
        seed: of the first adapter and of the order of examples.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    learning_rate: float = 2e-3
    epochs: int = 3
    min_steps: int = 12
    batch_size: int = 4
    weight_decay: float = 0.01
    clip: float | None = 1.0
    holdout: float = 0.2
    refit: bool = True
    patience: int | None = None
    min_records: int = 5
    max_tokens: int | None = None
    chunk_tokens: int = 512
    window: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(1, epochs=self.epochs, batch_size=self.batch_size, min_records=self.min_records)
        check_least(1, chunk_tokens=self.chunk_tokens, window=self.window)
        check_positive(learning_rate=self.learning_rate)
        check_least(0, min_steps=self.min_steps)
        if not 0 <= self.holdout < 1:
            raise InvalidOptionError(f"`holdout` must be from 0 to below 1, was: {self.holdout}")
        check_seed(self.seed)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` (from 0) of `steps`: a tenth of them rise, then it falls linearly."""
        return self.learning_rate * rate_share(step, steps, warm_up=math.ceil(_WARM_UP * steps))

    def epochs_of(self, steps: int) -> int:
        """Epochs of a user with `steps` in each."""
        return max(self.epochs, math.ceil(self.min_steps / steps))

    def held_out(self, count: int) -> int:
        """How many of `count` examples are held out: none where there would be none left to learn from."""
        return min(_MOST_HELD_OUT, math.ceil(self.holdout * count), count - 1)
