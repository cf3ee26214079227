"""Training of what a user embedder copies: ten numbers, by the loss of the frozen LLM on answers of training users.

The LLM reads some training examples once, with the soft prompts of the trained user embedder before them. What it gives
to the tokens that may be copied is recorded, and the loss is a closed form in it: with p the LLM's probabilities and z
the lifts of `persona.soft_prompts.copying`, over the tokens v that are lifted,

    -log p(y) - z(y) + log(1 + sum_v p(v) (exp z(v) - 1))

which is convex in w; L-BFGS ends within seconds. Where that takes less than a hundredth off the loss on validation
users, w stays 0: it is not worth computing at every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from persona.llm.transformers import TransformersLM
from persona.records import Profile
from persona.soft_prompts.copying import FEATURES, Copying, CopySource, TokenBackground
from persona.soft_prompts.histories import HistoryBatch
from persona.soft_prompts.training.answers import TrainingSetup
from persona.soft_prompts.training.examples import Example
from persona.soft_prompts.training.loop import Progress, TrainingProgress
from persona.soft_prompts.training.options import EMPTY_SHARE, UserEmbedderTraining

_POSITIONS = 8192
"""Target tokens from which on no further example is read."""

_CANDIDATES = 2**22
"""Tokens that may be copied, over all these positions, from which on no further example is read: at most 0.7 GB."""

_WORTH = 0.01
"""Share of the loss on validation users that copying has to take off."""

_RIDGE, _ITERATIONS = 1e-4, 50
_ORDER, _DRAW = 11, 12  # of the random numbers of a training, tags that nothing else has


def train_copying(
    setup: TrainingSetup, options: UserEmbedderTraining, progress: Progress | None = None
) -> tuple[float, float]:
    """Learn what the embedder of `setup` copies; all else stays as it is.

    Args:
        setup: of the training, with a trained embedder that was made with ``copies=True``.
        options: of the training; with `without_user` no record is shown, and nothing of a user is copied.
        progress: its `done` counts the target tokens that were read.

    Returns:
        The loss on questions of validation users, nats per token: with copying, and without. Each is asked with one of
        `UserEmbedderTraining.ks`, drawn.
    """
    copying, examples = setup.embedder.copying, setup.examples
    assert copying is not None
    background = TokenBackground.from_profiles(setup.llm, (example.profile for example in examples.train))
    copying.weights.zero_()
    copying.counts.copy_(torch.from_numpy(background.counts))
    copying.texts.fill_(background.texts)
    draw = np.random.default_rng((options.seed, _ORDER))
    reader = _Reader(setup, options, background)
    train = reader.read(_shuffled(examples.train, draw), training=True, progress=progress)
    validation = reader.read(_shuffled(examples.validation, draw))
    learned = _fit(train)
    before, after = float(validation.loss(torch.zeros_like(learned))), float(validation.loss(learned))
    if not after < (1 - _WORTH) * before:  # or not a number
        return before, before
    copying.weights.copy_(learned)
    return after, before


def _shuffled(examples: Sequence[Example], draw: np.random.Generator) -> list[Example]:
    return [examples[number] for number in draw.permutation(len(examples))]


def _fit(answered: AnsweredExamples) -> Tensor:
    """The w of least loss.  # (features,)"""
    weights = torch.zeros(len(FEATURES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = answered.loss(weights) + _RIDGE * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


class AnsweredExamples:
    """The LLM's probabilities along right answers, and the tokens that could be copied there.

    Attributes:
        positions: target tokens of all examples.
        candidates: tokens that may be copied, over all these positions.
    """

    def __init__(self) -> None:
        self.positions = self.candidates = 0
        self._gold: list[Tensor] = []  # log-probability of each right token
        self._share: list[Tensor] = []  # weight of each position in the mean over its example
        self._features: list[Tensor] = []  # x of every candidate
        self._p: list[Tensor] = []  # the LLM's probability of each candidate
        self._position: list[Tensor] = []  # the position of each candidate
        self._right: list[Tensor] = []  # the candidate that is the right token of each position; -1 where none is

    def add(self, source: CopySource, target: Sequence[int], log_p: Tensor) -> None:
        """Add an example: its right answer, and the LLM's log-probabilities along it.  # (tokens, vocabulary)"""
        n, lifted = len(target), torch.from_numpy(source.tokens)
        columns = {token: column for column, token in enumerate(source.tokens.tolist())}
        right = [
            self.candidates + row * len(lifted) + columns[token] if token in columns else -1
            for row, token in enumerate(target)
        ]
        self._gold.append(log_p[torch.arange(n), torch.tensor(target)])
        self._share.append(torch.full((n,), 1 / n))
        self._features.append(torch.from_numpy(np.concatenate([source.features(target[:row]) for row in range(n)])))
        self._p.append(log_p[:, lifted].exp().flatten())
        self._position.append(self.positions + torch.arange(n).repeat_interleave(len(lifted)))
        self._right.append(torch.tensor(right))
        self.positions += n
        self.candidates += n * len(lifted)

    def loss(self, weights: Tensor) -> Tensor:
        """Mean over the examples of the mean over their tokens, nats.  # ()"""
        gold, right = torch.cat(self._gold), torch.cat(self._right)
        lifts = torch.cat(self._features) @ weights
        more = torch.zeros_like(gold).index_add(0, torch.cat(self._position), torch.cat(self._p) * torch.expm1(lifts))
        of_right = torch.where(right >= 0, lifts[right.clamp_min(0)], 0.0)
        each = -gold - of_right + torch.log1p(more.clamp_min(1e-6 - 1))
        return (each * (torch.cat(self._share) / len(self._share))).sum()


class _Reader:
    """Lets the LLM read examples; see `train_copying`."""

    def __init__(self, setup: TrainingSetup, options: UserEmbedderTraining, background: TokenBackground) -> None:
        self.setup, self.options, self.background = setup, options, background

    def read(
        self, chosen: Sequence[Example], *, training: bool = False, progress: Progress | None = None
    ) -> AnsweredExamples:
        """The first of `chosen`, as many as have `_POSITIONS` target tokens or `_CANDIDATES`.

        In training some are shown as new users, and texts that a user alone has written are not counted as common to
        all: those of a user who is served later will not be either.
        """
        setup, options = self.setup, self.options
        answered = AnsweredExamples()
        sources = CopySources(setup.llm, self.background, setup.examples.train if training else ())
        size = -(-options.batch // options.accumulate)
        for start in range(0, len(chosen), size):
            some = chosen[start : start + size]
            pairs, profiles, histories = [], [], []
            for number, example in enumerate(some, start):
                draw = np.random.default_rng((options.seed, _DRAW, int(training), number))
                nobody = options.without_user or (training and draw.random() < EMPTY_SHARE)
                history = setup.examples.shown(example, options)
                histories.append(history.nothing() if nobody else history)
                profiles.append(Profile(example.user_id) if nobody else example.profile)
                pairs.append(setup.tokens.of(example, options.ks[int(draw.integers(len(options.ks)))]))
            queries = np.stack([example.query for example in some])
            batch = HistoryBatch.of(histories, setup.embedder.config, queries, setup.loss.device)
            with torch.no_grad():
                given = batch.soft_prompts(setup.embedder), batch.steering(setup.embedder)
            read = setup.loss.log_probabilities([p for p, _ in pairs], [t for _, t in pairs], *given)
            for example, profile, (_, target), log_p in zip(some, profiles, pairs, read, strict=True):
                if target and answered.positions < _POSITIONS and answered.candidates < _CANDIDATES:
                    answered.add(sources.of(example, profile), target, log_p.cpu())
            _report(progress, min(answered.positions, _POSITIONS), _POSITIONS)
            if answered.positions >= _POSITIONS or answered.candidates >= _CANDIDATES:
                break
        _report(progress, answered.positions, answered.positions)
        return answered


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(TrainingProgress("copying", done, total))


class CopySources:
    """What may be copied into the answers of training users, with the background of all *other* users.

    A text that another user of `examples` has written as well (a score, a tag) is common to all nevertheless.
    """

    def __init__(self, llm: TransformersLM, background: TokenBackground, examples: Sequence[Example]) -> None:
        self._llm, self._background = llm, background
        self._written: dict[str, set[str]] = {}
        for example in examples:
            self._written.setdefault(example.user_id, set()).update(record.written for record in example.profile)
        self._owners = Counter(text for texts in self._written.values() for text in texts)

    def of(self, example: Example, profile: Profile) -> CopySource:
        """What may be copied into the answer of `example`, if `profile` is shown of its user."""
        copying = Copying(self._llm, self.background_for(example.user_id).idf, np.zeros(len(FEATURES), np.float32))
        return copying.sources([profile], [example.input])[0]

    def background_for(self, user_id: str) -> TokenBackground:
        """Without the texts that this user alone has written."""
        texts = sorted(text for text in self._written.get(user_id, ()) if self._owners[text] == 1)
        own = TokenBackground.from_texts(self._llm, texts)
        return TokenBackground(self._background.texts - own.texts, self._background.counts - own.counts)
