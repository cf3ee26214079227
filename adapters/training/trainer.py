"""Training adapters of many users at once, each exactly as if alone.

::

    trainer = AdapterTrainer(llm, LoraSpec(r=8), TrainingOptions(epochs=3))
    examples = partial(history_examples, task=lamp_task("LaMP_3"))
    prior = trainer.train_prior(prior_examples(trainer, store, examples, training_users)).row      # (size,)
    train_users(trainer, AdapterBank(store), examples, prior=prior)

Every row of a batch is computed with its own user's adapter (`StackedLoRA.using`). The loss is the sum over users of
each user's mean, so a user's gradient is that of the user's own loss; AdamW, clipping and the schedule go by user
(`persona.adapters.training.adamw`). What a user learns does not depend on who else is in the batch, but for the
rounding of sums. The user's part is trained over the shared prior, which stays as it is, and starts from zero;
`weight_decay` pulls it back there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from persona.adapters.examples import Example
from persona.adapters.family import LoraSpec
from persona.adapters.stacked import StackedLoRA
from persona.adapters.training.adamw import PerUserAdamW
from persona.adapters.training.lessons import Lesson, TokenExample
from persona.adapters.training.losses import UserLosses
from persona.adapters.training.options import TrainingOptions
from persona.errors import InvalidOptionError
from persona.llm.loss import TargetLoss
from persona.llm.optimization import EarlyStopping
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions

_PRIOR_BATCH, _PRIOR_HELD_OUT = 32, 256
"""Examples in a step of the prior, and the most that it is evaluated by."""


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What training made of a lesson.

    Attributes:
        row: the adapter.  # (size,)
        steps: optimizer steps that made it.
        loss: mean loss on the held-out examples, in nats per token; None without any.
        loss_prior: the same of the prior alone.
    """

    row: Tensor
    steps: int
    loss: float | None
    loss_prior: float | None

    @property
    def wins(self) -> bool:
        """Whether it is better than the prior alone; True where nothing was held out."""
        return self.loss is None or self.loss_prior is None or self.loss < self.loss_prior


class AdapterTrainer:
    """Trains adapters of one shape on one frozen LLM.

    Args:
        llm: the frozen LLM: weights, flags and outputs are the same after a call as before.
        spec: the adapters' shape.
        options: how to train.

    Attributes:
        family: of the adapters without a prior.
    """

    def __init__(self, llm: TransformersLM, spec: LoraSpec, options: TrainingOptions | None = None) -> None:
        self.llm = llm
        self.spec = spec
        self.options = options or TrainingOptions()
        self._loss = TargetLoss(llm)
        with self.stacked(None) as losses:
            self.family = losses.stack.family

    @contextmanager
    def stacked(self, prior: Tensor | None, spec: LoraSpec | None = None) -> Iterator[UserLosses]:
        """While this is open, the LLM computes with adapters over `prior` (size,), perhaps of another `spec`."""
        with StackedLoRA(self.llm.model, spec or self.spec, slots=1, prior=prior, base=self.llm.fingerprint) as stack:
            yield UserLosses(stack, self._loss, self.options.chunk_tokens)

    def train_prior(
        self,
        examples: Iterable[Example],
        *,
        held_out: Iterable[Example] = (),
        max_examples: int = 20_000,
        start: Tensor | None = None,
    ) -> Learnt:
        """One adapter for everybody: the shared prior, in float32 (float64 for a model in float64), on the CPU.

        With `held_out` it is evaluated after each epoch, and the best epoch is taken; the adapter that changes nothing
        if none is better than that.

        Args:
            examples: of the training users; of more than `max_examples` a sample is taken.
            held_out: of other users; of more than 256 a sample is taken.
            max_examples: most examples.
            start: the adapter that training starts from; None for the one that changes nothing.  # (size,)

        Raises:
            InvalidOptionError: if there are no examples.
        """

        def sample(some: Iterable[Example], most: int) -> tuple[TokenExample, ...]:
            pool = list(some)
            random.Random(self.options.seed).shuffle(pool)
            return self.tokens(pool[:most])

        train, validation = sample(examples, max_examples), sample(held_out, _PRIOR_HELD_OUT)
        if not train:
            raise InvalidOptionError("a prior needs examples, and there are none: name users with records")
        patience = 1 if validation else None
        options = replace(self.options, batch_size=_PRIOR_BATCH, min_steps=0, patience=patience)
        with self.stacked(None, replace(self.spec, gate=None)) as losses:
            (learnt,) = train_side_by_side(losses, [Lesson("prior", train, validation, start=start)], options)
        row = learnt.row.cpu()
        if learnt.wins:
            return replace(learnt, row=row)
        nothing = self.family.initial(seed=self.options.seed, dtype=row.dtype) if start is None else start
        return Learnt(nothing, 0, learnt.loss_prior, learnt.loss_prior)

    def train_lessons(self, lessons: Sequence[Lesson], *, prior: Tensor | None = None) -> list[Learnt]:
        """Train lessons, all in one chunk; what came of each, in the order given."""
        with self.stacked(prior) as losses:
            return train_side_by_side(losses, lessons, self.options)

    def lesson(self, user_id: str, tokens: Sequence[TokenExample], *, revision: int = 0) -> Lesson | None:
        """A user's examples, the newest held out; None if there are fewer than `min_records`."""
        if len(tokens) < self.options.min_records:
            return None
        cut = len(tokens) - self.options.held_out(len(tokens))
        return Lesson(user_id, tuple(tokens[:cut]), tuple(tokens[cut:]), revision)

    def tokens(self, examples: Sequence[Example]) -> tuple[TokenExample, ...]:
        """The examples in tokens; those that are too long are left out."""
        return tuple(tokens for _, tokens in self.fitting(examples))

    def fitting(self, examples: Sequence[Example]) -> list[tuple[Example, TokenExample]]:
        """The examples that are short enough, as they are and in tokens."""
        if not examples:
            return []
        limits = [self.options.max_tokens, self.llm.input_limit(GenerationOptions(max_new_tokens=1))]
        limit = min((limit for limit in limits if limit is not None), default=None)
        prompts = self.llm.prompt_ids([example.prompt for example in examples])
        targets = self.llm.target_ids([example.target for example in examples])
        tokens = [TokenExample(tuple(one), tuple(other)) for one, other in zip(prompts, targets, strict=True)]
        pairs = zip(examples, tokens, strict=True)
        return [(example, own) for example, own in pairs if limit is None or len(own) <= limit]

    def losses(self, rows: Tensor, examples: Sequence[TokenExample], *, prior: Tensor | None = None) -> list[float]:
        """The mean loss over examples with each of several adapters, in nats per token.  # rows: (adapters, size)"""
        with self.stacked(prior) as losses:
            return [loss for loss in losses.evaluated(rows, [examples] * len(rows)) if loss is not None]


class _Progress:
    """A lesson in training: the best adapter so far, and whether training is over."""

    def __init__(self, lesson: Lesson, options: TrainingOptions, loss_prior: float | None) -> None:
        self.lesson, self.steps = lesson, lesson.steps(options)
        self.best: Learnt | None = None
        self.over = False
        self._loss_prior, self._stopping = loss_prior, EarlyStopping(options.patience)
        self._per_epoch = lesson.steps_per_epoch(options)

    def is_evaluated(self, step: int) -> bool:
        """Whether the adapter is evaluated after `step`: at the end, with patience after each epoch."""
        return step + 1 == self.steps or (self._stopping.patience is not None and (step + 1) % self._per_epoch == 0)

    def evaluate(self, step: int, row: Tensor, loss: float | None) -> None:
        """Take in the loss on the held-out examples after `step`."""
        better = loss is None or self._stopping.improved(loss, step + 1)
        if better or self.best is None or self._stopping.patience is None:
            self.best = Learnt(row.clone(), step + 1, loss, self._loss_prior)
        self.over = step + 1 == self.steps or self._stopping.exhausted


def train_side_by_side(losses: UserLosses, lessons: Sequence[Lesson], options: TrainingOptions) -> list[Learnt]:
    """Train lessons in the same steps; a user who is done leaves the batch. What came of each, in the order given."""
    stack = losses.stack
    dtype = torch.float64 if stack.dtype == torch.float64 else torch.float32
    initial = stack.family.initial(seed=options.seed, dtype=dtype)
    starts = torch.stack([initial if lesson.start is None else lesson.start.cpu().to(dtype) for lesson in lessons])
    # Decay would shrink the keys of gated edits, which are not learnt.
    decay = options.weight_decay if stack.family.spec.gate is None else 0.0
    optimizer = PerUserAdamW(starts.to(stack.device), weight_decay=decay, clip=options.clip)
    nothing = torch.zeros(1, stack.family.size, dtype=dtype, device=stack.device)
    before = losses.evaluated(nothing, [lesson.held_out for lesson in lessons])
    every = [_Progress(lesson, options, loss) for lesson, loss in zip(lessons, before, strict=True)]
    alive = every
    for step in range(max(user.steps for user in every)):
        gradients = losses.gradients(optimizer.rows, [user.lesson.batch(step, options) for user in alive])
        rates = [options.rate(step, user.steps) for user in alive]
        optimizer.step(gradients, torch.tensor(rates, dtype=torch.float64, device=stack.device))
        chosen = [index for index, user in enumerate(alive) if user.is_evaluated(step)]
        if not chosen:
            continue
        rows = optimizer.rows[torch.tensor(chosen, device=stack.device)]
        held_out = [alive[index].lesson.held_out for index in chosen]
        for index, row, loss in zip(chosen, rows, losses.evaluated(rows, held_out), strict=True):
            alive[index].evaluate(step, row, loss)
        left = [index for index, user in enumerate(alive) if not user.over]
        if not left:
            break
        if len(left) < len(alive):
            optimizer.keep(torch.tensor(left, device=stack.device))
            alive = [alive[index] for index in left]
    return [user.best for user in every if user.best is not None]
