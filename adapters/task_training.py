"""The task adapter from a training split: what its users have in common, learnt once.

>>> made = train_task_adapter(read_split(folder, "train"), llm, LoraSpec(r=8), TrainingOptions(), TaskTraining())
>>> made.save(Path("adapters/film"))

The examples are the training users' questions with their answers, and the records of their profiles in the task's own
words. A share of the users is kept aside: what was learnt is kept only as far as it is good for people it was not
learnt from. Adapters of some training users, from which others may borrow (`persona.adapters.neighbours`), and a router
(`persona.adapters.routed`) can be trained over it in the same go. No user of another split has any part in it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from persona.adapters.examples import Example, history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.routed import RouterOptions, train_router
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training import AdapterTrainer, Lesson, TrainingOptions, chunks
from persona.errors import InvalidOptionError
from persona.lamp.tasks import LampSplit
from persona.llm.transformers import TransformersLM
from persona.records import Profile

Stages = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TaskTraining:
    """How to train a task adapter.

    Attributes:
        users: only the first so many training users; None takes all.
        records: learn from the records in their profiles too, not only from their questions.
        epochs: of the task adapter at most.
        learning_rate: its highest.
        examples: most examples of it.
        aside: share of users that is kept aside, from 0 to below 1; 0 trains all epochs.
        candidates: so many of the training users get adapters of their own, from which others may borrow.
        routed: so many meta-adapters, a divisor of the rank; 0 for none.
        routed_steps: steps of their training.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    users: int | None = None
    records: bool = True
    epochs: int = 2
    learning_rate: float = 2e-3
    examples: int = 20_000
    aside: float = 0.1
    candidates: int = 0
    routed: int = 0
    routed_steps: int = 400

    def __post_init__(self) -> None:
        if not 0 <= self.aside < 1:
            raise InvalidOptionError(f"`aside` must be from 0 to below 1, was: {self.aside}")


def train_task_adapter(
    split: LampSplit,
    llm: TransformersLM,
    spec: LoraSpec,
    options: TrainingOptions,
    training: TaskTraining,
    *,
    progress: Stages | None = None,
) -> TaskAdapter:
    """Train a task adapter, and what is to be trained over it.

    Args:
        split: the training split, with golds.
        llm: the frozen LLM.
        spec: the adapters' shape.
        options: of the users' own parts; its seed and `max_tokens` hold for everything.
        training: of the task adapter.
        progress: told a stage, what is done of it and what there is to do.

    Raises:
        InvalidOptionError: if there are no golds, or fewer than 2 users.
    """
    told = progress or (lambda stage, done, total: None)
    begun = time.perf_counter()
    per_user = _examples(split, training.records)
    owners = list(per_user)[: training.users]
    if len(owners) < 2:
        raise InvalidOptionError(f"a task adapter needs at least 2 training users, was: {len(owners)}")
    random.Random(options.seed).shuffle(owners)
    aside = round(training.aside * len(owners))
    taught = owners[aside:]
    prior_options = replace(options, epochs=training.epochs, learning_rate=training.learning_rate)
    trainer = AdapterTrainer(llm, spec, prior_options)
    told("task adapter", 0, 1)
    learnt = trainer.train_prior(
        (example for owner in taught for example in per_user[owner]),
        held_out=[example for owner in owners[:aside] for example in per_user[owner]],
        max_examples=training.examples,
    )
    told("task adapter", 1, 1)
    count = min(training.examples, sum(len(per_user[owner]) for owner in taught))
    report: dict[str, float] = {"users": len(taught), "examples": count, "steps": learnt.steps}
    if learnt.loss is not None and learnt.loss_prior is not None:
        report |= {"loss": learnt.loss, "loss_before": learnt.loss_prior}
    trainer = AdapterTrainer(llm, spec, options)
    made = TaskAdapter(trainer.family, learnt.row, options, split.task.name, report=report)
    if training.candidates:
        lessons = [trainer.lesson(owner, per_user[owner]) for owner in taught]
        chosen = [lesson for lesson in lessons if lesson is not None][: training.candidates]
        made = replace(made, candidates=_own_parts(trainer, chosen, learnt.row, told))
    if training.routed:
        router, loss, before = train_router(
            trainer,
            (trainer.tokens(per_user[owner]) for owner in taught),
            RouterOptions(n=training.routed, steps=training.routed_steps, seed=options.seed),
            prior=learnt.row,
            progress=lambda steps, seconds: told("meta-adapters", steps, training.routed_steps),
        )
        made = replace(made, router=router.state_dict())
        report |= {"loss_routed": loss, "loss_unrouted": before}
    if made.candidates is not None:
        report["candidates"] = len(made.candidates)
    return replace(made, report={**report, "seconds": round(time.perf_counter() - begun, 1)})


def _own_parts(
    trainer: AdapterTrainer, lessons: list[Lesson], prior: torch.Tensor, told: Stages
) -> torch.Tensor | None:
    """The adapters of those of the lessons' users for whom they beat the prior.  # (users, size)"""
    rows, done = [], 0
    for chunk in chunks(lessons, trainer.options):
        for learnt in trainer.train_lessons(chunk, prior=prior):
            if learnt.loss is None or learnt.loss_prior is None or learnt.loss < learnt.loss_prior:
                rows.append(learnt.row.cpu())
        done += len(chunk)
        told("training users' adapters", done, len(lessons))
    return torch.stack(rows) if rows else None


def _examples(split: LampSplit, records: bool) -> dict[str, list[Example]]:
    """What each user of the split has answered, oldest first, each question once."""
    if split.golds is None:
        raise InvalidOptionError("a task adapter is trained on questions with their golds, and there are none")
    found: dict[str, dict[Example, None]] = {}
    for question in split.questions:
        own = found.setdefault(question.user_id, {})
        for example in _of_profile(split, question.profile, records):
            own.setdefault(example)
        own.setdefault(Example(question.input, split.golds[question.id]))
    return {user_id: list(examples) for user_id, examples in found.items()}


def _of_profile(split: LampSplit, profile: Profile, records: bool) -> Iterator[Example]:
    if records:
        yield from history_examples(profile, split.task, labels=split.labels)
