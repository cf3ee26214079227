"""Training of what a user embedder copies: ten numbers, by the loss of the frozen LLM on answers of training users.

The LLM reads some training examples once, with the soft prompts of the trained user embedder in front. What it gives to
the tokens that may be copied is kept, and the loss is a closed form in it: with p the LLM's probabilities and z the
lifts of `persona.soft_prompts.copying`, over the tokens v that are lifted,

    -log p(y) - z(y) + log(1 + sum_v p(v) (exp z(v) - 1))

which is convex in w; L-BFGS ends within seconds. Where that takes less than a hundredth off the loss on users kept
aside, w stays 0: it is not worth looking up at every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.records import Profile
from persona.soft_prompts.copying import FEATURES, Copying, CopySource, token_idf
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.examples import Example, Examples, UserEmbedderTraining
from persona.soft_prompts.histories import HistoryBatch
from persona.soft_prompts.vocabulary import TokenBackground
from persona.soft_prompts.warm_up import Progress

_POSITIONS = 8192
"""Target tokens from which on no further example is read."""
_CANDIDATES = 2**22
"""Tokens that may be copied, over all these positions: no further example is read where there are more. Some 160 bytes
each at the peak."""
_WORTH = 0.01
"""Share of the loss on users kept aside that copying has to take off."""
_RIDGE = 1e-4
_ITERATIONS = 50
_ORDER, _DRAW = 11, 12  # of the random numbers of a training, tags that nothing else has


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
    embedder: UserEmbedder,
    examples: Examples,
    tokens: ExampleTokens,
    loss: TargetLoss,
    options: UserEmbedderTraining,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """Learn what `embedder` copies; all else stays as it is.

    Args:
        embedder: trained, and made with ``copies=True``.
        examples: of the training.
        tokens: makes an example's prompt with so many records, and its target.
        loss: of the frozen LLM.
        options: of the training; `UserEmbedderTraining.without_user` shows no record, and nothing of a user is copied.
        progress: called with the target tokens that were read, and their number at most.

    Returns:
        The loss on questions of the users kept aside, nats per token: with copying, and without. Each is asked with one
        of `UserEmbedderTraining.ks`, drawn.
    """
    assert embedder.copying is not None
    background = TokenBackground.from_profiles(loss.llm, (example.profile for example in examples.train))
    embedder.copying.weights.zero_()
    embedder.copying.counts.copy_(_counts(background, embedder.config.copy_tokens))
    embedder.copying.texts.fill_(background.texts)
    draw = np.random.default_rng((options.seed, _ORDER))
    reader = _Reader(embedder, examples, tokens, loss, options)
    train = reader.read([examples.train[place] for place in draw.permutation(len(examples.train))], progress, True)
    aside = reader.read([examples.dev[place] for place in draw.permutation(len(examples.dev))])
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
    if not after < (1 - _WORTH) * before:  # or not a number
        return before, before
    embedder.copying.weights.copy_(learned)
    return after, before


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    """Lets the LLM answer examples; see `train_copying`."""

    embedder: UserEmbedder
    examples: Examples
    tokens: ExampleTokens
    loss: TargetLoss
    options: UserEmbedderTraining

    def read(self, chosen: Sequence[Example], progress: Progress | None = None, training: bool = False) -> _Answered:
        """What the LLM says of the first of `chosen`, as many as have `_POSITIONS` target tokens or `_CANDIDATES`.

        In training some are shown as new users, and what a user alone has written is not common to everybody: that of a
        user who is served later will not be either.
        """
        options = self.options
        parts: list[_Answered] = []
        positions = candidates = 0
        copiers = _Copiers(self.embedder, self.loss.llm, self.examples.train if training else ())
        size = -(-options.batch // options.accumulate)
        for start in range(0, len(chosen), size):
            some = chosen[start : start + size]
            pairs, profiles, histories = [], [], []
            for number, example in enumerate(some, start):
                draw = np.random.default_rng((options.seed, _DRAW, int(training), number))
                nobody = options.without_user or (training and draw.random() < options.empty_share)
                history = self.examples.shown(example, options)
                histories.append(history.take(np.arange(0)) if nobody else history)
                profiles.append(Profile(example.user_id) if nobody else example.profile)
                pairs.append(self.tokens(example, options.ks[int(draw.integers(len(options.ks)))]))
            queries = np.stack([example.query for example in some])
            batch = HistoryBatch.of(histories, self.embedder.config, queries, self.loss.device)
            with torch.no_grad():
                soft_prompts = self.embedder(batch.keys, batch.values, batch.mask, batch.query, batch.days)
            said = self.loss.log_probabilities([one for one, _ in pairs], [one for _, one in pairs], soft_prompts)
            for example, profile, (_, target), log_p in zip(some, profiles, pairs, said, strict=True):
                (source,) = copiers.of(example.user_id).sources([profile], [example.input])
                if target and positions < _POSITIONS and candidates < _CANDIDATES:
                    parts.append(_answered(source, target, log_p.cpu()))
                    positions += len(target)
                    candidates += len(target) * len(source.tokens)
            if progress is not None:
                progress(min(positions, _POSITIONS), _POSITIONS, 0.0, 0.0)
            if positions >= _POSITIONS or candidates >= _CANDIDATES:
                break
        if progress is not None:
            progress(positions, positions, 0.0, 0.0)
        return _together(parts)


class _Copiers:
    """What is common to everybody but one user, for users who have part in it.

    What another training user has written as well (a score, a tag) is common to everybody all the same.

    Args:
        embedder: with what is common to all training users.
        llm: the frozen LLM.
        examples: of the users whose answers are to be taken out.
    """

    def __init__(self, embedder: UserEmbedder, llm: TransformersLM, examples: Sequence[Example]) -> None:
        assert embedder.copying is not None
        self._llm, self._size = llm, embedder.config.copy_tokens
        self._texts, self._counts = int(embedder.copying.texts), embedder.copying.counts.cpu()
        self._written: dict[str, set[str]] = {}
        for example in examples:
            self._written.setdefault(example.user_id, set()).update(record.written for record in example.profile)
        self._owners = Counter(text for texts in self._written.values() for text in texts)

    def of(self, user_id: str) -> Copying:
        """Makes the sources of this user's examples."""
        texts = sorted(text for text in self._written.get(user_id, ()) if self._owners[text] == 1)
        counts = self._counts - _counts(TokenBackground.from_texts(self._llm, texts), self._size)
        idf = token_idf(self._texts - len(texts), counts.numpy())
        return Copying(self._llm, idf, np.zeros(len(FEATURES), np.float32))


def _counts(background: TokenBackground, size: int) -> Tensor:
    """In how many texts each token stands.  # (size,)"""
    counts = torch.zeros(size, dtype=torch.int32)
    counts[torch.tensor(list(background.counts), dtype=torch.long)] = torch.tensor(
        list(background.counts.values()), dtype=torch.int32
    )
    return counts


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
