"""How an answer is sampled, and what comes back of it.

>>> scores = torch.tensor([0.0, 3.0, 2.9, -torch.inf])
>>> generator = torch.Generator().manual_seed(0)
>>> sampled(scores, SamplingOptions(temperature=1.0, top_p=0.4), generator)
1
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.llm.answers.tokens import AnswerTokens
from persona.llm.checks import check_options, check_seed
from persona.protocols import Finish, GenerationOptions

MOST_LOGPROBS = 20
_LIKELIEST = 1024
"""So many tokens nearly always hold the mass that `top_p` asks for; to sort a whole vocabulary takes milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How to answer one request: greedily at temperature 0, else by random numbers of its own.

    Attributes:
        max_new_tokens: at least 1.
        temperature: what logits are divided by, from 0 on.
        top_p: tokens are drawn from the likeliest that have this mass together, above 0 and up to 1.
        seed: of the request's own random numbers, so what it gets does not depend on its neighbours; None for any.
        stop: an answer ends before the first of these texts.
        logprobs: for each token of the answer its log-probability and those of this number of likeliest tokens, from 0
            to 20, by the model's own scores (temperature 1); None for none.
        raw: keep the thinking and the Markdown emphasis around a bare answer, see `GenerationOptions`.

    Raises:
        InvalidOptionError: if an option is out of its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        check_options(self.generation)
        if not 0 <= self.temperature < float("inf"):
            raise InvalidOptionError(f"`temperature` must be a number from 0 on, was: {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InvalidOptionError(f"`top_p` must be above 0 and at most 1, was: {self.top_p}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise InvalidOptionError(f"`logprobs` must be from 0 to {MOST_LOGPROBS}, was: {self.logprobs}")
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def generation(self) -> GenerationOptions:
        """The same, as far as a plain generation knows it."""
        return GenerationOptions(self.max_new_tokens, answers="generate", stop=self.stop, raw=self.raw)


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How likely a token of an answer was.

    Attributes:
        text: the token's; the replacement character where it holds a part of a character.
        token: its id.
        logprob: nats.
        top: texts and log-probabilities of the likeliest tokens in its place, the likeliest first.
        bytes: the token's, from 0 to 255 each.
    """

    text: str
    token: int
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer that is certain, and the scores of the tokens that were written since the last one."""

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A whole answer.

    Attributes:
        text: its pieces, joined.
        finish: whether it ended by itself or was cut.
        prompt_tokens: tokens that were read, those of a soft prompt included.
        completion_tokens: tokens that were written: thinking, a stop string and the end token included.
        scores: of each token but the end token, where they were asked for.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    scores: tuple[TokenScore, ...] = ()


def sampled(scores: Tensor, options: SamplingOptions, generator: torch.Generator) -> int:
    """A token, drawn.

    Args:
        scores: logits on the CPU.  # (vocabulary,)
        options: the temperature, which is not 0, and the mass of the tokens to draw from.
        generator: of the random numbers.
    """
    probabilities = ((scores - scores.max()) / options.temperature).softmax(-1)
    if options.top_p == 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    best, tokens = probabilities.topk(min(_LIKELIEST, len(probabilities)))
    if float(best.sum()) < options.top_p:
        best, tokens = probabilities.sort(descending=True)
    best = best[best.cumsum(0) - best < options.top_p]
    return int(tokens[torch.multinomial(best, 1, generator=generator)])


def token_score(scores: Tensor, token: int, alternatives: int, read: AnswerTokens) -> TokenScore:
    """How likely a token was.

    Args:
        scores: logits.  # (vocabulary,)
        token: the one that was written.
        alternatives: how many of the likeliest tokens are named.
        read: knows the texts of tokens.
    """
    log_p = scores.log_softmax(-1)
    values, tokens = log_p.topk(alternatives)
    top = zip(tokens.tolist(), values.tolist(), strict=True)
    data = read.token_bytes(token)
    return TokenScore(
        data.decode(errors="replace"),
        token,
        float(log_p[token]),
        tuple((read.token_bytes(other).decode(errors="replace"), value) for other, value in top),
        tuple(data),
    )
