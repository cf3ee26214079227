"""From records to published steering vectors: the mean difference, block and strength that help, or none.

The newest records are held out. Block and strength are those with the least loss on them, of the direction of the other
records; only if that gain is beyond chance is a vector published, with the direction of all records. Otherwise the bank
says that the user does better without (`persona.adapters.versions.PRIOR`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.versions import AdapterDraft, AdapterReport
from persona.records import Profile
from persona.steering.choosing import capped, choose
from persona.steering.contrast import Contrast, Differences
from persona.steering.options import as_row
from persona.steering.preference import trained_direction
from persona.store.profile_store import ProfileStore


def steer_users(
    bank: AdapterBank,
    contrast: Contrast,
    *,
    user_ids: Iterable[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> AdapterReport:
    """Make users' steering vectors and publish those that help.

    Each user is published when done: a run that was stopped goes on with the others.

    Args:
        bank: where profiles are read and versions are put.
        contrast: reads the records.
        user_ids: whose; None for the users with records that no version of theirs has seen.
        progress: called with the users done so far.
    """
    family, begun, report = contrast.family, time.perf_counter(), AdapterReport()
    bank.add_family(family)
    bank.store.remove_expired()  # what is made before would be removed with it
    for user_id in bank.stale_users(family) if user_ids is None else user_ids:
        profile = bank.store.profile(user_id)
        drafts, examples = made(bank.store, contrast, profile)
        report = report.plus(drafts, bank.publish(family, drafts))
        report = replace(report, examples=report.examples + examples, too_few=report.too_few + (not drafts))
        if progress is not None:
            progress(report.users + report.too_few)
    return replace(report, seconds=time.perf_counter() - begun)


def made(store: ProfileStore, contrast: Contrast, profile: Profile) -> tuple[list[AdapterDraft], int]:
    """The version of a user to publish, if there are enough records, and how many there are."""
    options, read = contrast.options, contrast.differences(store, profile)
    count = len(read.own)
    if count < options.min_records:
        return [], count
    train = count - options.held_out(count)
    lengths = {block: float(read.lengths[:, place].mean()) for place, block in enumerate(contrast.blocks)}
    found = choose(
        contrast.loss, _directions(store, contrast, profile, read, train), lengths, read.own[train:], options
    )
    metrics: dict[str, float] = {
        "records": count,
        "held_out": count - train,
        "block": found.block,
        "strength": found.strength,
        "loss": found.loss,
        "loss_prior": found.loss_plain,
    }
    row = None
    if found.wins:
        direction = _directions(store, contrast, profile, read, count, only=found.block)[found.block]
        vector = capped(direction * found.strength, lengths[found.block], options.cap)
        metrics["length"] = float(vector.norm())
        row = as_row(contrast.family, {found.block: vector})
    return [AdapterDraft(profile.user_id, row, profile.revision, metrics)], count


def _directions(
    store: ProfileStore, contrast: Contrast, profile: Profile, read: Differences, first: int, only: int | None = None
) -> dict[int, Tensor]:
    """The direction of the first records behind each block, or one of them.  # (hidden,) each"""
    blocks = {block: place for place, block in enumerate(contrast.blocks) if only in (None, block)}
    if not contrast.options.bipo:
        mean = torch.from_numpy(read.vectors[:first].mean(0))
        return {block: mean[place] for block, place in blocks.items()}
    own = read.own[:first]
    neutral = contrast.neutral(store, profile, own)
    texts = [neutral[each.record_id] for each in own]
    return {block: trained_direction(contrast.loss, block, own, texts, contrast.options) for block in blocks}
