"""What adapters for a number of users cost, before they are trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from persona.adapters.training.lessons import Lesson, chunks
from persona.adapters.training.trainer import AdapterTrainer


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to expect.

    Attributes:
        bytes_at_rest: of one version for each user; the database adds 2 %.
        chunk_tokens: the fastest size of chunks, for `TrainingOptions.chunk_tokens`.
        seconds: for all users, at that size.
    """

    bytes_at_rest: int
    chunk_tokens: int
    seconds: float


def plan(trainer: AdapterTrainer, users: int, lesson: Lesson) -> TrainingPlan:
    """Train `lesson`, a typical user's, for an epoch in chunks of several sizes, and extrapolate to `users`."""
    steps = lesson.steps(trainer.options)
    if trainer.options.refit and lesson.held_out:
        steps += lesson.refitted(steps, trainer.options).steps(trainer.options)
    seconds: dict[int, float] = {}
    for size in (512, 2048, 8192):
        options = replace(trainer.options, chunk_tokens=size, epochs=1, min_steps=0, patience=None)
        chunk = next(chunks([lesson] * size, options))
        begun = time.perf_counter()
        AdapterTrainer(trainer.llm, trainer.spec, options).train_lessons(chunk)
        seconds[size] = (time.perf_counter() - begun) / len(chunk) / lesson.steps_per_epoch(options)
    best = min(seconds, key=seconds.__getitem__)
    return TrainingPlan(users * trainer.family.nbytes, best, users * steps * seconds[best])
