"""From records to published adapters: a window of users at a time, and only what helps the user.

**Gate.** The newest records are held out. Only if the user's part has a smaller loss on them than the prior alone is it
published; otherwise "use the prior" is. What is published is trained anew on all records, as many epochs as it was
evaluated after: of five records the one that is held out is a fifth of what is known (`TrainingOptions.refit`).

**Windows and chunks.** A window is sorted by length and cut into chunks by tokens; each chunk is published when it is
trained, in one transaction. A run that was killed loses the chunk that it was in and goes on with the rest of the
window: the membership of a window does not depend on who is published, and what is left of a sorted window is cut as it
was before, so the weights are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example, ExampleMaker
from persona.adapters.training.keys import keyed
from persona.adapters.training.lessons import Lesson, TokenExample, chunks
from persona.adapters.training.losses import UserLosses
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer, Learnt, train_side_by_side
from persona.adapters.versions import AdapterDraft, AdapterReport
from persona.records import Profile
from persona.store.profile_store import ProfileStore

Progress = Callable[[int, float], None]
"""Called with the users (or steps) done so far and the seconds since the start."""

Prepare = Callable[[Sequence[Lesson]], Sequence[Lesson]]
"""Changes the lessons of a chunk before they are trained: `examples/little_data.py`."""


def prior_examples(
    trainer: AdapterTrainer, store: ProfileStore, examples: ExampleMaker, user_ids: Iterable[str]
) -> Iterator[Example]:
    """What the prior may learn from users who are trained later: all but what will be held out of theirs."""
    for user_id in user_ids:
        # Those that are too long go first, as in a lesson: the same are held out.
        every = [example for example, _ in trainer.fitting(examples(store.profile(user_id)))]
        if every:
            yield from every[: len(every) - trainer.options.held_out(len(every))]


def train_users(
    trainer: AdapterTrainer,
    bank: AdapterBank,
    examples: ExampleMaker,
    *,
    prior: Tensor | None = None,
    user_ids: Iterable[str] | None = None,
    prepare: Prepare | None = None,
    progress: Progress | None = None,
) -> AdapterReport:
    """Train users' adapters and publish those that beat the prior.

    Args:
        trainer: with the model and the adapters' shape.
        bank: where profiles are read and versions are put.
        examples: makes a user's examples.
        prior: the shared prior; None for none.  # (size,)
        user_ids: whom to train; None for the users with records that no version of theirs has seen.
        prepare: changes a chunk's lessons before they are trained; None gives adapters with a gate their keys.
        progress: called after each chunk.
    """
    family = trainer.family.over(prior)
    if prepare is None and family.spec.gate is not None:
        prepare = keyed(trainer, prior=prior)
    begun, report = time.perf_counter(), AdapterReport()
    bank.store.remove_expired()  # what is made before would be removed with it

    def lessons(window: Iterable[str]) -> Iterator[Lesson]:
        nonlocal report
        for profile in map(bank.store.profile, window):
            own = examples(profile)
            tokens = trainer.tokens(own)
            lesson = trainer.lesson(profile.user_id, tokens, revision=profile.revision)
            too_long = report.too_long + len(own) - len(tokens)
            report = replace(report, too_long=too_long, too_few=report.too_few + (lesson is None))
            if lesson is not None:
                yield lesson

    with trainer.stacked(prior) as losses:
        for window in _windows(trainer, bank, prior, user_ids):
            for chunk in chunks(list(lessons(window)), trainer.options):
                drafts = _drafts(losses, prepare(chunk) if prepare else chunk, trainer.options)
                report = report.plus(drafts, bank.publish(family, drafts))
                report = replace(report, examples=report.examples + sum(len(lesson.train) for lesson in chunk))
                if progress is not None:
                    progress(report.users, time.perf_counter() - begun)
    return replace(report, seconds=time.perf_counter() - begun)


def publish_untrained(
    trainer: AdapterTrainer,
    bank: AdapterBank,
    examples: ExampleMaker,
    compute: Callable[[Profile, tuple[TokenExample, ...]], Tensor],
    *,
    prior: Tensor | None = None,
    user_ids: Iterable[str] | None = None,
    judged: int | None = None,
    older: Callable[[Profile], Tensor] | None = None,
) -> AdapterReport:
    """Compute adapters without training, and publish those whose loss on the user's examples is below the prior's.

    Without `older` that loss is on the records that the adapter comes from, a weaker gate than that of training.

    Args:
        trainer: as in `train_users`, as are `bank`, `examples`, `prior` and `user_ids`.
        compute: the adapter from a profile and its examples, at least one, oldest first.  # (size,)
        judged: how many of the newest examples that loss is of; None for all, 0 publishes every adapter.
        older: the adapter from a user's older records; it is judged, on the newest (`TrainingOptions.held_out`), and if
            it wins that of `compute` is published. A user with one record keeps the prior.
    """
    begun, report = time.perf_counter(), AdapterReport()
    bank.store.remove_expired()  # what is made before would be removed with it
    for window in _windows(trainer, bank, prior, user_ids):
        drafts = []
        for profile in map(bank.store.profile, window):
            tokens = trainer.tokens(examples(profile))
            if not tokens:
                report = replace(report, too_few=report.too_few + 1)
                continue
            made = compute(profile, tokens)
            row: Tensor | None = made
            metrics: dict[str, float] = {"examples": len(tokens)}
            if judged != 0:
                tried, some = made, tokens[-judged if judged else 0 :]
                if older is not None:
                    parts = _parted(profile, examples, trainer.options.held_out(len(tokens)))
                    tried, some = older(parts[0]), trainer.tokens(examples(parts[1]))
                losses = (
                    trainer.losses(torch.stack((tried, torch.zeros_like(tried))), some, prior=prior) if some else []
                )
                metrics |= zip(("loss_untrained", "loss_prior"), losses, strict=False)
                row = row if losses and losses[0] < losses[1] else None
            drafts.append(AdapterDraft(profile.user_id, row, profile.revision, metrics))
        report = report.plus(drafts, bank.publish(trainer.family.over(prior), drafts))
        report = replace(report, examples=report.examples + sum(int(each.metrics["examples"]) for each in drafts))
    return replace(report, seconds=time.perf_counter() - begun)


def _parted(profile: Profile, examples: ExampleMaker, newest: int) -> tuple[Profile, Profile]:
    """The older records of a profile, and those of its newest examples."""
    cut = len(profile) - newest
    while len(examples(Profile(profile.user_id, profile.records[cut:]))) < newest:
        cut -= 1
    return Profile(profile.user_id, profile.records[:cut]), Profile(profile.user_id, profile.records[cut:])


def _windows(
    trainer: AdapterTrainer, bank: AdapterBank, prior: Tensor | None, user_ids: Iterable[str] | None
) -> Iterator[list[str]]:
    """The users who are to get an adapter, a window at a time."""
    family, size = trainer.family.over(prior), trainer.options.window
    bank.add_family(family, prior)
    if user_ids is None:
        yield from bank.stale_windows(family, size)
        return
    given = iter(user_ids)
    while window := list(islice(given, size)):
        yield window


def _drafts(losses: UserLosses, lessons: Sequence[Lesson], options: TrainingOptions) -> list[AdapterDraft]:
    """The versions of a chunk's users, whose lessons may have grown since it was cut."""
    drafts: dict[str, AdapterDraft] = {}
    again: list[Lesson] = []
    for chunk in chunks(lessons, options):
        for lesson, learnt in zip(chunk, train_side_by_side(losses, chunk, options), strict=True):
            drafts[lesson.user_id] = _draft(lesson, learnt)
            if options.refit and lesson.held_out and learnt.wins:
                again.append(lesson.refitted(learnt.steps, options))
    for chunk in chunks(again, options):
        for lesson, learnt in zip(chunk, train_side_by_side(losses, chunk, options), strict=True):
            draft = drafts[lesson.user_id]
            # The losses stay those of the one that was evaluated: nothing is left to evaluate this one by.
            metrics = {**draft.metrics, "examples": len(lesson.train), "steps": learnt.steps}
            drafts[lesson.user_id] = replace(draft, row=learnt.row, metrics=metrics)
    return list(drafts.values())


def _draft(lesson: Lesson, learnt: Learnt) -> AdapterDraft:
    """The version to publish: what was learnt if it beats the prior, else nothing."""
    metrics: dict[str, float] = {"examples": len(lesson.train), "steps": learnt.steps}
    if learnt.loss is not None and learnt.loss_prior is not None:
        metrics |= {"loss": learnt.loss, "loss_prior": learnt.loss_prior, "held_out": len(lesson.held_out)}
    return AdapterDraft(lesson.user_id, learnt.row if learnt.wins else None, lesson.revision, metrics)
