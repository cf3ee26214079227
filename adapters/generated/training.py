"""Training a generator of adapters: once, on the training users, for all users.

Of each training user some records are read and others are the target; from 1 record to as many as there are, few as
often as many. The loss is the frozen LLM's on the target's answers with the adapter that was written, and with `distil`
also how far the LLM's next tokens are from those of the same LLM with the records in its prompt::

    loss = CE(answer) + distil * KL(LLM with the records in front || LLM with the adapter)

What is read is computed once. Step n is a function of the seed and n, so a run that was killed goes on from its last
evaluation to the very weights of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from persona.adapters.few_records.routed import record_vectors
from persona.adapters.generated.generator import ACTIVATIONS, VECTOR, AdapterGenerator, GeneratorConfig
from persona.adapters.generated.ledger import side_by_side
from persona.adapters.generated.network import PADDING
from persona.adapters.generated.reading import ActivationReader, Activations
from persona.adapters.training.lessons import TokenExample, parted
from persona.adapters.training.losses import UserLosses
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import Progress
from persona.errors import InvalidOptionError, check_fraction, check_least, check_positive
from persona.llm.checks import check_seed
from persona.soft_prompts.training.loop import Schedule, TrainingLoop

CHECKPOINT = "generator.checkpoint"
_WEIGHT_DECAY = 0.01
_MOST_VALIDATION = 48


@dataclass(frozen=True, slots=True)
class GeneratorTraining:
    """How to train a generator.

    Attributes:
        kind: ``vector``, ``activations`` or ``routed`` (`persona.adapters.generated.network`).
        steps: optimizer steps, at most.
        users: in a step.
        targets: answers of each user in a step.
        records: most records of a user, the newest.
        learning_rate: the highest.
        distil: weight of the divergence from the LLM with the records in its prompt; 0 leaves it out.
        validation: share of the users who are held out.
        evaluate_every: steps between two evaluations.
        patience: evaluations without a better one after which training ends.
        width: of the states within the network.
        blocks: of its trunk and of its attentions.
        chunk_rank: rank of a chunk's adapter; the adapters' rank divided by it is the most chunks of a user, or the
            number of meta-adapters.
        tokens: how many of a record's last tokens are read.
        with_user: False for the control, which reads the same of every user.
        seed: of everything random.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    kind: str = VECTOR
    steps: int = 400
    users: int = 16
    targets: int = 2
    records: int = 48
    learning_rate: float = 2e-3
    distil: float = 0.0
    validation: float = 0.1
    evaluate_every: int = 50
    patience: int = 4
    width: int = 64
    blocks: int = 2
    chunk_rank: int = 1
    tokens: int = 16
    with_user: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(1, steps=self.steps, users=self.users, targets=self.targets)
        check_least(1, evaluate_every=self.evaluate_every, patience=self.patience)
        if self.records <= self.targets:
            raise InvalidOptionError(f"`records` must be above `targets`, {self.targets}, was: {self.records}")
        check_fraction(validation=self.validation)
        check_least(0, distil=self.distil)
        check_positive(learning_rate=self.learning_rate)
        check_seed(self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedGenerator:
    """A generator, and what its training reported.

    Attributes:
        generator: that of the step that was best for the validation users.
        loss: theirs with it, in nats per token.
        loss_before: theirs under the prior alone.
        steps: taken.
        seconds: of this run.
    """

    generator: AdapterGenerator = field(repr=False)
    loss: float
    loss_before: float
    steps: int
    seconds: float


def train_generator(
    trainer: AdapterTrainer,
    users: Sequence[Sequence[TokenExample]],
    options: GeneratorTraining | None = None,
    *,
    prior: Tensor | None = None,
    vectors: Sequence[Tensor] | None = None,
    folder: Path | None = None,
    progress: Progress = lambda steps, seconds: None,
) -> TrainedGenerator:
    """Train a generator on the training users.

    Args:
        trainer: with the frozen LLM and the adapters' shape.
        users: the examples of each training user, oldest first; those with fewer than 2 teach nothing.
        options: how to train.
        prior: the shared adapter under all that are written; None for none.  # (size,)
        vectors: of each user's examples, or one row for the user, not for kind ``activations``; None takes what the LLM
            did not expect of each record (`record_vectors`).  # per user: (examples or 1, dim)
        folder: for a checkpoint, which is removed at the end; None for none.
        progress: called after each step with the steps done and the seconds so far.

    Raises:
        InvalidOptionError: if fewer than 4 users have 2 examples, the checkpoint is of another run, or the LLM's layers
            cannot be read.
    """
    options = options or GeneratorTraining()
    trainer.family.check_linear("a generator")
    begun = time.perf_counter()
    course = _Course(trainer, users, options, prior, vectors)
    path = None if folder is None else folder / CHECKPOINT
    optimizer = torch.optim.AdamW(course.generator.parameters(), lr=options.learning_rate, weight_decay=_WEIGHT_DECAY)
    with trainer.stacked(prior) as losses:

        def take(step: int) -> float:
            draw = random.Random(f"{options.seed}:{step}")
            optimizer.zero_grad(set_to_none=True)
            loss = course.loss(
                losses, [draw.randrange(course.validation, course.users) for _ in range(options.users)], draw
            )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(course.generator.parameters(), 1.0)
            optimizer.step()
            return float(loss.detach())

        loop = TrainingLoop(
            "generator",
            course.generator,
            optimizer,
            Schedule(options.steps, options.learning_rate, options.evaluate_every, options.patience),
            take=take,
            validate=lambda: course.validation_loss(losses),
            evaluated=lambda: None if path is None else loop.save(path, course.name),
        )
        if path is not None:
            loop.load(path, course.name, trainer.llm.frozen.device)

        loop.run(lambda now: progress(now.done, time.perf_counter() - begun))
    if path is not None:
        path.unlink(missing_ok=True)
    seconds = time.perf_counter() - begun
    return TrainedGenerator(course.generator.cpu().eval(), loop.stopping.best, loop.before, loop.step, seconds)


class _Course:
    """The users whom a generator is trained on, those for validation first, and what is read of them."""

    def __init__(
        self,
        trainer: AdapterTrainer,
        users: Sequence[Sequence[TokenExample]],
        options: GeneratorTraining,
        prior: Tensor | None,
        vectors: Sequence[Tensor] | None,
    ) -> None:
        known = [index for index, own in enumerate(users) if len(own) > 1]
        if len(known) < 4:
            raise InvalidOptionError(f"a generator needs at least 4 users with 2 examples each, was: {len(known)}")
        random.Random(options.seed).shuffle(known)
        self._examples = [tuple(users[index][-options.records :]) for index in known]
        self._options, self._device = options, trainer.llm.frozen.device
        self.users = len(known)
        self.validation = min(_MOST_VALIDATION, max(1, round(options.validation * self.users)))
        self._activations: list[Activations] = []
        self._vectors: list[Tensor] = []
        if options.kind == ACTIVATIONS:
            reader = ActivationReader(trainer, options.tokens, prior=prior)
            self._activations = [reader(own).halved() for own in self._examples]
        elif vectors is None:
            self._vectors = [record_vectors(trainer, own, prior=prior) for own in self._examples]
        else:
            self._vectors = [vectors[index][-options.records :].float() for index in known]
        config = GeneratorConfig(
            options.kind,
            trainer.family.over(prior).name,
            (self._vectors or [each.states for each in self._activations])[0].shape[-1],
            surprise=self._activations[0].surprises.shape[1] if self._activations else 1,
            width=options.width,
            blocks=options.blocks,
            chunk_rank=1 if options.kind == VECTOR else options.chunk_rank,
            tokens=options.tokens,
            records=options.records,
            with_user=options.with_user,
        )
        self.generator = AdapterGenerator(config, seed=options.seed)
        if options.kind != ACTIVATIONS:
            # Of means of some records, not of single ones.
            means = torch.stack([own.mean(0) for own in self._vectors[self.validation :]])
            self.generator.vectors.usual.fit(means)
        else:
            seen = self._activations[self.validation :]
            self.generator.reader.surprises.fit(torch.cat([own.surprises for own in seen]))
            # Of records, not of their single tokens.
            tokens = [own.states.float().sum(2) / (own.marks != PADDING).sum(1)[:, None, None] for own in seen]
            self.generator.reader.states.fit(torch.cat(tokens))
        self.generator.to(self._device)
        data = hashlib.sha256(repr(self._examples).encode()).hexdigest()
        self.name = json.dumps([asdict(options), asdict(config), data])

    def loss(self, losses: UserLosses, users: Sequence[int], draw: random.Random) -> Tensor:
        """The mean loss of some users' answers, each with the adapter that was written from other records of theirs."""
        parts = [parted(len(self._examples[user]), self._options.targets, draw) for user in users]
        read, targets = [each for each, _ in parts], [each for _, each in parts]
        rows = self._rows(users, read, draw)
        asked = [[self._examples[user][index] for index in some] for user, some in zip(users, targets, strict=True)]
        loss = losses.means(rows, asked).mean()
        if self._options.distil:
            shown = [[self._examples[user][index] for index in some] for user, some in zip(users, read, strict=True)]
            loss = loss + self._options.distil * losses.divergences(rows, asked, shown).mean()
        return loss

    @torch.no_grad()
    def validation_loss(self, losses: UserLosses) -> float:
        """The mean loss of the validation users, twice each: they are always parted alike."""
        draw = random.Random(self._options.seed)
        size = self._options.users
        groups = [range(start, min(start + size, self.validation)) for start in range(0, self.validation, size)] * 2
        total = sum(float(self.loss(losses, group, draw)) * len(group) for group in groups)
        return total / (2 * self.validation)

    def _rows(self, users: Sequence[int], read: Sequence[Sequence[int]], draw: random.Random) -> Tensor:
        """The adapters of users from some of their records.  # (users, size)"""
        if self._options.kind != ACTIVATIONS:
            own = [self._vectors[user] for user in users]
            means = [each[some].mean(0) if len(each) > 1 else each[0] for each, some in zip(own, read, strict=True)]
            counts = torch.tensor([float(len(some)) for some in read])
            return self.generator.of_vectors(torch.stack(means).to(self._device), counts.to(self._device))
        chunks: dict[tuple[int, int], list[int]] = {}
        for owner, some in enumerate(read):
            for index in some:  # at random, as hashes of ids are
                chunks.setdefault((owner, draw.randrange(self.generator.chunks)), []).append(index)
        longest = max(map(len, chunks.values()))
        first = self._activations[0]
        states = torch.zeros(len(chunks), first.states.shape[1], longest, *first.states.shape[2:])
        marks = torch.zeros(len(chunks), longest, first.marks.shape[1], dtype=first.marks.dtype)
        for row, ((owner, _), some) in enumerate(chunks.items()):
            activations = self._activations[users[owner]]
            states[row, :, : len(some)] = activations.states[some].transpose(0, 1)
            marks[row, : len(some)] = activations.marks[some]
        surprised = [(self._activations[users[owner]].surprises, some) for (owner, _), some in chunks.items()]
        surprises = torch.stack([each[some].mean(0) for each, some in surprised])
        counts = torch.tensor([float(len(some)) for some in chunks.values()])
        rows = self.generator.of_chunks(*(each.to(self._device) for each in (states, marks, surprises, counts)))
        return side_by_side(self.generator.family, rows, [owner for owner, _ in chunks], [place for _, place in chunks])
