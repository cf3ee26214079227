"""Training the adapters of many users at once, each exactly as if it were alone.

>>> trainer = AdapterTrainer(llm, LoraSpec(r=8), TrainingOptions(epochs=3))
>>> examples = partial(history_examples, task=lamp_task("LaMP_3"))
>>> prior = trainer.train_prior(trainer.prior_examples(store, examples, training_users)).row      # (size,)
>>> trainer.train_users(AdapterBank(store), examples, prior=prior)
TrainingReport(users=1200, published=903, kept_prior=297, too_few=410, ..., seconds=88.1)

**One forward and backward for all.** Every row of a batch is computed with its own user's adapter
(`StackedLoRA.using`). The loss is the sum over users of each user's mean, so a user's gradient is that of the user's
own loss; AdamW, clipping and the schedule go by user (`persona.adapters.adamw`). What a user learns does not depend on
who else is in the batch, but for the rounding of sums.

**Schedule.** With ``T`` steps of a user, of which ``W`` warm up, step ``t`` (from 0) has the learning rate
``learning_rate * min((t + 1) / W, (T - t) / (T - W + 1))``.

**Little data.** Before its records a lesson may have a warm-up on the user's own text, which needs no answers
(`persona.adapters.examples.text_examples`, also of records whose answers are held out), and among its records examples
of the task by others, `aux_ratio` of them for each of the user's own. Neither is ever held out.

**Halves.** With ``half="user"`` over a prior that was trained with ``half="task"`` the two share no number: each has
half of the rank, and is zero, A and B, in the other's half. So the gradient there is zero exactly, and prior and part
add up to one adapter of the family's rank, half of what is served otherwise (after PLP, Break-for-Make, arXiv
2403.19456, which splits rows of B and columns of A; a split of the rank leaves no cross terms).

**Prior and gate.** The user's part is trained over the shared prior, which stays as it is, and starts from zero;
`weight_decay` pulls it back there. The newest records are held out. Only if the user's part has a smaller loss on them
than the prior alone is it published; otherwise "use the prior" is. What is published is trained anew on all records, as
many epochs as it was judged after: of five records the one that judges is a fifth of what is known (`refit`).

**Streams.** Users are read a window at a time, sorted by length within it, cut into chunks by tokens, and published
together, in one transaction. A run that was killed goes on with the window that it was in: whoever is in the bank is no
longer stale, the windows are the same, and so are the weights.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from persona.adapters.adamw import PerUserAdamW
from persona.adapters.bank import AdapterBank, AdapterDraft
from persona.adapters.examples import Example, ExampleMaker
from persona.adapters.family import HALVES, Family, LoraSpec
from persona.adapters.stacked import PRIOR_SLOT, StackedLoRA
from persona.errors import InvalidOptionError
from persona.llm.checks import check_seed
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions
from persona.store.profile_store import ProfileStore

Progress = Callable[[int, float], None]
"""Called after each chunk with the users done so far and the seconds since the start."""


_JUDGED = 4
"""So many times a step's tokens are judged at once: without gradients there is room for more."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train.

    Attributes:
        learning_rate: the highest, above 0.
        epochs: how often each example is seen, at least 1.
        min_steps: fewest steps of a user's training: with few examples there are more epochs. At least 0.
        batch_size: most examples of one user in a step, at least 1.
        warmup: share of a user's steps that warm up, from 0 to 1.
        weight_decay: of AdamW.
        clip: largest norm of a user's gradient; None for any.
        holdout: share of a user's examples, the newest, that are held out, from 0 to below 1; 0 holds none out and
            publishes whatever was learnt.
        max_holdout: most examples that are held out.
        margin: by which share the held-out loss must be below the prior's.
        refit: train who is published anew, on the held-out examples too.
        patience: end a user's training when the held-out loss has not fallen for so many epochs, and take the best
            one; None trains to the end.
        min_records: fewest examples of a user who is trained, at least 1.
        max_tokens: longest example, prompt and target; longer ones are left out. None for what the model can take.
        chunk_tokens: most tokens in a step, at least 1: decides how many users are trained at once. 512 fill a CPU
            core; `persona.adapters.planning` finds the best size for a machine by trying.
        window: users that are published together, at least 1.
        warm_up: epochs over the user's own text before the records.
        aux_ratio: examples of others mixed in, for each of the user's own.
        half: which half of the rank is trained, of `persona.adapters.family.HALVES`; None trains all.
        seed: of the first adapter and of the order of examples.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    learning_rate: float = 2e-3
    epochs: int = 3
    min_steps: int = 12
    batch_size: int = 4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float | None = 1.0
    holdout: float = 0.2
    max_holdout: int = 16
    margin: float = 0.0
    refit: bool = True
    patience: int | None = None
    min_records: int = 5
    max_tokens: int | None = None
    chunk_tokens: int = 512
    window: int = 256
    warm_up: int = 0
    aux_ratio: float = 0.0
    half: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_holdout", "min_records", "chunk_tokens", "window"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidOptionError(f"`learning_rate` must be a number above 0, was: {self.learning_rate}")
        if not math.isfinite(self.margin):
            raise InvalidOptionError(f"`margin` must be a number, was: {self.margin}")
        check_seed(self.seed)
        for name in ("warm_up", "min_steps"):
            if getattr(self, name) < 0:
                raise InvalidOptionError(f"`{name}` must be at least 0, was: {getattr(self, name)}")
        if not 0 <= self.aux_ratio < math.inf:
            raise InvalidOptionError(f"`aux_ratio` must be at least 0, was: {self.aux_ratio}")
        if self.half is not None and self.half not in HALVES:
            raise InvalidOptionError(f"`half` must be one of {', '.join(HALVES)}, was: {self.half!r}")
        for name in ("warmup", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be from 0 to below 1, was: {getattr(self, name)}")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` (from 0) of `steps`."""
        warm = max(1, math.ceil(self.warmup * steps))
        return self.learning_rate * min((step + 1) / warm, (steps - step) / (steps - warm + 1))

    def epochs_of(self, steps: int) -> int:
        """Epochs of who makes so many steps in each."""
        return max(self.epochs, math.ceil(self.min_steps / steps))

    def split(self, count: int) -> int:
        """How many of `count` examples are held out: none where there would be none left to learn from."""
        return min(self.max_holdout, math.ceil(self.holdout * count), count - 1)


@dataclass(frozen=True, slots=True)
class TokenExample:
    """An example in tokens.

    Attributes:
        prompt: ids of what is read.
        target: ids of what should be written, end token included.
    """

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
        held_out: to judge by.
        revision: of the profile.
        text: to warm up on.
        aux: examples of others, to mix in.
        epochs: how often each example is seen; None for what the options say.
    """

    user_id: str
    train: tuple[TokenExample, ...]
    held_out: tuple[TokenExample, ...] = ()
    revision: int = 0
    text: tuple[TokenExample, ...] = ()
    aux: tuple[TokenExample, ...] = ()
    epochs: int | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(len(example) for example in (*self.train, *self.held_out, *self.text, *self.aux))

    def per_epoch(self, options: TrainingOptions) -> int:
        """Examples in an epoch: the user's own, and those of others that are mixed in."""
        return len(self.train) + (round(options.aux_ratio * len(self.train)) if self.aux else 0)

    def steps_per_epoch(self, options: TrainingOptions) -> int:
        """Optimizer steps in which each example is seen once."""
        return math.ceil(self.per_epoch(options) / options.batch_size)

    def warm_steps(self, options: TrainingOptions) -> int:
        """Optimizer steps of the warm-up, which come first."""
        return options.warm_up * math.ceil(len(self.text) / options.batch_size)

    def steps(self, options: TrainingOptions) -> int:
        """All optimizer steps."""
        per_epoch = self.steps_per_epoch(options)
        return self.warm_steps(options) + (self.epochs or options.epochs_of(per_epoch)) * per_epoch

    def ends_epoch(self, step: int, options: TrainingOptions) -> bool:
        """Whether an epoch over the records ends with `step`."""
        after = step + 1 - self.warm_steps(options)
        return after > 0 and after % self.steps_per_epoch(options) == 0

    def refitted(self, steps: int, options: TrainingOptions) -> Lesson:
        """The same with nothing held out, for as many epochs as there are in `steps`."""
        epochs = (steps - self.warm_steps(options)) // self.steps_per_epoch(options)
        return replace(self, train=(*self.train, *self.held_out), held_out=(), epochs=epochs)

    def batch(self, step: int, options: TrainingOptions) -> list[TokenExample]:
        """The examples of a step: each epoch shuffles anew and deals into parts of nearly equal size."""
        warm = self.warm_steps(options)
        if step < warm:
            parts, pool, name = warm // options.warm_up, self.text, "text:"
        else:
            parts, pool, name, step = self.steps_per_epoch(options), self.train, "", step - warm
        epoch, part = divmod(step, parts)
        luck = random.Random(f"{options.seed}:{name}{epoch}")
        if pool is self.train:
            # Others' examples differ from epoch to epoch; there may be fewer of them than are wanted.
            pool = (*pool, *luck.choices(self.aux, k=self.per_epoch(options) - len(pool))) if self.aux else pool
        order = list(range(len(pool)))
        luck.shuffle(order)
        start, end = (len(order) * edge // parts for edge in (part, part + 1))
        return [pool[place] for place in order[start:end]]


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


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a run did.

    Attributes:
        users: users that were trained.
        published: those whose adapter beat the prior.
        kept_prior: those for whom it did not.
        too_few: users with fewer than `min_records` examples.
        too_long: examples that were left out because they are longer than `max_tokens`, or than the model can take.
        passed_over: users who were forgotten, or whose records were deleted, meanwhile.
        examples: examples that were learnt from.
        seconds: how long it took.
    """

    users: int = 0
    published: int = 0
    kept_prior: int = 0
    too_few: int = 0
    too_long: int = 0
    passed_over: int = 0
    examples: int = 0
    seconds: float = 0.0


class AdapterTrainer:
    """See the module.

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
        with self._stack(None) as stack:
            self.family = stack.family

    def train_prior(
        self,
        examples: Iterable[Example],
        *,
        held_out: Iterable[Example] = (),
        max_examples: int = 20_000,
        max_held_out: int = 256,
        batch_size: int = 32,
    ) -> Learnt:
        """One adapter for everybody: the shared prior.

        With `held_out` it is judged after each epoch, and the best epoch is taken; the adapter that changes nothing if
        none is better than that. It learns what answers are likely where the user is not known, and that is what users'
        own parts start from well. Its own likeliest answer can be a poor one where the loss is not that of the
        likelihood: users who rate all high or all low make 1 and 5 the likeliest scores and 3 the least wrong.

        Args:
            examples: of the training users; of more than `max_examples` a sample is taken.
            held_out: of other users; of more than `max_held_out` a sample is taken.
            max_examples: most examples.
            max_held_out: most held-out ones.
            batch_size: examples in a step.

        Returns:
            Its `row` in float32 (float64 for a model in float64), on the CPU.

        Raises:
            InvalidOptionError: if there are no examples.
        """

        def sample(some: Iterable[Example], most: int) -> tuple[TokenExample, ...]:
            pool = list(some)
            random.Random(self.options.seed).shuffle(pool)
            return self._tokens(pool[:most])[0]

        tokens, judges = sample(examples, max_examples), sample(held_out, max_held_out)
        if not tokens:
            raise InvalidOptionError("a prior needs examples, and there are none: name users with records")
        half = None if self.options.half is None else "task"
        options = replace(self.options, batch_size=batch_size, min_steps=0, patience=1 if judges else None, half=half)
        with self._stack(None) as stack:
            (learnt,) = self._train_chunk(stack, [Lesson("prior", tokens, judges)], options)
        row = learnt.row.cpu()
        if learnt.loss is not None and learnt.loss_prior is not None and not learnt.loss < learnt.loss_prior:
            row = self.family.initial(seed=self.options.seed, dtype=row.dtype)
            if half is not None:
                row = self.family.half(row, half)
            return Learnt(row, 0, learnt.loss_prior, learnt.loss_prior)
        return replace(learnt, row=row)

    def prior_examples(self, store: ProfileStore, examples: ExampleMaker, user_ids: Iterable[str]) -> Iterator[Example]:
        """What the prior may learn from users who are trained later: all but what will be held out of theirs."""
        for user_id in user_ids:
            # Those that are too long go first, as in a lesson: the same are held out.
            every = [example for example, _ in self._fitting(examples(store.profile(user_id)))]
            if every:
                yield from every[: len(every) - self.options.split(len(every))]

    def train_users(
        self,
        bank: AdapterBank,
        examples: ExampleMaker,
        *,
        prior: Tensor | None = None,
        user_ids: Iterable[str] | None = None,
        text: ExampleMaker | None = None,
        aux: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> TrainingReport:
        """Train users and publish what they learnt.

        Args:
            bank: where profiles are read and versions are put.
            examples: makes a user's examples.
            text: makes what a user warms up on (`TrainingOptions.warm_up`); None for nothing.
            aux: examples of others, to mix in (`TrainingOptions.aux_ratio`); a user's own among them are left out.
            prior: the shared prior; None for none.  # (size,)
            user_ids: whom to train; None for the users with records that no version of theirs has seen.
            progress: told how far it is.

        Raises:
            InvalidOptionError: if the users' half is to be trained over a prior that has more than the task's half.
        """
        family = self.family.over(prior)
        if self.options.half == "user" and prior is not None and not torch.equal(family.half(prior, "task"), prior):
            raise InvalidOptionError("the user's half needs a prior that has the task's half alone: train it anew")
        bank.add_family(family, prior)
        wanted = bank.stale_users(family) if user_ids is None else iter(user_ids)
        begun = time.perf_counter()
        report, window = TrainingReport(), []
        mixed_in = self.tokens(aux) if self.options.aux_ratio else ()
        known = frozenset(mixed_in)
        with self._stack(prior) as stack:
            while True:
                user_id = next(wanted, None)
                if user_id is not None:
                    profile = bank.store.profile(user_id)
                    tokens, too_long = self._tokens(examples(profile))
                    report = replace(report, too_long=report.too_long + too_long)
                    lesson = self._lesson(user_id, tokens, profile.revision)
                    if lesson is None:
                        report = replace(report, too_few=report.too_few + 1)
                        continue
                    warm = self.tokens(text(profile)) if text is not None and self.options.warm_up else ()
                    own = known.intersection(tokens)
                    others = tuple(one for one in mixed_in if one not in own) if own else mixed_in
                    window.append(replace(lesson, text=warm, aux=others))
                if window and (user_id is None or len(window) == self.options.window):
                    report = self._train_window(stack, bank, family, window, report, begun, progress)
                    window = []
                if user_id is None:
                    return replace(report, seconds=time.perf_counter() - begun)

    def train_lessons(self, lessons: Sequence[Lesson], *, prior: Tensor | None = None) -> list[Learnt]:
        """Train lessons without a bank, all in one chunk.

        Returns:
            What came of each, in the order given.
        """
        with self._stack(prior) as stack:
            return self._train_chunk(stack, lessons, self.options)

    def lesson(self, user_id: str, examples: Sequence[Example], *, revision: int = 0) -> Lesson | None:
        """A user's examples in tokens, the newest held out; None if there are fewer than `min_records`."""
        return self._lesson(user_id, self.tokens(examples), revision)

    def tokens(self, examples: Sequence[Example]) -> tuple[TokenExample, ...]:
        """The examples in tokens; those that are too long are left out."""
        return self._tokens(examples)[0]

    def losses(self, rows: Tensor, examples: Sequence[TokenExample], *, prior: Tensor | None = None) -> list[float]:
        """The mean loss over some examples with each of several adapters, in nats per token.

        Args:
            rows: the adapters.  # (adapters, size)
            examples: at least one.
            prior: what they lie over; None for nothing.  # (size,)
        """
        with self._stack(prior) as stack:
            found = self._losses(stack, rows.to(stack.device), [examples] * len(rows))
        return [loss for loss in found if loss is not None]

    def user_losses(
        self, rows: Tensor, examples: Sequence[Sequence[TokenExample]], *, prior: Tensor | None = None
    ) -> Tensor:
        """Each user's mean loss with an adapter of their own, in one pass; gradients reach `rows`.

        Args:
            rows: the adapters.  # (users, size)
            examples: of each user, at least one.
            prior: what they lie over; None for nothing.  # (size,)

        Returns:
            # (users,)
        """
        with self._stack(prior) as stack:
            each, weights = self._each(stack, rows.to(stack.device), examples)
        return (each * weights.to(each.dtype)).view(len(rows), -1).sum(1)

    def example_losses(self, examples: Sequence[TokenExample], *, prior: Tensor | None = None) -> Tensor:
        """The loss of each example with the prior alone, in one pass.  # (examples,)"""
        prompts, targets = [example.prompt for example in examples], [example.target for example in examples]
        with self._stack(prior) as stack, stack.rows([None if prior is None else PRIOR_SLOT] * len(examples)):
            return self._loss(prompts, targets)

    def _lesson(self, user_id: str, tokens: tuple[TokenExample, ...], revision: int) -> Lesson | None:
        if len(tokens) < self.options.min_records:
            return None
        cut = len(tokens) - self.options.split(len(tokens))
        return Lesson(user_id, tokens[:cut], tokens[cut:], revision)

    def _tokens(self, examples: Sequence[Example]) -> tuple[tuple[TokenExample, ...], int]:
        """The examples that are short enough, in tokens; and how many are not."""
        kept = tuple(example for _, example in self._fitting(examples))
        return kept, len(examples) - len(kept)

    def _fitting(self, examples: Sequence[Example]) -> list[tuple[Example, TokenExample]]:
        """The examples that are short enough, as they are and in tokens."""
        if not examples:
            return []
        limits = [self.options.max_tokens, self.llm.input_limit(GenerationOptions(max_new_tokens=1))]
        limit = min((limit for limit in limits if limit is not None), default=None)
        prompts = self.llm.prompt_ids([example.prompt for example in examples])
        targets = self.llm.target_ids([example.target for example in examples])
        made = (TokenExample(tuple(one), tuple(other)) for one, other in zip(prompts, targets, strict=True))
        return [
            (example, tokens)
            for example, tokens in zip(examples, made, strict=True)
            if limit is None or len(tokens) <= limit
        ]

    def _stack(self, prior: Tensor | None) -> StackedLoRA:
        return StackedLoRA(self.llm.model, self.spec, slots=1, prior=prior, base=self.llm.fingerprint)

    def _train_window(
        self,
        stack: StackedLoRA,
        bank: AdapterBank,
        family: Family,
        window: Sequence[Lesson],
        report: TrainingReport,
        begun: float,
        progress: Progress | None,
    ) -> TrainingReport:
        drafts: list[AdapterDraft] = []
        again: list[Lesson] = []
        for chunk in chunks(window, self.options):
            for lesson, learnt in zip(chunk, self._train_chunk(stack, chunk, self.options), strict=True):
                drafts.append(_draft(lesson, learnt, self.options))
                if self.options.refit and lesson.held_out and drafts[-1].row is not None:
                    again.append(lesson.refitted(learnt.steps, self.options))
            if progress is not None:
                progress(report.users + len(drafts), time.perf_counter() - begun)
        place = {draft.user_id: index for index, draft in enumerate(drafts)}
        for chunk in chunks(again, self.options):
            for lesson, learnt in zip(chunk, self._train_chunk(stack, chunk, self.options), strict=True):
                index = place[lesson.user_id]
                # The losses stay those of the judged one: nothing is left to judge this one by.
                metrics = {**drafts[index].metrics, "examples": len(lesson.train), "steps": learnt.steps}
                drafts[index] = replace(drafts[index], row=learnt.row, metrics=metrics)
        kept = bank.publish(family, drafts)
        published = sum(adapter.sha256 is not None for adapter in kept)
        return replace(
            report,
            users=report.users + len(drafts),
            published=report.published + published,
            kept_prior=report.kept_prior + len(kept) - published,
            passed_over=report.passed_over + len(drafts) - len(kept),
            examples=report.examples + sum(len(lesson.train) for lesson in window),
        )

    def _train_chunk(self, stack: StackedLoRA, lessons: Sequence[Lesson], options: TrainingOptions) -> list[Learnt]:
        dtype = torch.float64 if stack.dtype == torch.float64 else torch.float32
        first = stack.family.initial(seed=options.seed, dtype=dtype).to(stack.device)
        if options.half is not None:
            first = stack.family.half(first, options.half)
        optimizer = PerUserAdamW(first.repeat(len(lessons), 1), weight_decay=options.weight_decay, clip=options.clip)
        prior = self._losses(stack, torch.zeros_like(first)[None], [lesson.held_out for lesson in lessons])
        learnt: dict[int, Learnt] = {}
        best: dict[int, Learnt] = {}
        alive = list(range(len(lessons)))
        totals = [lesson.steps(options) for lesson in lessons]
        for step in range(max(totals)):
            batches = [lessons[place].batch(step, options) for place in alive]
            gradients = self._gradients(stack, optimizer.rows, batches)
            rates = [options.rate(step, totals[place]) for place in alive]
            optimizer.step(gradients, torch.tensor(rates, dtype=torch.float64, device=stack.device))
            done = {place for place in alive if step + 1 == totals[place]}
            judged = {
                place
                for place in alive
                if place in done or (options.patience is not None and lessons[place].ends_epoch(step, options))
            }
            if not judged:
                continue
            rows = [index for index, place in enumerate(alive) if place in judged]
            held_out = [lessons[alive[index]].held_out for index in rows]
            losses = self._losses(stack, optimizer.rows[torch.tensor(rows, device=stack.device)], held_out)
            for index, loss in zip(rows, losses, strict=True):
                place = alive[index]
                now = Learnt(optimizer.rows[index].clone(), step + 1, loss, prior[place])
                before = best.get(place)
                if options.patience is None or loss is None or before is None or loss < (before.loss or 0.0):
                    best[place] = now
                elif step + 1 - before.steps >= options.patience * lessons[place].steps_per_epoch(options):
                    done.add(place)
                if place in done:
                    learnt[place] = best[place]
            if done:
                left = [index for index, place in enumerate(alive) if place not in done]
                optimizer.keep(torch.tensor(left, dtype=torch.long, device=stack.device))
                alive = [alive[index] for index in left]
                if not alive:
                    break
        return [learnt[place] for place in range(len(lessons))]

    def _gradients(self, stack: StackedLoRA, rows: Tensor, batches: Sequence[Sequence[TokenExample]]) -> Tensor:
        """The gradient of each user's mean loss.  # (users, size)"""
        leaf = rows.detach().requires_grad_()
        each, weights = self._each(stack, leaf, batches)
        (gradients,) = torch.autograd.grad((each * weights.to(each.dtype)).sum(), leaf)
        return gradients

    @torch.no_grad()
    def _losses(
        self, stack: StackedLoRA, rows: Tensor, examples: Sequence[Sequence[TokenExample]]
    ) -> list[float | None]:
        """Each user's mean loss over `examples`; None without any.

        Args:
            stack: the adapters' layers.
            rows: a row for each user, or one for all.  # (users or 1, size)
            examples: of each user.
        """
        found: list[float | None] = [None] * len(examples)
        asked = [place for place, some in enumerate(examples) if some]
        if not asked:
            return found
        longest = max(len(one) for some in examples for one in some)
        budget = _JUDGED * self.options.chunk_tokens
        # Many users with few examples go side by side; one user with many goes part after part.
        part = max(1, min(max(len(examples[place]) for place in asked), budget // longest))
        at_once = max(1, budget // (part * longest))
        for start in range(0, len(asked), at_once):
            places = asked[start : start + at_once]
            totals = dict.fromkeys(places, 0.0)
            for first in range(0, max(len(examples[place]) for place in places), part):
                now = [place for place in places if len(examples[place]) > first]
                some = [examples[place][first : first + part] for place in now]
                chosen = rows if len(rows) == 1 else rows[torch.tensor(now, device=rows.device)]
                each, weights = self._each(stack, chosen, some)
                means = (each.double() * weights).view(len(now), -1).sum(1).tolist()
                for place, mean, own in zip(now, means, some, strict=True):
                    totals[place] += mean * len(own)
            for place, total in totals.items():
                found[place] = total / len(examples[place])
        return found

    def _each(
        self, stack: StackedLoRA, rows: Tensor, batches: Sequence[Sequence[TokenExample]]
    ) -> tuple[Tensor, Tensor]:
        """The loss of each example and its weight in its user's mean; short batches are filled up with weight 0.

        Returns:
            Both of them user by user.  # (users * longest batch,), (users * longest batch,) float64
        """
        size = max(map(len, batches))
        filled = [example for batch in batches for example in (*batch, *[batch[0]] * (size - len(batch)))]
        weights = [1 / len(batch) if place < len(batch) else 0.0 for batch in batches for place in range(size)]
        with stack.using(rows.to(stack.dtype)):
            each = self._loss([example.prompt for example in filled], [example.target for example in filled])
        return each, torch.tensor(weights, dtype=torch.float64, device=each.device)


def chunks(lessons: Sequence[Lesson], options: TrainingOptions) -> Iterator[list[Lesson]]:
    """Cut lessons into those that are trained at once: alike in steps and length, and few enough for `chunk_tokens`.

    A user whose own batch fills a chunk is trained alone.
    """
    left = sorted(lessons, key=lambda lesson: (lesson.steps(options), lesson.longest), reverse=True)
    chunk: list[Lesson] = []
    tokens = 0  # of the chunk's widest user
    for lesson in left:
        rows = math.ceil(lesson.per_epoch(options) / lesson.steps_per_epoch(options))
        if lesson.warm_steps(options):
            rows = max(rows, min(options.batch_size, len(lesson.text)))
        widest = max(tokens, rows * lesson.longest)
        if chunk and widest * (len(chunk) + 1) > options.chunk_tokens:
            yield chunk
            chunk, widest = [], rows * lesson.longest
        chunk.append(lesson)
        tokens = widest
    if chunk:
        yield chunk


def _draft(lesson: Lesson, learnt: Learnt, options: TrainingOptions) -> AdapterDraft:
    """The version to publish: what was learnt if it beats the prior, else nothing."""
    metrics: dict[str, float] = {"examples": len(lesson.train), "steps": learnt.steps}
    wins = True
    if learnt.loss is not None and learnt.loss_prior is not None:
        metrics |= {"loss": learnt.loss, "loss_prior": learnt.loss_prior, "held_out": len(lesson.held_out)}
        wins = learnt.loss < learnt.loss_prior * (1 - options.margin)
    return AdapterDraft(lesson.user_id, learnt.row if wins else None, lesson.revision, metrics)
