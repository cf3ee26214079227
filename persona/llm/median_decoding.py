"""The answer of least expected error among some ordered ones: minimum Bayes risk decoding for ratings.

An LLM that is asked for a score has a distribution over the scores. Greedy decoding answers its likeliest one; where
answers are judged by their absolute error, as ratings are, the answer to give is the *median*:

    argmin_a sum_b p(b) |a - b| = the first a with p(1) + ... + p(a) >= 1/2

After Lukasik et al., "Regression-aware Inference with LLMs" (arXiv 2403.04182, section 3).

>>> llm.generate([Request("What is the score of ...")], GenerationOptions(8, median_of=("1", "2", "3", "4", "5")))

p is the model's distribution over the tokens in which the answers first differ, those of no answer left out. The tokens
before (a sentencepiece blank, say) and behind are forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError


class MedianDecoding(LogitsProcessor):
    """A logits processor that leaves one token to each step; where it decides, the runner-up is left as well.

    Args:
        answers: token ids of the answers in ascending order, at least two; each with its end token.
        room: most tokens that are written, the end token aside.
        begin: tokens that the model is made to write before any answer.

    Raises:
        InvalidOptionError: if two answers do not differ in a token at the same place, or one has no room.
    """

    def __init__(self, answers: Sequence[Sequence[int]], room: int, begin: int = 0) -> None:
        shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*answers, strict=False)))
        firsts = [answer[shared] for answer in answers if len(answer) > shared]
        if len(set(firsts)) < len(answers) or len(answers) < 2:
            raise InvalidOptionError(
                "a median needs at least two answers that all differ in the first token in which any do; these do not "
                f"in this LLM's tokens: {[list(answer) for answer in answers]}"
            )
        longest = begin + max(map(len, answers)) - 1
        if longest > room:
            raise InvalidOptionError(f"`max_new_tokens` must be at least {longest} for these answers, was: {room}")
        self._answers, self._shared, self._begin = [list(answer) for answer in answers], shared, begin
        self._firsts = torch.tensor(firsts)
        self._steps = 0
        self._chosen: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of -inf but for the token that is to come.

        At the place where answers differ the median's token scores its log-odds against the runner-up, which scores 0:
        how far all of p beyond the border between the two would have to move for the other to win.

        Args:
            input_ids: prompts and what was generated so far.  # (rows, length)
            scores: logits of the next token.  # (rows, vocabulary)
        """
        place, self._steps = self._steps - self._begin, self._steps + 1
        if place < 0:
            return scores
        left = torch.full_like(scores, -torch.inf)
        if place < self._shared:
            left[:, self._answers[0][place]] = 0
        elif place == self._shared:
            self._decide(scores, left)
        else:
            for row, chosen in enumerate(self._chosen):
                answer = self._answers[chosen]
                left[row, answer[min(place, len(answer) - 1)]] = 0
        return left

    def _decide(self, scores: torch.Tensor, left: torch.Tensor) -> None:
        firsts = self._firsts.to(scores.device)
        log_p = scores[:, firsts].double().log_softmax(-1)  # (rows, answers)
        upto = log_p.logcumsumexp(-1)[:, :-1]
        beyond = log_p.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
        odds = upto - beyond  # of an answer up to each border, ascending  # (rows, answers - 1)
        median = (odds < 0).sum(-1)
        # Of the borders on both sides of the median, the nearer one.
        nearest = odds.abs().argmin(-1)
        other = torch.where(nearest < median, nearest, nearest + 1)
        rows = torch.arange(len(scores), device=scores.device)
        left[rows, firsts[other]] = 0
        margin = odds.abs().amin(-1).to(scores.dtype)
        # NaN where the model's scores were: `GreedyMargin` tells.
        left[rows, firsts[median]] = margin
        self._chosen = median.tolist()
