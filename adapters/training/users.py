"""From records to published adapters: a window of users at a time, and only what helps the user.

**Gate.** The newest records are held out. Only if the user's part has a smaller loss on them than the prior alone is it
published; otherwise "use the prior" is. What is published is trained anew on all records, as many epochs as it was
evaluated after: of five records the one that is held out is a fifth of what is known (`TrainingOptions.refit`).

**Windows.** A window is sorted by length, cut into chunks by tokens, and published in one transaction. A run that was
killed goes on with the window that it was in: whoever is in the bank is no longer stale, the windows are the same, and
so are the weights.
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
"""Changes the lessons of a window before they are trained: `persona.adapters.training.little_data`."""

_UNTRAINED_WINDOW = 64


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
        prepare: changes a window's lessons before they are trained.
        progress: called after each chunk.
    """
    family = trainer.family.over(prior)
    begun, report = time.perf_counter(), AdapterReport()

    def lessons() -> Iterator[Lesson]:
        nonlocal report
        for profile in _profiles(trainer, bank, prior, user_ids):
            own = examples(profile)
            tokens = trainer.tokens(own)
            lesson = trainer.lesson(profile.user_id, tokens, revision=profile.revision)
            too_long = report.too_long + len(own) - len(tokens)
            report = replace(report, too_long=too_long, too_few=report.too_few + (lesson is None))
            if lesson is not None:
                yield lesson

    def tell(users: int) -> None:
        if progress is not None:
            progress(report.users + users, time.perf_counter() - begun)

    stream = lessons()
    with trainer.stacked(prior) as losses:
        while window := list(islice(stream, trainer.options.window)):
            drafts = _drafts(losses, prepare(window) if prepare else window, trainer.options, tell)
            report = report.plus(drafts, bank.publish(family, drafts))
            report = replace(report, examples=report.examples + sum(len(lesson.train) for lesson in window))
    return replace(report, seconds=time.perf_counter() - begun)


def publish_untrained(
    trainer: AdapterTrainer,
    bank: AdapterBank,
    examples: ExampleMaker,
    compute: Callable[[tuple[TokenExample, ...]], Tensor],
    *,
    prior: Tensor | None = None,
    user_ids: Iterable[str] | None = None,
    newest: int | None = None,
) -> AdapterReport:
    """Compute adapters without training, and publish those whose loss on the user's examples is below the prior's.

    That loss is taken on the records that the adapter comes from, so this is a weaker gate than that of training.

    Args:
        trainer: as in `train_users`, as are `bank`, `examples`, `prior` and `user_ids`.
        compute: the adapter from a user's examples, at least one, oldest first.  # (size,)
        newest: use no more of a user's examples than the newest of this number; None for all.
    """
    report, profiles = AdapterReport(), _profiles(trainer, bank, prior, user_ids)
    while window := list(islice(profiles, _UNTRAINED_WINDOW)):
        drafts = []
        for profile in window:
            tokens = trainer.tokens(examples(profile))[-newest if newest else 0 :]
            if not tokens:
                report = replace(report, too_few=report.too_few + 1)
                continue
            row = compute(tokens)
            loss, loss_prior = trainer.losses(torch.stack((row, torch.zeros_like(row))), tokens, prior=prior)
            metrics = {"loss_untrained": loss, "loss_prior": loss_prior, "examples": len(tokens)}
            row_if_better = row if loss < loss_prior else None
            drafts.append(AdapterDraft(profile.user_id, row_if_better, profile.revision, metrics))
        report = report.plus(drafts, bank.publish(trainer.family.over(prior), drafts))
    return report


def _profiles(
    trainer: AdapterTrainer, bank: AdapterBank, prior: Tensor | None, user_ids: Iterable[str] | None
) -> Iterator[Profile]:
    """The profiles of users who are to get an adapter."""
    family = trainer.family.over(prior)
    bank.add_family(family, prior)
    for user_id in bank.stale_users(family) if user_ids is None else user_ids:
        yield bank.store.profile(user_id)


def _drafts(
    losses: UserLosses, window: Sequence[Lesson], options: TrainingOptions, tell: Callable[[int], None]
) -> list[AdapterDraft]:
    """The versions of a window's users."""
    drafts: dict[str, AdapterDraft] = {}
    again: list[Lesson] = []
    for chunk in chunks(window, options):
        for lesson, learnt in zip(chunk, train_side_by_side(losses, chunk, options), strict=True):
            drafts[lesson.user_id] = _draft(lesson, learnt)
            if options.refit and lesson.held_out and learnt.wins:
                again.append(lesson.refitted(learnt.steps, options))
        tell(len(drafts))
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
