"""What helps users with little data: their own texts, examples of others, and half of the rank.

Each is a `prepare` for `persona.adapters.training.users.train_users`, which changes lessons before they are trained.

- `warmed_up` (after "Jargon detection via personalised PEFT"): training starts from what the user's own texts taught,
  which need no answers.
- `with_others` (prior preservation, after StyleForge): examples of other users stand beside the user's own.
- `in_half`, `compose` (PLP, Break-for-Make, arXiv 2403.19456): the prior has the first half of the rank and the user's
  part the other. They share no number: an adapter whose A and B are zero in one half has a gradient of exactly zero
  there. So prior and part add up to one adapter of the family's rank, half of what is served otherwise. (The paper
  splits rows of B and columns of A; a split of the rank leaves no cross terms.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from persona.adapters.examples import text_examples
from persona.adapters.family import Family
from persona.adapters.training.lessons import Lesson, TokenExample, chunks
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import Prepare
from persona.errors import InvalidOptionError
from persona.store.profile_store import ProfileStore

HALVES = ("task", "user")
"""The two halves of an adapter's rank: the first ``r // 2`` rows of every A and columns of every B, and the rest."""


def warmed_up(trainer: AdapterTrainer, store: ProfileStore, *, prior: Tensor | None = None, epochs: int = 1) -> Prepare:
    """Start each user's training from an adapter that was trained for some epochs on the user's own texts."""

    def prepare(lessons: Sequence[Lesson]) -> list[Lesson]:
        warm_ups = [
            replace(lesson, train=tokens, held_out=(), epochs=epochs)
            for lesson in lessons
            if (tokens := trainer.tokens(text_examples(store.profile(lesson.user_id))))
        ]
        starts: dict[str, Tensor] = {}
        for chunk in chunks(warm_ups, trainer.options):
            learnt = trainer.train_lessons(chunk, prior=prior)
            starts |= {lesson.user_id: one.row for lesson, one in zip(chunk, learnt, strict=True)}
        return [replace(lesson, start=starts.get(lesson.user_id, lesson.start)) for lesson in lessons]

    return prepare


def with_others(others: Sequence[TokenExample], ratio: float, *, seed: int = 0) -> Prepare:
    """Mix `ratio` examples of others among each of the user's own; a user's own among them are left out."""

    def prepare(lessons: Sequence[Lesson]) -> list[Lesson]:
        mixed = []
        for lesson in lessons:
            pool = [example for example in others if example not in {*lesson.train, *lesson.held_out}]
            count = min(len(pool), round(ratio * len(lesson.train)))
            drawn = random.Random(f"{seed}:{lesson.user_id}").sample(pool, count)
            mixed.append(replace(lesson, others=tuple(drawn)))
        return mixed

    return prepare


def in_half(family: Family, which: str, *, seed: int = 0) -> Prepare:
    """Train one half of the rank only; errors as in `half`."""
    start = half(family, family.initial(seed=seed), which)
    return lambda lessons: [replace(lesson, start=start) for lesson in lessons]


def half(family: Family, row: Tensor, which: str) -> Tensor:
    """`row` with the other half of its rank set to zero: an adapter that shares no number with the other half's.

    Raises:
        InvalidOptionError: if `which` is not one of `HALVES`, or the rank is 1.
    """
    if which not in HALVES:
        raise InvalidOptionError(f"a half must be one of {', '.join(HALVES)}, was: {which!r}")
    if family.spec.r < 2:
        raise InvalidOptionError("halves need a rank of at least 2, was: 1")
    cut = family.spec.r // 2
    other = slice(cut, None) if which == "task" else slice(0, cut)
    halved = row.clone()[None]
    for a, b in family.pairs(halved):
        a[:, other] = 0
        b[:, :, other] = 0
    return halved[0]


def compose(family: Family, task: Tensor, user: Tensor) -> Tensor:
    """One adapter that computes the sum of what the two halves compute.

    Raises:
        InvalidOptionError: if either is more than its half.
    """
    for which, row in zip(HALVES, (task, user), strict=True):
        if not row.equal(half(family, row, which)):
            raise InvalidOptionError(f"an adapter must have the {which}'s half of the rank alone, had more")
    return task + user
