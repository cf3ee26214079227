"""The task adapter from a training split: what its users have in common, learnt once.

The examples are the training users' questions with their answers, and the records of their profiles in the task's own
words. A share of the users is held out for validation: an epoch counts only if it is better for people whom it was not
learnt from. Adapters of some training users (`persona.adapters.few_records.neighbours`), and a router
(`persona.adapters.few_records.routed`), can be trained over it. No user of another split has any part in it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from persona.adapters.examples import Example, history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.generated.generator import ROUTED
from persona.adapters.generated.training import GeneratorTraining, train_generator
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training.lessons import Lesson, chunks
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import InvalidOptionError, check_least
from persona.lamp.tasks import LampSplit
from persona.llm.transformers import TransformersLM

Stages = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it and what there is to do."""


@dataclass(frozen=True, slots=True)
class TaskTraining:
    """How to train a task adapter.

    Attributes:
        users: only the first N training users; None takes all.
        records: learn from the records in their profiles too, not only from their questions.
        epochs: of the task adapter at most.
        learning_rate: its highest.
        examples: most examples of it.
        validation: share of users that is held out, from 0 to below 1; 0 trains all epochs.
        candidates: how many of the training users get adapters of their own, as neighbours for others.
        routed: number of meta-adapters, a divisor of the rank; 0 for none.
        routed_steps: steps of their training.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    users: int | None = None
    records: bool = True
    epochs: int = 2
    learning_rate: float = 2e-3
    examples: int = 20_000
    validation: float = 0.1
    candidates: int = 0
    routed: int = 0
    routed_steps: int = 400

    def __post_init__(self) -> None:
        check_least(0, candidates=self.candidates, routed=self.routed)
        if not 0 <= self.validation < 1:
            raise InvalidOptionError(f"`validation` must be from 0 to below 1, was: {self.validation}")


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
        progress: called as the stages go on.

    Raises:
        InvalidOptionError: if there are no golds, fewer than 2 users, or `routed` does not divide the rank.
    """
    stage = progress or (lambda name, done, total: None)
    begun = time.perf_counter()
    per_user = _examples(split, training.records)
    validation, owners = _dealt(list(per_user)[: training.users], training.validation, options.seed)
    train = [per_user[owner] for owner in owners]
    prior_options = replace(options, epochs=training.epochs, learning_rate=training.learning_rate)
    stage("task adapter", 0, 1)
    learnt = AdapterTrainer(llm, spec, prior_options).train_prior(
        (example for own in train for example in own),
        held_out=[example for owner in validation for example in per_user[owner]],
        max_examples=training.examples,
    )
    stage("task adapter", 1, 1)
    count = min(training.examples, sum(map(len, train)))
    report: dict[str, float] = {"users": len(train), "examples": count, "steps": learnt.steps}
    if learnt.loss is not None and learnt.loss_prior is not None:
        report |= {"loss": learnt.loss, "loss_before": learnt.loss_prior}
    trainer = AdapterTrainer(llm, spec, options)
    tokens = {owner: trainer.tokens(per_user[owner]) for owner in owners}
    candidates, router = None, None
    if training.candidates:
        lessons = [trainer.lesson(owner, own) for owner, own in tokens.items()]
        chosen = [lesson for lesson in lessons if lesson is not None][: training.candidates]
        candidates = _own_parts(trainer, chosen, learnt.row, stage)
        report["candidates"] = 0 if candidates is None else len(candidates)
    if training.routed:
        routed = train_generator(
            trainer,
            list(tokens.values()),
            router_training(spec.r, training.routed, training.routed_steps, options.seed),
            prior=learnt.row,
            progress=lambda steps, seconds: stage("meta-adapters", steps, training.routed_steps),
        )
        router = routed.generator
        report |= {"loss_routed": routed.loss, "loss_unrouted": routed.loss_before}
    report["seconds"] = round(time.perf_counter() - begun, 1)
    return TaskAdapter(trainer.family, learnt.row, options, split.task.name, candidates, router, report)


def router_training(rank: int, n: int, steps: int, seed: int = 0) -> GeneratorTraining:
    """How a router with `n` meta-adapters is trained: to the last step.

    Raises:
        InvalidOptionError: if `n` does not divide the adapters' rank.
    """
    if rank % n:
        raise InvalidOptionError(f"`routed` must divide the adapters' rank, {rank}, was: {n}")
    return GeneratorTraining(
        ROUTED, steps, records=24, learning_rate=3e-3, patience=steps, width=60, chunk_rank=rank // n, seed=seed
    )


def _dealt(owners: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """The validation users and the training users, dealt at random.

    Raises:
        InvalidOptionError: if there are fewer than 2 users.
    """
    if len(owners) < 2:
        raise InvalidOptionError(f"a task adapter needs at least 2 training users, was: {len(owners)}")
    random.Random(seed).shuffle(owners)
    cut = round(share * len(owners))
    return owners[:cut], owners[cut:]


def _own_parts(trainer: AdapterTrainer, lessons: Sequence[Lesson], prior: Tensor, stage: Stages) -> Tensor | None:
    """The adapters of those of the lessons' users for whom they beat the prior.  # (users, size)"""
    rows, done = [], 0
    for chunk in chunks(lessons, trainer.options):
        for learnt in trainer.train_lessons(chunk, prior=prior):
            if learnt.wins:
                rows.append(learnt.row.cpu())
        done += len(chunk)
        stage("training users' adapters", done, len(lessons))
    return torch.stack(rows) if rows else None


def split_examples(split: LampSplit) -> list[list[Example]]:
    """What each user of a split has answered, records and questions, oldest first.

    Raises:
        InvalidOptionError: if there are no golds.
    """
    return list(_examples(split, records=True).values())


def _examples(split: LampSplit, records: bool) -> dict[str, list[Example]]:
    """What each user of the split has answered, oldest first, each question once."""
    if split.golds is None:
        raise InvalidOptionError("a task adapter is trained on questions with their golds, and there are none")
    answered: dict[str, dict[Example, None]] = {}
    for question in split.questions:
        own = answered.setdefault(question.user_id, {})
        if records:
            own |= dict.fromkeys(history_examples(question.profile, split.task, labels=split.labels))
        own.setdefault(Example(question.input, split.golds[question.id]))
    return {user_id: list(examples) for user_id, examples in answered.items()}
