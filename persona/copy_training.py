"""Training of what a user embedder copies: ten numbers, by the loss of the frozen LLM on answers of training users.

The LLM reads some training examples once, with the soft prompts of the trained user embedder in front. What it gives to
the tokens that may be copied is kept, and the loss is a closed form in it: with p the LLM's probabilities and z the
lifts of `persona.copying`, over the tokens v that are lifted,

    -log p(y) - z(y) + log(1 + sum_v p(v) (exp z(v) - 1))

which is convex in w; L-BFGS ends within seconds. Users kept aside say whether copying helps at all; else w stays 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from persona.copying import FEATURES, Copying, CopySource
from persona.embedder import UserEmbedder
from persona.histories import HistoryBatch
from persona.plug_examples import Example, Examples, PlugTraining
from persona.plug_warm_up import Progress
from persona.records import Profile
from persona.target_loss import TargetLoss
from persona.vocabulary import TokenBackground

_POSITIONS = 8192
"""Target tokens that are learned from at most."""
_RIDGE = 1e-4
_ITERATIONS = 50


ExampleTokens = Callable[[Example, int], tuple[list[int], list[int]]]
"""Token ids of an example's prompt with so many retrieved records, and of its target."""


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """What the LLM said of some answers, and what could have been copied there.

    Attributes:
        gold: log-probability of each right token.  # (positions,)
        share: weight of each position in the mean over examples.  # (positions,)
        features: x of every token that may be copied, at every position.  # (candidates, features)
        p: the LLM's probability of each.  # (candidates,)
        position: the position of each.  # (candidates,)
        right: the candidate that is the right token; -1 where none is.  # (positions,)
    """

    gold: Tensor
    share: Tensor
    features: Tensor
    p: Tensor
    position: Tensor
    right: Tensor

    def loss(self, weights: Tensor) -> Tensor:
        """Mean over the examples of the mean over their tokens, nats.  # ()"""
        lifts = self.features @ weights
        more = torch.zeros_like(self.gold).index_add(0, self.position, self.p * torch.expm1(lifts))
        right = torch.where(self.right >= 0, lifts[self.right.clamp_min(0)], 0.0)
        each = -self.gold - right + torch.log1p(more.clamp_min(1e-6 - 1))
        return (each * self.share).sum()


def train_copying(
    plug: UserEmbedder,
    examples: Examples,
    tokens: ExampleTokens,
    loss: TargetLoss,
    options: PlugTraining,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """Learn what `plug` copies; all else stays as it is.

    Args:
        plug: trained, and made with ``copies=True``.
        examples: of the training.
        tokens: makes an example's prompt with so many records, and its target.
        loss: of the frozen LLM.
        options: of the training; `PlugTraining.without_user` shows no record, and nothing of a user is copied.
        progress: called with the target tokens that were read, and their number at most.

    Returns:
        The loss on questions of the users kept aside, nats per token: with copying, and without.
    """
    assert plug.copying is not None
    background = TokenBackground.from_profiles(loss.llm, (example.profile for example in examples.train))
    counted = torch.tensor(list(background.counts), dtype=torch.long)
    plug.copying.counts[counted] = torch.tensor(list(background.counts.values()), dtype=torch.int32).to(loss.device)
    plug.copying.texts.fill_(background.texts)
    copying = plug.copying.of(loss.llm)
    order = np.random.default_rng((options.seed, 6)).permutation(len(examples.train))
    reader = _Reader(plug, examples, tokens, loss, copying, options)
    train = reader.read([examples.train[place] for place in order], progress, training=True)
    aside = reader.read(examples.dev)
    weights = torch.zeros(len(FEATURES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = train.loss(weights) + _RIDGE * weights.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    learned = weights.detach()
    before, after = float(aside.loss(torch.zeros_like(learned))), float(aside.loss(learned))
    if not after < before:
        return before, before
    plug.copying.weights.copy_(learned)
    return after, before


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    """Lets the LLM answer examples; see `train_copying`."""

    plug: UserEmbedder
    examples: Examples
    tokens: ExampleTokens
    loss: TargetLoss
    copying: Copying
    options: PlugTraining

    def read(self, chosen: Sequence[Example], progress: Progress | None = None, *, training: bool = False) -> _Answered:
        """What the LLM says of the first of `chosen` that have `_POSITIONS` target tokens; some are shown as new users
        in training.
        """
        options = self.options
        parts: list[_Answered] = []
        positions = 0
        for start in range(0, len(chosen), options.batch):
            some = chosen[start : start + options.batch]
            pairs, profiles, histories = [], [], []
            for number, example in enumerate(some, start):
                draw = np.random.default_rng((options.seed, 7, number))
                nobody = options.without_user or (training and draw.random() < options.empty_share)
                history = self.examples.shown(example, options)
                histories.append(history.take(np.arange(0)) if nobody else history)
                profiles.append(Profile(example.user_id) if nobody else example.profile)
                pairs.append(self.tokens(example, options.ks[int(draw.integers(len(options.ks)))]))
            queries = np.stack([example.query for example in some])
            batch = HistoryBatch.of(histories, self.plug.config, queries, self.loss.device)
            with torch.no_grad():
                soft_prompts = self.plug(batch.keys, batch.values, batch.mask, batch.query, batch.days)
            said = self.loss.log_probabilities([one for one, _ in pairs], [one for _, one in pairs], soft_prompts)
            sources = self.copying.sources(profiles, [example.input for example in some])
            for source, (_, target), log_p in zip(sources, pairs, said, strict=True):
                parts.append(_answered(source, target, log_p.cpu()))
                positions += len(target)
            if progress is not None:
                progress(min(positions, _POSITIONS), _POSITIONS, 0.0, 0.0)
            if positions >= _POSITIONS:
                break
        return _together(parts)


def _answered(source: CopySource, target: Sequence[int], log_p: Tensor) -> _Answered:
    """One example.

    Args:
        source: what may be copied into its answer.
        target: the right answer.
        log_p: of the LLM at each place.  # (tokens of the target, vocabulary)
    """
    lifted = torch.from_numpy(source.tokens)
    features = np.concatenate([source.features(target[:place]) for place in range(len(target))])
    places = {token: place for place, token in enumerate(source.tokens.tolist())}
    right = [place * len(lifted) + places[token] if token in places else -1 for place, token in enumerate(target)]
    return _Answered(
        gold=log_p[torch.arange(len(target)), torch.tensor(target)],
        share=torch.full((len(target),), 1 / len(target)),
        features=torch.from_numpy(features),
        p=log_p[:, lifted].exp().flatten(),
        position=torch.arange(len(target)).repeat_interleave(len(lifted)),
        right=torch.tensor(right),
    )


def _together(parts: Sequence[_Answered]) -> _Answered:
    """Several examples, each of the same weight."""
    positions = np.cumsum([0, *(len(part.gold) for part in parts)]).tolist()
    candidates = np.cumsum([0, *(len(part.p) for part in parts)]).tolist()
    return _Answered(
        gold=torch.cat([part.gold for part in parts]),
        share=torch.cat([part.share for part in parts]) / len(parts),
        features=torch.cat([part.features for part in parts]),
        p=torch.cat([part.p for part in parts]),
        position=torch.cat([part.position + first for part, first in zip(parts, positions, strict=False)]),
        right=torch.cat(
            [
                torch.where(part.right >= 0, part.right + first, -1)
                for part, first in zip(parts, candidates, strict=False)
            ]
        ),
    )
