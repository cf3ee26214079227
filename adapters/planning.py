"""What adapters for so many users cost, before anyone pays for them.

>>> plan_training(trainer, users=100_000, records=50, tokens=128)
TrainingPlan(users=100000, bytes_per_adapter=65536, bytes_at_rest=6684672000, ..., users_per_second=11.2, ...)

Bytes are counted, time is measured: some steps of random tokens, with chunks of several sizes, on this machine. The
fastest size is the one to pass as `TrainingOptions.chunk_tokens`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from persona.adapters.training import AdapterTrainer, Lesson, TokenExample, chunks
from persona.errors import InvalidOptionError

BUDGETS = (512, 2048, 8192)
"""Sizes of chunks that are tried, in tokens."""

_OVERHEAD = 1.02
"""Bytes of the database per byte of adapters (`benchmarks/lora.py` measures it)."""

_TARGET = 4
"""Tokens of a made-up target."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to expect.

    Attributes:
        users: how many are to be trained.
        numbers: numbers of an adapter.
        bytes_per_adapter: of one at rest.
        bytes_at_rest: of one version for each user, in the database.
        bytes_per_slot: of one in a stack, in the model's dtype.
        bytes_in_training: of what is optimised at once: weights, gradients and two moments for each user of a chunk,
            and a window of finished adapters; without the model and its activations.
        chunk_tokens: the size of chunks that was fastest.
        users_at_once: users in such a chunk.
        users_per_second: at that size.
        seconds: for all users.
    """

    users: int
    numbers: int
    bytes_per_adapter: int
    bytes_at_rest: int
    bytes_per_slot: int
    bytes_in_training: int
    chunk_tokens: int
    users_at_once: int
    users_per_second: float
    seconds: float


def plan_training(trainer: AdapterTrainer, users: int, *, records: int = 50, tokens: int = 128) -> TrainingPlan:
    """Measure some steps and reckon up.

    Args:
        trainer: with the model, the adapters' shape and the options.
        users: how many.
        records: examples of each, at least 1.
        tokens: of an example, prompt and target, at least 8.

    Raises:
        InvalidOptionError: if a number is out of its range.
    """
    for name, value, least in (("users", users, 1), ("records", records, 1), ("tokens", tokens, 2 * _TARGET)):
        if value < least:
            raise InvalidOptionError(f"`{name}` must be at least {least}, was: {value}")
    options, family = trainer.options, trainer.family
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(trainer.llm.model.get_input_embeddings().weight.shape[0])

    def lesson(number: int) -> Lesson:
        ids = torch.randint(vocabulary, (tokens,), generator=generator).tolist()
        example = TokenExample(tuple(ids[:-_TARGET]), tuple(ids[-_TARGET:]))
        return Lesson(f"{number}", (example,) * min(options.batch_size, records))

    at_once, speeds = {}, {}
    for budget in BUDGETS:
        tried = replace(options, chunk_tokens=budget, epochs=1, min_steps=0, patience=None)
        most = [lesson(number) for number in range(math.ceil(budget / tokens))]
        chunk = next(chunks(most, tried))
        at_once[budget] = len(chunk)
        speeds[budget] = len(chunk) / _seconds(AdapterTrainer(trainer.llm, trainer.spec, tried), chunk)
    best = max(speeds, key=lambda budget: speeds[budget])
    learnt = records - options.split(records)
    per_epoch = math.ceil(learnt / options.batch_size)
    epochs = options.epochs_of(per_epoch)
    steps = epochs * per_epoch
    if options.refit and learnt < records:
        steps += epochs * math.ceil(records / options.batch_size)
    per_second = speeds[best] / steps
    in_chunk = 4 * 4 * family.size * at_once[best]
    return TrainingPlan(
        users=users,
        numbers=family.size,
        bytes_per_adapter=family.nbytes,
        bytes_at_rest=round(_OVERHEAD * users * family.nbytes),
        bytes_per_slot=family.size * trainer.llm.model.dtype.itemsize,
        bytes_in_training=in_chunk + 4 * family.size * min(users, options.window),
        chunk_tokens=best,
        users_at_once=at_once[best],
        users_per_second=per_second,
        seconds=users / per_second,
    )


def _seconds(trainer: AdapterTrainer, chunk: list[Lesson], repeats: int = 3) -> float:
    """Wall time of one step of `chunk`, the best of some."""
    found = []
    for _ in range(1 + repeats):
        begun = time.perf_counter()
        trainer.train_lessons(chunk)
        found.append(time.perf_counter() - begun)
    return min(found[1:])
