"""Logits processors that change what an LLM writes: lifted tokens, and the median of some answers.

>>> TokenLifts([{1: 2.0}, None], num_beams=1)(torch.zeros(2, 1), torch.zeros(2, 3)).tolist()
[[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
>>> p = torch.tensor([[0.4, 0.3, 0.3]])
>>> MedianDecoding([[0], [1], [2]], max_new_tokens=1)(torch.zeros(1, 1), p.log()).argmax().item()
1

**Lifts**: ``scores[row, token] += lifts[row][token]`` at every step, on logits with greedy decoding and on
log-probabilities with beams. With `persona.protocols.StepLifts` what is added depends on what the row has written. A
row without lifts keeps its scores to the last bit, whatever its neighbours lift.

**The median** is the answer of least expected absolute error (minimum Bayes risk), which is how ratings are judged.
Greedy decoding gives the likeliest one instead. After Lukasik et al., "Regression-aware Inference with LLMs"
(arXiv 2403.04182, section 3)::

    argmin_a sum_b p(b) |a - b| = the first a with p(1) + ... + p(a) >= 1/2

p is the LLM's distribution over the tokens in which the answers first differ, all other tokens left out. The tokens
before these (a sentencepiece blank, say) and behind them are forced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError
from persona.protocols import Lifts, StepLifts


class TokenLifts(LogitsProcessor):
    """A logits processor that adds to the scores of tokens.

    Args:
        lifts: for each prompt of the batch, what is added; None or empty adds nothing.
        num_beams: rows that each prompt has in the batch, side by side.
        forced: tokens that the model is made to write before an answer; they are no part of it.
    """

    def __init__(self, lifts: Sequence[Lifts | None], num_beams: int, forced: int = 0) -> None:
        self._beams, self._forced = num_beams > 1, forced
        by_row = enumerate(each for each in lifts for _ in range(num_beams))
        lifted = [(row, each) for row, each in by_row if each]
        self._steps = [(row, each) for row, each in lifted if not isinstance(each, Mapping)]
        constant = [(row, *item) for row, each in lifted if isinstance(each, Mapping) for item in each.items()]
        rows, tokens, values = zip(*constant, strict=True) if constant else ((), (), ())
        self._rows = torch.tensor(rows, dtype=torch.long)
        self._tokens = torch.tensor(tokens, dtype=torch.long)
        self._values = torch.tensor(values, dtype=torch.float32)
        self._begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with the lifts; arguments and result as `LogitsProcessor` has them.  # (rows, vocabulary)"""
        device = scores.device
        lifted = scores.clone()
        # No pair occurs twice, and -inf stays what it is: what the model's own rules forbid is not lifted.
        lifted[self._rows.to(device), self._tokens.to(device)] += self._values.to(device, scores.dtype)
        if self._begin is None:
            self._begin = input_ids.shape[1] + self._forced
        if self._steps and input_ids.shape[1] >= self._begin:
            self._lift_step(input_ids[:, self._begin :].tolist(), lifted)
        return lifted

    def _lift_step(self, written: Sequence[Sequence[int]], scores: Tensor) -> None:
        """Add, in place, what depends on the tokens `written` of each answer."""
        device = scores.device
        rows = np.repeat([row for row, _ in self._steps], [len(lifts.tokens) for _, lifts in self._steps])
        tokens = np.concatenate([lifts.tokens for _, lifts in self._steps])
        values = np.concatenate([lifts.after(written[row]) for row, lifts in self._steps])
        at = torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)
        scores[at] += torch.from_numpy(values).to(device, scores.dtype)
        if self._beams:
            # Beams are compared by the sum of their log-probabilities, so these have to be normalised again.
            changed = torch.tensor([row for row, _ in self._steps], device=device)
            scores[changed] = scores[changed].log_softmax(-1)


def check_lifts(lifts: Lifts | None, config: Any) -> Lifts | None:
    """`lifts`, or None if they are empty.

    Raises:
        InvalidOptionError: if a token is none of a model with the configuration `config`, or a number is not finite.
    """
    if not lifts:
        return None
    size = vocabulary_size(config)
    for token, value in lifts.items() if isinstance(lifts, Mapping) else _first_step(lifts):
        if token < 0 or (size is not None and token >= size):
            raise InvalidOptionError(
                f"lifts must be for token ids from 0 to {(size or 0) - 1}, was given one for: {token}"
            )
        if not math.isfinite(value):
            raise InvalidOptionError(f"a lift must be finite, was: {value} (token {token})")
    return lifts


def _first_step(lifts: StepLifts) -> list[tuple[int, float]]:
    """The lifts of an answer's first token."""
    return list(zip(lifts.tokens.tolist(), lifts.after(()).tolist(), strict=True))


def vocabulary_size(config: Any) -> int | None:
    """How many tokens a model can write, by its configuration; None if that does not say."""
    parts = (config, getattr(config, "decoder", None), getattr(config, "text_config", None))
    sizes = (getattr(part, "vocab_size", None) for part in parts)
    return next((int(size) for size in sizes if size), None)


class MedianDecoding(LogitsProcessor):
    """A logits processor that writes the median of some answers: at each step it leaves one token, of which it is.

    Args:
        answers: token ids of the answers in ascending order, at least two; each with its end token.
        max_new_tokens: most tokens that are written, the end token aside.
        forced: tokens that the model is made to write before an answer.

    Raises:
        InvalidOptionError: if the answers do not all differ in the first token in which any do, or one is too long.
    """

    def __init__(self, answers: Sequence[Sequence[int]], max_new_tokens: int, forced: int = 0) -> None:
        shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*answers, strict=False)))
        firsts = [answer[shared] for answer in answers if len(answer) > shared]
        if len(set(firsts)) < len(answers) or len(answers) < 2:
            raise InvalidOptionError(
                "a median needs at least two answers that all differ in the first token in which any do; these do not "
                f"in this LLM's tokens: {[list(answer) for answer in answers]}"
            )
        longest = forced + max(map(len, answers)) - 1
        if longest > max_new_tokens:
            raise InvalidOptionError(
                f"`max_new_tokens` must be at least {longest} for these answers, was: {max_new_tokens}"
            )
        self._answers, self._shared, self._forced = [list(answer) for answer in answers], shared, forced
        self._firsts = torch.tensor(firsts)
        self._steps = 0
        self._chosen: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of -inf for all tokens but the next one.

        Where the answers differ, the median's token scores its log-odds against the runner-up, which scores 0: how far
        p would have to move for the other to win.  # (rows, vocabulary)
        """
        position, self._steps = self._steps - self._forced, self._steps + 1
        if position < 0:
            return scores
        left = torch.full_like(scores, -torch.inf)
        if position < self._shared:
            left[:, self._answers[0][position]] = 0
        elif position == self._shared:
            self._decide(scores, left)
        else:
            for row, chosen in enumerate(self._chosen):
                answer = self._answers[chosen]
                left[row, answer[min(position, len(answer) - 1)]] = 0
        return left

    def _decide(self, scores: Tensor, left: Tensor) -> None:
        firsts = self._firsts.to(scores.device)
        log_p = scores[:, firsts].double().log_softmax(-1)  # (rows, answers)
        below = log_p.logcumsumexp(-1)[:, :-1]
        above = log_p.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
        odds = below - above  # of the answers up to each border between two, ascending  # (rows, answers - 1)
        median = (odds < 0).sum(-1)
        # Of the two borders round the median, the nearer one.
        border = odds.abs().argmin(-1)
        runner_up = torch.where(border < median, border, border + 1)
        rows = torch.arange(len(scores), device=scores.device)
        left[rows, firsts[runner_up]] = 0
        # NaN where the model's scores are, so that the margin (`persona.llm.decoding`) shows it.
        left[rows, firsts[median]] = odds.abs().amin(-1).to(scores.dtype)
        self._chosen = median.tolist()
