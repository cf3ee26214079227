"""What training loops share: the schedule of the learning rate, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from persona.errors import check_one_of

DECAYS = ("linear", "cosine")


def rate_share(step: int, steps: int, *, warm_up: int = 1, decay: str = "linear") -> float:
    """The learning rate of a step, as a share of the peak: a linear warm-up, then a decay.

    With ``W`` steps of warm-up, step ``t`` (from 0) of ``T`` has ``min((t + 1) / W, (T - t) / (T - W + 1))`` where the
    decay is linear; where it is a cosine, the share falls from 1 at step ``W`` to 0 at step ``T``.

    Args:
        step: which, from 0.
        steps: all steps.
        warm_up: those of the warm-up; fewer than 1 count as 1.
        decay: one of `DECAYS`.

    Raises:
        InvalidOptionError: if there is no such decay.
    """
    check_one_of(DECAYS, decay=decay)
    warm_up = max(1, warm_up)
    if decay == "linear":
        return min((step + 1) / warm_up, (steps - step) / (steps - warm_up + 1))
    done = max(0, step - warm_up) / max(1, steps - warm_up)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(slots=True)
class EarlyStopping:
    """Tracks the best validation loss, and ends a training after evaluations without a better one.

    Attributes:
        patience: evaluations without a better loss after which training ends; None for never.
        best: the lowest loss.
        best_step: the step that it belongs to.
        since_best: evaluations since then.
    """

    patience: int | None = None
    best: float = math.inf
    best_step: int = 0
    since_best: int = 0

    def improved(self, loss: float, step: int) -> bool:
        """Record an evaluation; whether it is the best so far, and the weights are to be kept. NaN never is."""
        if loss < self.best:
            self.best, self.best_step, self.since_best = loss, step, 0
            return True
        self.since_best += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should end."""
        return self.patience is not None and self.since_best >= self.patience
