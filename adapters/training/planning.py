"""What adapters for a number of users cost, before they are trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from persona.adapters.training.lessons import TokenExample, chunks
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import InvalidOptionError

CHUNK_TOKENS = (512, 2048, 8192)
"""Sizes of chunks that are tried."""


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


def plan(trainer: AdapterTrainer, users: int, *, records: int = 50, tokens: int = 128) -> TrainingPlan:
    """Train one chunk of users with random records for an epoch, with each size of chunks, and extrapolate.

    Args:
        trainer: with the model, the adapters' shape and the options.
        users: how many are to be trained.
        records: examples of each.
        tokens: of an example, prompt and target, at least 2.

    Raises:
        InvalidOptionError: if there are no users, `records` are fewer than `min_records`, or `tokens` is below 2.
    """
    vocabulary = int(trainer.llm.model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(vocabulary, (max(2, tokens),), generator=torch.Generator().manual_seed(0)).tolist()
    lesson = trainer.lesson("user", [TokenExample(tuple(ids[:-1]), tuple(ids[-1:]))] * records)
    if users < 1 or tokens < 2 or lesson is None:
        raise InvalidOptionError(
            f"a plan needs at least 1 user, {trainer.options.min_records} records and 2 tokens, "
            f"was: {users} users, {records} records, {tokens} tokens"
        )
    steps = lesson.steps(trainer.options)
    if trainer.options.refit and lesson.held_out:
        steps += lesson.refitted(steps, trainer.options).steps(trainer.options)
    seconds: dict[int, float] = {}
    for budget in CHUNK_TOKENS:
        tried = replace(trainer.options, chunk_tokens=budget, epochs=1, min_steps=0, patience=None)
        chunk = next(chunks([lesson] * (budget // tokens + 1), tried))
        begun = time.perf_counter()
        AdapterTrainer(trainer.llm, trainer.spec, tried).train_lessons(chunk)
        seconds[budget] = (time.perf_counter() - begun) / len(chunk) / lesson.steps_per_epoch(tried)
    best = min(seconds, key=seconds.__getitem__)
    return TrainingPlan(users * trainer.family.nbytes, best, users * steps * seconds[best])
