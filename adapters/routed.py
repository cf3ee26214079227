"""An adapter for a user with few records, without training: shared meta-adapters, weighed by the user's vector.

>>> router = train_router(trainer, [trainer.tokens(one) for one in examples_of_training_users], prior=prior)
>>> router.row(trainer.tokens(examples))                                                                  # (size,)

RecLoRA's idea (arXiv 2408.03533): what users differ in is learnt once, by meta-adapters that all of them share, and a
small network says how much of each a user needs. With numbers ``a_1 ... a_n`` of a user, a layer's change is

    sum_i  a_i  B_i A_i

that is products, and not ``(sum_i a_i B_i)(sum_i a_i A_i)`` as there: no meta-adapter meets another's half, and with
`n` of rank ``r / n`` each the sum is one adapter of rank `r` that stands in the same stack as any other: all users
share A, and the columns of B are scaled. The numbers are not the softmax of that paper but any real ones: over a task
adapter a meta-adapter can be a direction, one user at either end of it.

**The user's vector** is what the LLM did not expect of the user. For each record the gradient of the answer's
log-likelihood with regard to the last hidden states, summed over the answer's tokens (at a tied head that is the
embedding of what was written minus the mean embedding of what was expected), beside the mean of those hidden states;
then the mean over records::

    v = mean over records of [ sum_t d log p(y_t) / d h_t ,  mean_t h_t ]         (2 hidden,)

No other encoder is needed, and a forward pass over the records makes it. The number of records goes in too, so that a
user with one record is moved less than one with ten.

**Training.** Of each training user some records make the vector and others are the target; from 1 record to as many as
there are, few as often as many. Meta-adapters and network learn together from the frozen LLM's loss, and users kept
aside tell when to stop.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from persona.adapters.bank import PUBLISHED, AdapterBank, AdapterDraft
from persona.adapters.examples import ExampleMaker
from persona.adapters.neighbours import LendingReport
from persona.adapters.training import AdapterTrainer, Progress, TokenExample
from persona.errors import InvalidOptionError

_READ_AT_ONCE = 32
_MOST_ASIDE = 64


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How to train a router.

    Attributes:
        n: meta-adapters, a divisor of the adapters' rank.
        hidden: units of the network.
        steps: optimizer steps.
        users: in a step.
        targets: answers of each user in a step.
        learning_rate: the highest; it falls to zero.
        weight_decay: of AdamW.
        records: most records of a user that are read.
        aside: share of the users who are kept aside to tell when to stop.
        evaluate_every: steps between two looks at them.
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
    weight_decay: float = 0.01
    records: int = 24
    aside: float = 0.1
    evaluate_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "hidden", "steps", "users", "targets", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")
        if self.records <= self.targets:
            raise InvalidOptionError(f"`records` must be above `targets`, {self.targets}, was: {self.records}")
        if not 0 < self.aside < 1:
            raise InvalidOptionError(f"`aside` must be above 0 and below 1, was: {self.aside}")


class Router(nn.Module):
    """See the module. Made by `train_router`.

    Args:
        trainer: with the model and the adapters' shape.
        n: meta-adapters, a divisor of the rank.
        hidden: units of the network.
        prior: what the adapters lie over; None for nothing.  # (size,)
        seed: of the first numbers.
        records: most records of a user that it reads, the newest: as many as it is trained with.

    Raises:
        InvalidOptionError: if `n` does not divide the rank.
    """

    meta: Tensor
    mean: Tensor
    spread: Tensor
    records: Tensor

    def __init__(
        self,
        trainer: AdapterTrainer,
        *,
        n: int = 8,
        hidden: int = 60,
        prior: Tensor | None = None,
        seed: int = 0,
        records: int = RouterOptions().records,
    ) -> None:
        super().__init__()
        family = trainer.family.over(prior)
        if family.spec.r % n:
            raise InvalidOptionError(f"`n` must divide the adapters' rank, {family.spec.r}, was: {n}")
        self.family, self.n = family, n
        self._trainer, self._prior = trainer, prior
        width = 2 * trainer.llm.model.get_output_embeddings().weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.read = nn.Linear(width + 1, hidden)
            self.told = nn.Linear(hidden, n)
        self.meta = nn.Parameter(family.initial(seed=seed))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("records", torch.tensor([records]))

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], trainer: AdapterTrainer, *, prior: Tensor | None = None) -> Router:
        """The router of `state_dict`'s tensors.

        Raises:
            InvalidOptionError: if they belong to another shape of adapters or another model.
        """
        try:
            made = cls(trainer, n=len(tensors["told.bias"]), hidden=len(tensors["read.bias"]), prior=prior)
            # One that was saved before the number was kept has the default.
            made.load_state_dict({"records": made.records, **tensors})
        except (KeyError, RuntimeError) as error:
            raise InvalidOptionError("the router was trained for another model or other adapters") from error
        return made

    def numbers(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """What the network says of users.

        Args:
            vectors: of the users.  # (users, 2 hidden)
            counts: of their records.  # (users,)

        Returns:
            How much of each meta-adapter.  # (users, n)
        """
        seen = torch.cat(((vectors - self.mean) / self.spread, counts.float().log()[:, None]), dim=1)
        told: Tensor = self.told(torch.tanh(self.read(seen)))
        return told

    def rows(self, numbers: Tensor) -> Tensor:
        """The adapters of users with these numbers: A as it is, B's columns scaled.

        Args:
            numbers: from `numbers`.  # (users, n)

        Returns:
            # (users, size)
        """
        scales = numbers.repeat_interleave(self.family.spec.r // self.n, dim=1)[:, None]  # (users, 1, r)
        parts: list[Tensor] = []
        for a, b in self.family.pairs(self.meta[None]):
            parts += [a.flatten(1).expand(len(numbers), -1), (b * scales).flatten(1)]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def row(self, examples: Sequence[TokenExample]) -> Tensor:
        """The adapter of a user with these examples, at least one, oldest first.  # (size,)

        No more of the newest are read than in training: the network has seen the logarithm of no higher number.
        """
        vectors = record_vectors(self._trainer, examples[-int(self.records) :], prior=self._prior)
        return self.rows(self.numbers(vectors.mean(0)[None], torch.tensor([len(vectors)])))[0]

    def lend(
        self, bank: AdapterBank, examples: ExampleMaker, *, user_ids: Iterable[str] | None = None
    ) -> LendingReport:
        """Give adapters to users, where the user's own records are likelier with it than with the prior.

        Args:
            bank: where profiles are read and versions are put.
            examples: makes a user's examples.
            user_ids: to whom; None for the users with records that no version of theirs has seen.
        """
        bank.add_family(self.family, self._prior)
        wanted = bank.stale_users(self.family) if user_ids is None else iter(user_ids)
        report = LendingReport()
        while some := list(islice(wanted, 64)):
            drafts = [draft for user_id in some if (draft := self._draft(bank, user_id, examples)) is not None]
            kept = bank.publish(self.family, drafts)
            published = sum(adapter.state == PUBLISHED for adapter in kept)
            report = replace(
                report,
                users=report.users + len(some),
                published=report.published + published,
                kept_prior=report.kept_prior + len(kept) - published,
                without_examples=report.without_examples + len(some) - len(drafts),
                passed_over=report.passed_over + len(drafts) - len(kept),
            )
        return report

    def _draft(self, bank: AdapterBank, user_id: str, examples: ExampleMaker) -> AdapterDraft | None:
        profile = bank.store.profile(user_id)
        tokens = self._trainer.tokens(examples(profile))
        if not tokens:
            return None
        row = self.row(tokens)
        both = torch.stack((row, torch.zeros_like(row)))
        loss, loss_prior = self._trainer.losses(both, tokens, prior=self._prior)
        metrics = {"loss_routed": loss, "loss_prior": loss_prior, "examples": len(tokens)}
        wins = loss < loss_prior * (1 - self._trainer.options.margin)
        return AdapterDraft(user_id, row if wins else None, profile.revision, metrics)


def record_vectors(trainer: AdapterTrainer, examples: Sequence[TokenExample], *, prior: Tensor | None = None) -> Tensor:
    """What the LLM did not expect of each record, see the module.

    Args:
        trainer: with the model.
        examples: at least one.
        prior: the adapter that the LLM reads with; None for none.  # (size,)

    Returns:
        float32, on the CPU.  # (examples, 2 hidden)
    """
    head = trainer.llm.model.get_output_embeddings()
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0].detach().requires_grad_())
        return (seen[-1], *inputs[1:])

    order = sorted(range(len(examples)), key=lambda place: len(examples[place]))
    found: list[Tensor | None] = [None] * len(examples)
    handle = head.register_forward_pre_hook(keep)
    try:
        for start in range(0, len(order), _READ_AT_ONCE):
            places = order[start : start + _READ_AT_ONCE]
            batch = [examples[place] for place in places]
            seen.clear()
            # Nothing before the head needs a gradient, so the pass through the body leaves no graph behind.
            with torch.enable_grad():
                losses = trainer.example_losses(batch, prior=prior)
                lengths = torch.tensor([len(example.target) for example in batch], device=losses.device)
                (gradient,) = torch.autograd.grad(-(losses * lengths).sum(), seen[-1])
            used = (gradient.abs().sum(2, keepdim=True) > 0).to(gradient.dtype)
            hidden = (seen[-1].detach() * used).sum(1) / used.sum(1).clamp_min(1)
            for place, vector in zip(places, torch.cat((gradient.sum(1), hidden), dim=1), strict=True):
                found[place] = vector.float().cpu()
    finally:
        handle.remove()
    return torch.stack([vector for vector in found if vector is not None])


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
        progress: told the steps done and the seconds so far.

    Returns:
        The router of the step that was best for the users kept aside, the loss on them, and that of the prior alone.

    Raises:
        InvalidOptionError: if fewer than 4 users have 2 examples, or `n` does not divide the rank.
    """
    options = options or RouterOptions()
    draw = random.Random(options.seed)
    known = [tuple(each[-options.records :]) for each in users if len(each) > 1]
    if len(known) < 4:
        raise InvalidOptionError(f"a router needs at least 4 users with 2 examples each, was: {len(known)}")
    draw.shuffle(known)
    vectors = [record_vectors(trainer, each, prior=prior) for each in known]
    aside = min(_MOST_ASIDE, max(1, round(options.aside * len(known))))
    router = Router(
        trainer, n=options.n, hidden=options.hidden, prior=prior, seed=options.seed, records=options.records
    )
    every = torch.cat(vectors[aside:])
    # The spread of means of some records, not of single ones.
    router.mean.copy_(every.mean(0))
    router.spread.copy_(torch.stack([each.mean(0) for each in vectors[aside:]]).std(0).clamp_min(1e-6))

    def parted(place: int, luck: random.Random) -> tuple[Tensor, int, list[TokenExample]]:
        """A user's vector from some records, how many, and the answers to other questions."""
        order = list(range(len(known[place])))
        luck.shuffle(order)
        targets = order[: min(options.targets, len(order) - 1)]
        left = order[len(targets) :]
        # As often from 1 to 2 records as from 2 to 4.
        count = max(1, min(len(left), round(math.exp(luck.uniform(0, math.log(len(left) + 0.5))))))
        chosen = left[:count]
        return vectors[place][chosen].mean(0), len(chosen), [known[place][one] for one in targets]

    def loss_of(places: Sequence[int], luck: random.Random) -> Tensor:
        parts = [parted(place, luck) for place in places]
        numbers = router.numbers(torch.stack([one for one, _, _ in parts]), torch.tensor([n for _, n, _ in parts]))
        return trainer.user_losses(router.rows(numbers), [targets for _, _, targets in parts], prior=prior).mean()

    def judged() -> float:
        with torch.no_grad():
            luck = random.Random(options.seed)
            parts = [loss_of(range(aside), luck) for _ in range(2)]
            return float(torch.stack(parts).mean())

    optimizer = torch.optim.AdamW(router.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    begun = time.perf_counter()
    # B is zero at first, so this is the prior's loss.
    before = best = judged()
    kept = {name: tensor.clone() for name, tensor in router.state_dict().items()}
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min((step + 1) / 20, 1 - step / options.steps)
        places = [draw.randrange(aside, len(known)) for _ in range(options.users)]
        optimizer.zero_grad()
        loss = loss_of(places, draw)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(router.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % options.evaluate_every == 0 or step + 1 == options.steps:
            now = judged()
            if now < best:
                best, kept = now, {name: tensor.clone() for name, tensor in router.state_dict().items()}
            if progress is not None:
                progress(step + 1, time.perf_counter() - begun)
    router.load_state_dict(kept)
    return router, best, before
