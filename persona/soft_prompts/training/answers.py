"""The stages of a training that are led by the frozen LLM's loss on the right answers.

Everything random in step n follows from ``(seed, n)``, and a checkpoint holds weights, optimizer and step. So a run
that was killed goes on to the very weights of an undisturbed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import History, HistoryBatch
from persona.soft_prompts.training.examples import Example, Examples
from persona.soft_prompts.training.loop import Progress, Schedule, TrainingLoop
from persona.soft_prompts.training.objectives.base import Step
from persona.soft_prompts.training.options import BETAS, QUERY_DROPOUT, WEIGHT_DECAY, UserEmbedderTraining
from persona.soft_prompts.training.tokens import ExampleTokens

_POOLED = 8
"""Batches that are drawn together and sorted by length, so that little is padded."""

_NEW_USER = "pooling.new_user"

Draw = tuple[int, int]
"""An example of the training, by its position, and the number of the draw, which decides how it is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSetup:
    """What all stages of a training share; `objectives` are a list of modules."""

    embedder: UserEmbedder
    examples: Examples
    tokens: ExampleTokens
    loss: TargetLoss
    accelerator: Accelerator
    objectives: nn.ModuleList = field(default_factory=nn.ModuleList)

    def added(
        self,
        shown: Sequence[Example],
        histories: Sequence[History],
        draw: np.random.Generator,
        *,
        warm_up: bool = False,
    ) -> Tensor | None:
        """What objectives and parts of the embedder add to the loss of a step; None for nothing.  # ()

        Args:
            shown: the examples of the step.
            histories: of them, as the step shows them.
            draw: what is random of it.
            warm_up: whether the LLM computes nothing in this step, so that only objectives that do without it count.
        """
        of_parts = self.embedder.part_loss()  # before objectives call the parts for other histories
        step = Step(self.embedder, shown, histories, self.examples, draw, self.tokens, self.loss, warm_up)
        losses = [each.weight * each(step) for each in self.objectives if not (warm_up and each.reads_llm)]
        if of_parts is not None:
            losses.append(of_parts)
        return torch.stack(losses).sum() if losses else None

    @property
    def llm(self) -> TransformersLM:
        """The frozen LLM."""
        return self.loss.llm


class AnswerStage:
    """One stage: of all weights but one, or with `new_users` of this one, which only users without records get.

    Args:
        setup: of the training.
        options: how to train.
        checkpoint: where the stage is saved after each evaluation.
        new_users: train what a user without records gets.
    """

    def __init__(
        self, setup: TrainingSetup, options: UserEmbedderTraining, checkpoint: Path, *, new_users: bool = False
    ) -> None:
        self.setup, self.options, self.checkpoint, self.new_users = setup, options, checkpoint, new_users
        embedder = setup.embedder
        # The other weights say which run it is that leaves them as they are.
        self._begun_from = embedder.fingerprint if new_users else ""
        for name, parameter in embedder.named_parameters():
            parameter.requires_grad_((name == _NEW_USER) == new_users)
        self.objectives = nn.ModuleList() if new_users else setup.objectives
        self._trained = [*embedder.parameters(), *self.objectives.parameters()]
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self._trained if parameter.requires_grad],
            lr=options.learning_rate,
            weight_decay=WEIGHT_DECAY,
            betas=BETAS,
        )
        self.model, self.optimizer = setup.accelerator.prepare(embedder, optimizer)
        self.loop = TrainingLoop(
            "new users" if new_users else "answers",
            embedder,
            self.optimizer,
            Schedule(options.steps, options.learning_rate, options.evaluate_every, options.patience, options.seed),
            take=self._take,
            validate=self._validate,
            evaluated=self._save,
            beside=self.objectives,
        )

    def train(self, progress: Progress | None = None) -> None:
        """Run the loop, and leave the embedder with its best weights."""
        self.setup.embedder.train()
        self.loop.run(progress)
        self.setup.embedder.eval()

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one, and say whether there was.

        Raises:
            InvalidOptionError: if it is of a run with other options.
            PersonaError: if it cannot be read.
        """
        return self.loop.load(self.checkpoint, self._name(), self.setup.loss.device)

    def _take(self, step: int) -> float:
        """One optimizer step; the batch's mean loss."""
        batch, accelerator = self._batch(step), self.setup.accelerator
        # All, not only those of the optimizer: what an earlier run left would count when gradients are clipped.
        self.setup.embedder.zero_grad(set_to_none=True)
        self.objectives.zero_grad(set_to_none=True)
        total = 0.0
        processes = accelerator.num_processes
        mine = batch[accelerator.process_index :: processes]
        # Gradients are averaged over the processes after each part. Their shares of the batch need not be equal, the
        # number of parts has to be: one that has no example left takes part with one that counts nothing.
        largest = -(-len(batch) // processes)
        size = -(-largest // self.options.accumulate)
        for start in range(0, largest, size):
            part = mine[start : start + size]
            weight = processes / len(batch) if part else 0.0
            loss = self._loss(part or batch[:1], step) * weight
            accelerator.backward(loss)
            total += float(loss.detach())
        accelerator.clip_grad_norm_(self._trained, 1.0)
        self.optimizer.step()
        return total

    def _batch(self, step: int) -> list[Draw]:
        """The examples of a step; examples of like length go together."""
        size, train = self.options.batch, self.setup.examples.train
        pool, number = divmod(step, _POOLED)
        drawn = list(_draws(self.options.seed, len(train), pool * _POOLED * size, _POOLED * size))
        drawn.sort(key=lambda draw: len(train[draw[0]].input))
        order = np.random.default_rng((self.options.seed, 4, pool)).permutation(_POOLED)
        start = int(order[number]) * size
        return drawn[start : start + size]

    def _loss(self, part: Sequence[Draw], step: int) -> torch.Tensor:
        """The losses of some examples, as they are shown in this step, in sum.  # ()"""
        options, examples, loss = self.options, self.setup.examples, self.setup.loss
        histories, queries, tokens, unasked = [], [], [], []
        shown = [examples.train[position] for position, _ in part]
        for example, (_, number) in zip(shown, part, strict=True):
            draw = np.random.default_rng((options.seed, 3, number))
            histories.append(examples.shown(example, options, draw))
            queries.append(example.query)
            unasked.append(draw.random() < QUERY_DROPOUT)
            k = options.ks[int(draw.integers(len(options.ks)))]
            tokens.append(self.setup.tokens.of(example, k))
        batch = HistoryBatch.of(histories, self.setup.embedder.config, np.stack(queries), loss.device)
        soft_prompts = batch.soft_prompts(self.model)
        if any(unasked):
            query_free = batch.soft_prompts(self.model, asked=False)
            chosen = torch.tensor(unasked, device=loss.device)[:, None, None]
            soft_prompts = torch.where(chosen, query_free, soft_prompts)
        # Some steps show the first tokens alone, and what is told of a user beside them is the same for any question.
        few = self.setup.embedder.shown(np.random.default_rng((options.seed, 10, step)))
        pairs = [prompt for prompt, _ in tokens], [target for _, target in tokens]
        total = loss(*pairs, soft_prompts[:, :few], batch.steering(self.setup.embedder)).sum()
        if (added := self._added(shown, histories, step)) is not None:
            total = total + len(part) * added
        return total

    def _added(self, shown: Sequence[Example], histories: Sequence[History], step: int) -> Tensor | None:
        if self.new_users:
            return None
        return self.setup.added(shown, histories, np.random.default_rng((self.options.seed, 9, step)))

    def _validate(self) -> float:
        """Mean loss on the questions of validation users, each with every number of records, nats per token."""
        setup, options = self.setup, self.options
        setup.embedder.eval()
        losses: list[float] = []
        examples = sorted(setup.examples.validation, key=lambda example: len(example.input))
        for start in range(0, len(examples), options.batch):
            some = examples[start : start + options.batch]
            histories = [setup.examples.shown(example, options) for example in some]
            queries = np.stack([example.query for example in some])
            batch = HistoryBatch.of(histories, setup.embedder.config, queries, setup.loss.device)
            soft_prompts, steering = batch.soft_prompts(setup.embedder), batch.steering(setup.embedder)
            for k in sorted(set(options.ks)):
                tokens = [setup.tokens.of(example, k) for example in some]
                pairs = [p for p, _ in tokens], [t for _, t in tokens]
                losses += setup.loss(*pairs, soft_prompts, steering).tolist()
        setup.embedder.train()
        return float(np.mean(losses))

    def _save(self) -> None:
        if self.setup.accelerator.is_main_process:
            self.loop.save(self.checkpoint, self._name())

    def _name(self) -> str:
        """What makes two runs the same run."""
        kind = type(self.setup.tokens.retriever)
        # The plain `repr` would name an address in memory.
        retriever = kind.__name__ if kind.__repr__ is object.__repr__ else repr(self.setup.tokens.retriever)
        data = [self.setup.examples.task.name, self.setup.examples.fingerprint, retriever]
        described: list[Any] = [asdict(self.options), asdict(self.setup.embedder.config), data, self._begun_from]
        return json.dumps(described)


def _draws(seed: int, n: int, first: int, count: int) -> Iterator[Draw]:
    """Draws `first` to `first + count` of an endless row of shuffled rounds over `n` examples."""
    number = first
    while number < first + count:
        order = np.random.default_rng((seed, 5, number // n)).permutation(n)
        end = min((number // n + 1) * n, first + count)
        for draw in range(number, end):
            yield int(order[draw % n]), draw
        number = end
