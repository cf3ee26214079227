"""What one adapter is trained on, in tokens, and how users are put together in a step."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from persona.adapters.training.options import TrainingOptions


@dataclass(frozen=True, slots=True)
class TokenExample:
    """An example in tokens: the ids of the prompt, and those of the target, end token included."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one adapter is trained on.

    Attributes:
        user_id: whose it is.
        train: to learn from, at least one, oldest first.
        held_out: to evaluate by.
        revision: of the profile.
        others: examples that are not the user's own, learnt from beside `train`.
        start: the adapter that training starts from; None for the one that changes nothing.  # (size,)
        epochs: how often each example is seen; None for what the options say.
    """

    user_id: str
    train: tuple[TokenExample, ...]
    held_out: tuple[TokenExample, ...] = ()
    revision: int = 0
    others: tuple[TokenExample, ...] = ()
    start: Tensor | None = field(default=None, compare=False, repr=False)
    epochs: int | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(map(len, (*self.train, *self.held_out, *self.others)))

    @property
    def size(self) -> int:
        """Examples that are learnt from."""
        return len(self.train) + len(self.others)

    def steps_per_epoch(self, options: TrainingOptions) -> int:
        """Optimizer steps in which each example is seen once."""
        return math.ceil(self.size / options.batch_size)

    def steps(self, options: TrainingOptions) -> int:
        """All optimizer steps."""
        per_epoch = self.steps_per_epoch(options)
        return (self.epochs or options.epochs_of(per_epoch)) * per_epoch

    def refitted(self, steps: int, options: TrainingOptions) -> Lesson:
        """The same with nothing held out, for as many epochs as there are in `steps`."""
        epochs = steps // self.steps_per_epoch(options)
        return replace(self, train=(*self.train, *self.held_out), held_out=(), epochs=epochs)

    def batch(self, step: int, options: TrainingOptions) -> list[TokenExample]:
        """The examples of a step: each epoch shuffles anew and deals into parts of nearly equal size."""
        parts = self.steps_per_epoch(options)
        epoch, part = divmod(step, parts)
        pool = [*self.train, *self.others]
        random.Random(f"{options.seed}:{epoch}").shuffle(pool)
        start, end = (len(pool) * edge // parts for edge in (part, part + 1))
        return pool[start:end]


def chunks(lessons: Sequence[Lesson], options: TrainingOptions) -> Iterator[list[Lesson]]:
    """Cut lessons into those that are trained at once: alike in steps and length, and few enough for `chunk_tokens`.

    A user whose own batch fills a chunk is trained alone.
    """
    left = sorted(lessons, key=lambda lesson: (lesson.steps(options), lesson.longest), reverse=True)
    chunk: list[Lesson] = []
    tokens = 0  # of the chunk's widest user
    for lesson in left:
        own = math.ceil(lesson.size / lesson.steps_per_epoch(options)) * lesson.longest
        widest = max(tokens, own)
        if chunk and widest * (len(chunk) + 1) > options.chunk_tokens:
            yield chunk
            chunk, widest = [], own
        chunk.append(lesson)
        tokens = widest
    if chunk:
        yield chunk


def parted(count: int, targets: int, draw: random.Random) -> tuple[list[int], list[int]]:
    """Some of a user's `count` examples to read, at least one, and others as targets; `count` is at least 2.

    As often from 1 to 2 are read as from 2 to 4, and so on to all that are left.
    """
    order = list(range(count))
    draw.shuffle(order)
    targets = min(targets, count - 1)
    left = order[targets:]
    read = max(1, min(len(left), round(math.exp(draw.uniform(0, math.log(len(left) + 0.5))))))
    return left[:read], order[:targets]
