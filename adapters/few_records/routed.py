"""An adapter for a user with few records, without training: shared meta-adapters, weighed by the user's vector.

RecLoRA's idea (arXiv 2408.03533): what users differ in is learnt once, by meta-adapters that all of them share, and a
small network says how much of each a user needs. With weights ``a_1 ... a_n`` of a user, a layer's change is

    sum_i  a_i  B_i A_i

that is products, and not ``(sum_i a_i B_i)(sum_i a_i A_i)`` as there: no meta-adapter meets another's half, and with
`n` of rank ``r / n`` each the sum is one adapter of rank `r` that stands in the same stack as any other: all users
share A, and the columns of B are scaled. The weights are not the softmax of that paper but any real numbers: over a
task adapter a meta-adapter can be a direction, one user at either end.

**The user's vector** is what the LLM did not expect of the user. For each record the gradient of the answer's
log-likelihood with regard to the last hidden states, summed over the answer's tokens (at a tied head that is the
embedding of what was written minus the mean embedding of what was expected), beside the mean of those hidden states;
then the mean over records::

    v = mean over records of [ sum_t d log p(y_t) / d h_t ,  mean_t h_t ]         (2 hidden,)

No other encoder is needed, and a forward pass over the records gives it. The number of records goes in too, so that a
user with one record is moved less than one with ten.

**Training.** Of each training user some records make the vector and others are the target; from 1 record to as many as
there are, few as often as many. Meta-adapters and network learn together from the frozen LLM's loss, and the best step
for the validation users is taken.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import ExampleMaker
from persona.adapters.training.lessons import TokenExample, parted
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import Progress, publish_untrained
from persona.adapters.versions import AdapterReport
from persona.errors import InvalidOptionError, check_fraction, check_least
from persona.llm.optimization import EarlyStopping, rate_share

_READ_AT_ONCE = 32
_MOST_VALIDATION = 64
_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How to train a router.

    Attributes:
        n: number of meta-adapters, a divisor of the adapters' rank.
        hidden: units of the network.
        steps: optimizer steps.
        users: in a step.
        targets: answers of each user in a step.
        learning_rate: the highest; 20 steps rise to it, then it falls linearly.
        records: most records of a user that are read, the newest.
        validation: share of the users who are held out.
        evaluate_every: steps between two evaluations.
        seed: of everything random.

    Raises:
        InvalidOptionError: if a number is out of its range.
    """

    n: int = 8
    hidden: int = 60
    steps: int = 400
    users: int = 16
    targets: int = 2
    learning_rate: float = 3e-3
    records: int = 24
    validation: float = 0.1
    evaluate_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(1, n=self.n, hidden=self.hidden, steps=self.steps, users=self.users, targets=self.targets)
        check_least(1, evaluate_every=self.evaluate_every)
        if self.records <= self.targets:
            raise InvalidOptionError(f"`records` must be above `targets`, {self.targets}, was: {self.records}")
        check_fraction(validation=self.validation)


class Router(nn.Module):
    """Meta-adapters, and the network that weighs them by a user's vector. Trained by `train_router`.

    Args:
        trainer: with the model and the adapters' shape.
        options: number of meta-adapters, units of the network, most records that it reads, and the seed.
        prior: what the adapters lie over; None for nothing.  # (size,)

    Raises:
        InvalidOptionError: if `n` does not divide the rank.
    """

    meta: Tensor
    mean: Tensor
    spread: Tensor
    records: Tensor

    def __init__(self, trainer: AdapterTrainer, options: RouterOptions, *, prior: Tensor | None = None) -> None:
        super().__init__()
        family = trainer.family
        if family.spec.r % options.n:
            raise InvalidOptionError(f"`n` must divide the adapters' rank, {family.spec.r}, was: {options.n}")
        self._trainer, self._prior = trainer, prior
        width = 2 * trainer.llm.model.get_output_embeddings().weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.read = nn.Linear(width + 1, options.hidden)
            self.weigh = nn.Linear(options.hidden, options.n)
        self.meta = nn.Parameter(family.initial(seed=options.seed))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("records", torch.tensor([options.records]))

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], trainer: AdapterTrainer, *, prior: Tensor | None = None) -> Router:
        """The router of `state_dict`'s tensors.

        Raises:
            InvalidOptionError: if they belong to another shape of adapters or another model.
        """
        tensors = {name.replace("told.", "weigh."): tensor for name, tensor in tensors.items()}  # of older versions
        try:
            options = RouterOptions(n=len(tensors["weigh.bias"]), hidden=len(tensors["read.bias"]))
            router = cls(trainer, options, prior=prior)
            router.load_state_dict({"records": router.records, **tensors})  # older ones have no such number
        except (KeyError, RuntimeError) as error:
            raise InvalidOptionError("the router was trained for another model or other adapters") from error
        return router

    def weights(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """How much of each meta-adapter users need.  # (users, n)

        Args:
            vectors: of the users.  # (users, 2 hidden)
            counts: of their records.  # (users,)
        """
        inputs = torch.cat(((vectors - self.mean) / self.spread, counts.float().log()[:, None]), dim=1)
        weights: Tensor = self.weigh(torch.tanh(self.read(inputs)))
        return weights

    def rows(self, weights: Tensor) -> Tensor:
        """The adapters of users with these weights, A as it is and B's columns scaled.  # (users, size)"""
        family = self._trainer.family
        scales = weights.repeat_interleave(family.spec.r // weights.shape[1], dim=1)[:, None]  # (users, 1, r)
        parts: list[Tensor] = []
        for a, b in family.pairs(self.meta[None]):
            parts += [a.flatten(1).expand(len(weights), -1), (b * scales).flatten(1)]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def row(self, examples: Sequence[TokenExample]) -> Tensor:
        """The adapter of a user with these examples, at least one, oldest first.  # (size,)

        No more of the newest are read than in training: the network has seen the logarithm of no higher number.
        """
        vectors = record_vectors(self._trainer, examples[-int(self.records) :], prior=self._prior)
        return self.rows(self.weights(vectors.mean(0)[None], torch.tensor([len(vectors)])))[0]

    def publish(
        self, bank: AdapterBank, examples: ExampleMaker, *, user_ids: Iterable[str] | None = None
    ) -> AdapterReport:
        """Publish adapters for users where they beat the prior (`publish_untrained`)."""
        return publish_untrained(
            self._trainer,
            bank,
            examples,
            lambda profile, tokens: self.row(tokens),
            prior=self._prior,
            user_ids=user_ids,
        )


def record_vectors(trainer: AdapterTrainer, examples: Sequence[TokenExample], *, prior: Tensor | None = None) -> Tensor:
    """What the LLM, with the prior, did not expect of each record: the user's vector is the mean.

    Returns:
        float32, on the CPU.  # (examples, 2 hidden)
    """
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(inputs[0].detach().requires_grad_())
        return (states[-1], *inputs[1:])

    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    vectors: dict[int, Tensor] = {}
    handle = trainer.llm.model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        for start in range(0, len(order), _READ_AT_ONCE):
            chosen = order[start : start + _READ_AT_ONCE]
            batch = [examples[index] for index in chosen]
            states.clear()
            # Nothing before the head needs a gradient, so the pass through the body leaves no graph behind.
            with torch.enable_grad(), trainer.stacked(prior) as losses:
                each = losses.under_prior(batch)
                lengths = torch.tensor([len(example.target) for example in batch], device=each.device)
                (gradient,) = torch.autograd.grad(-(each * lengths).sum(), states[-1])
            used = (gradient.abs().sum(2, keepdim=True) > 0).to(gradient.dtype)
            hidden = (states[-1].detach() * used).sum(1) / used.sum(1).clamp_min(1)
            vectors |= zip(chosen, torch.cat((gradient.sum(1), hidden), dim=1).float().cpu(), strict=True)
    finally:
        handle.remove()
    return torch.stack([vectors[index] for index in range(len(examples))])


def train_router(
    trainer: AdapterTrainer,
    users: Iterable[Sequence[TokenExample]],
    options: RouterOptions | None = None,
    *,
    prior: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Router, float, float]:
    """Train meta-adapters and the network that weighs them, on the training users.

    Args:
        trainer: with the model and the adapters' shape.
        users: the examples of each training user, oldest first; those with fewer than 2 teach nothing.
        options: how to train.
        prior: the shared prior; None for none.  # (size,)
        progress: called after each evaluation with the steps done and the seconds so far.

    Returns:
        The router of the step that was best for the validation users, their loss, and that of the prior alone.

    Raises:
        InvalidOptionError: if fewer than 4 users have 2 examples, or `n` does not divide the rank.
    """
    options = options or RouterOptions()
    draw = random.Random(options.seed)
    known = [tuple(each[-options.records :]) for each in users if len(each) > 1]
    if len(known) < 4:
        raise InvalidOptionError(f"a router needs at least 4 users with 2 examples each, was: {len(known)}")
    draw.shuffle(known)
    trainer.family.check_linear("a router")
    router = Router(trainer, options, prior=prior)
    course = _Course(trainer, router, options, known)
    optimizer = torch.optim.AdamW(router.parameters(), lr=options.learning_rate, weight_decay=0.01)
    begun, best = time.perf_counter(), EarlyStopping()
    before = course.validation_loss()  # B is zero at first, so this is the prior's
    best.improved(before, 0)
    state = {name: tensor.clone() for name, tensor in router.state_dict().items()}
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate_share(step, options.steps, warm_up=min(_WARM_UP, options.steps))
        optimizer.zero_grad()
        loss = course.loss([draw.randrange(course.validation, len(known)) for _ in range(options.users)], draw)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(router.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % options.evaluate_every == 0 or step + 1 == options.steps:
            if best.improved(course.validation_loss(), step + 1):
                state = {name: tensor.clone() for name, tensor in router.state_dict().items()}
            if progress is not None:
                progress(step + 1, time.perf_counter() - begun)
    router.load_state_dict(state)
    return router, best.best, before


class _Course:
    """The users whom a router is trained on, those for validation first."""

    def __init__(
        self,
        trainer: AdapterTrainer,
        router: Router,
        options: RouterOptions,
        known: Sequence[Sequence[TokenExample]],
    ) -> None:
        self._trainer, self._router, self._options, self._known = trainer, router, options, known
        self._vectors = [record_vectors(trainer, each, prior=router._prior) for each in known]
        self.validation = min(_MOST_VALIDATION, max(1, round(options.validation * len(known))))
        train = self._vectors[self.validation :]
        router.mean.copy_(torch.cat(train).mean(0))
        # The spread of means of some records, not of single ones.
        router.spread.copy_(torch.stack([each.mean(0) for each in train]).std(0).clamp_min(1e-6))

    def loss(self, users: Sequence[int], draw: random.Random) -> Tensor:
        """The mean loss of some users' answers, each with the adapter that other records of theirs give."""
        vectors, counts, targets = zip(*(self._parted(user, draw) for user in users), strict=True)
        weights = self._router.weights(torch.stack(vectors), torch.tensor(counts))
        with self._trainer.stacked(self._router._prior) as losses:
            return losses.means(self._router.rows(weights), targets).mean()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """The mean loss of the validation users, twice each: they are always parted alike."""
        draw = random.Random(self._options.seed)
        return float(torch.stack([self.loss(range(self.validation), draw) for _ in range(2)]).mean())

    def _parted(self, user: int, draw: random.Random) -> tuple[Tensor, int, list[TokenExample]]:
        """A user's vector from some records, how many, and the answers to other questions."""
        known = self._known[user]
        read, targets = parted(len(known), self._options.targets, draw)
        return self._vectors[user][read].mean(0), len(read), [known[index] for index in targets]
