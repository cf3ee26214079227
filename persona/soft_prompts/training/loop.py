"""The loop of every stage of a training: steps, evaluations on validation users, and the best weights at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from persona.errors import InvalidOptionError, PersonaError
from persona.files import replacing
from persona.llm.optimization import EarlyStopping, rate_share

_WARM_UP_SHARE = 0.05
"""Share of the steps in which the learning rate rises to its peak."""

_UNREADABLE = (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, UnpicklingError)
"""What `torch.load` raises on a broken file."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        stage: ``"warm-up"``, ``"answers"``, ``"new users"`` or ``"copying"``.
        done: steps done; while it learns what to copy, target tokens read.
        total: most steps, or tokens.
        loss: of the step; None where there is none.
        best: the lowest validation loss so far; None where there is none.
    """

    stage: str
    done: int
    total: int
    loss: float | None = None
    best: float | None = None


Progress = Callable[[TrainingProgress], object]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Most steps of a stage, its peak learning rate, how often and how patiently it is evaluated, and its seed."""

    steps: int
    learning_rate: float
    evaluate_every: int
    patience: int
    seed: int = 0


class TrainingLoop:
    """Trains a module, and leaves it with its best weights.

    Args:
        stage: name of the stage, for its progress.
        module: whose weights are evaluated and kept.
        optimizer: of the weights that are trained.
        schedule: how long, and how fast.
        take: takes the step of a number, the optimizer's with it; its loss.
        validate: the loss on validation users.
        evaluated: called after each evaluation, e.g. to save a checkpoint.
        beside: what is trained with it and not kept.

    Attributes:
        step: steps taken.
        stopping: the best validation loss, and its step.
        before: the validation loss at step 0.
    """

    def __init__(
        self,
        stage: str,
        module: nn.Module,
        optimizer: Any,
        schedule: Schedule,
        *,
        take: Callable[[int], float],
        validate: Callable[[], float],
        evaluated: Callable[[], object] = lambda: None,
        beside: nn.Module | None = None,
    ) -> None:
        self.stage, self.module, self.optimizer, self.schedule = stage, module, optimizer, schedule
        self._take, self._validate, self._evaluated = take, validate, evaluated
        self._beside = beside or nn.Module()
        self.step = 0
        self.stopping = EarlyStopping(schedule.patience)
        self.before = math.inf
        self._evaluated_at = -1
        self._best_weights = _copied_weights(module)

    def run(self, progress: Progress | None = None) -> None:
        """Take steps until there are enough, or no better ones come."""
        schedule = self.schedule
        warm_up = max(1, round(_WARM_UP_SHARE * schedule.steps))
        while self.step < schedule.steps:
            if self.step % schedule.evaluate_every == 0:
                self._evaluate()
                if self.stopping.exhausted:
                    break
            share = rate_share(self.step, schedule.steps, warm_up=warm_up, decay="cosine")
            for group in self.optimizer.param_groups:
                group["lr"] = schedule.learning_rate * share
            with torch.random.fork_rng(devices=[]):
                # What a module draws from torch follows from the step, so that a run that goes on draws the same.
                torch.manual_seed((schedule.seed + self.step * 2**32) % 2**63)
                loss = self._take(self.step)
            self.step += 1
            if progress is not None:
                progress(TrainingProgress(self.stage, self.step, schedule.steps, loss, self.stopping.best))
        else:
            self._evaluate()
        self.module.load_state_dict(self._best_weights)

    def state(self) -> dict[str, Any]:
        """What `resume` takes, as tensors and numbers."""
        return {
            "module": self.module.state_dict(),
            "beside": self._beside.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self._best_weights,
            "step": self.step,
            "before": self.before,
            "stopping": [self.stopping.best, self.stopping.best_step, self.stopping.since_best],
        }

    def save(self, path: Path, run: str) -> None:
        """Write a checkpoint, which `run` names; nothing before the first step."""
        if self.step:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                torch.save({"run": run, "state": self.state()}, temporary)

    def load(self, path: Path, run: str, device: torch.device) -> bool:
        """Go on from a checkpoint, if there is one, and say whether there was.

        Raises:
            InvalidOptionError: if it is of another run.
            PersonaError: if it cannot be read.
        """
        if not path.is_file():
            return False
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
            name, state = saved["run"], saved["state"]
        except _UNREADABLE as error:  # torch's own words would advise to load it unsafely
            raise PersonaError(f"{path}: the checkpoint cannot be read, delete it to begin anew") from error
        if name != run:
            raise InvalidOptionError(
                f"{path} is the checkpoint of a run with other options, data or models: finish that one, "
                "delete the file, or train into another folder"
            )
        self.resume(state)
        return True

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a `state`, which is always that after an evaluation."""
        self.module.load_state_dict(state["module"])
        self._beside.load_state_dict(state["beside"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._best_weights = state["best_weights"]
        self.step = self._evaluated_at = state["step"]
        self.before = state["before"]
        self.stopping = EarlyStopping(self.schedule.patience, *state["stopping"])

    def _evaluate(self) -> None:
        """Evaluate, and keep the weights if they are the best; once a step, even if a run goes on from there."""
        if self._evaluated_at == self.step:
            return
        self._evaluated_at = self.step
        with torch.no_grad():
            loss = self._validate()
        if self.step == 0:
            self.before = loss
        if self.stopping.improved(loss, self.step):
            self._best_weights = _copied_weights(self.module)
        self._evaluated()


def _copied_weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
