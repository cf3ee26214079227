"""A request while it is answered: it takes a token at each step, and says when it has ended."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from persona.errors import GenerationError, PersonaError, reason
from persona.llm.answers.tokens import AnswerTokens
from persona.llm.continuous.sampling import SamplingOptions, sampled, token_score
from persona.llm.continuous.ticket import Ticket
from persona.llm.inputs import ModelInput
from persona.llm.lifts import lifted
from persona.llm.transformers import TransformersLM


class Row:
    """A request in the engine.

    Args:
        read: the request as the model reads it.
        options: how it is answered.
        llm: the model that answers.
        client: who asks.
        user_id: whose request it is, None for nobody's.
        leave: takes the row out of the engine.

    Attributes:
        input, options, client, user_id: as given.
        ticket: what the asker holds.
        last: the last token that was chosen, the end token included.
        leaving: why the row has to go at the next step; None if it has not.
        began: when it was taken out of the queue, by `time.monotonic`.
        forced: tokens at the beginning of an answer that the model is made to write.
    """

    def __init__(
        self,
        read: ModelInput,
        options: SamplingOptions,
        llm: TransformersLM,
        leave: Callable[[Row], None],
        *,
        client: str = "",
        user_id: str | None = None,
    ) -> None:
        self.input, self.options, self.client, self.user_id = read, options, client, user_id
        self.ticket = Ticket(llm.read, options, len(read), lambda: leave(self))
        self.last = 0
        self.leaving: PersonaError | None = None
        self.began, self.forced = 0.0, 0
        self._read: AnswerTokens = llm.read
        self._ends, self._name = llm.frozen.ends, llm.name
        self._generation = options.generation
        self._generator = torch.Generator()
        if options.temperature:
            self._generator.manual_seed(secrets.randbits(62) if options.seed is None else options.seed)

    @property
    def most_tokens(self) -> int:
        """Tokens of what is read and of the longest answer."""
        return len(self.input) + self.options.max_new_tokens

    @property
    def tokens(self) -> int:
        """Tokens that were read and written so far."""
        return len(self.input) + len(self.ticket.tokens)

    def end(self, error: BaseException | None = None) -> None:
        """End the request, by an error if one is given."""
        if isinstance(error, torch.OutOfMemoryError):
            error = GenerationError(f"{self._name} ran out of memory: lower `EngineOptions.rows` or `tokens`")
        elif error is not None and not isinstance(error, PersonaError):
            error = GenerationError(f"{self._name} cannot answer: {reason(error)}")
        self.ticket.end(error)

    def take(self, scores: Tensor, best: int) -> None:
        """Choose the next token.

        Args:
            scores: the logits with what `lift` adds.  # (vocabulary,)
            best: the likeliest token.
        """
        token = best if not self.options.temperature else sampled(scores.cpu(), self.options, self._generator)
        self.last = token
        if token in self._ends:
            self.ticket.end(end_tokens=1)
            return
        alternatives = self.options.logprobs
        self.ticket.put(token, None if alternatives is None else token_score(scores, token, alternatives, self._read))
        tokens = self.ticket.tokens
        if len(tokens) == self.options.max_new_tokens or (
            self.options.stop and self._read.is_stopped(tokens, self._generation)
        ):
            self.ticket.end()

    def lift(self, scores: Tensor) -> None:
        """Add, in place, what the request adds to logits.  # (vocabulary,)"""
        if self.input.lifts is not None:
            tokens, values = lifted(self.input.lifts, self.ticket.tokens[self.forced :])
            scores[tokens.to(scores.device)] += values.to(scores)


def take_tokens(rows: Sequence[Row], logits: Tensor) -> None:
    """Have each row take its next token; a row whose scores are not numbers ends with an error.

    Args:
        rows: those of the batch.
        logits: of the next token.  # (rows, vocabulary)
    """
    # In float32, as transformers chooses.
    scores = logits.to(torch.float32, copy=any(row.input.lifts for row in rows))
    for row, own in zip(rows, scores, strict=True):
        row.lift(own)
    best, tokens = scores.max(-1)
    for row, own, value, token in zip(rows, scores, best.tolist(), tokens.tolist(), strict=True):
        if value == value:
            row.take(own, token)
        else:
            row.end(GenerationError("the model computed scores that are not numbers: load it in float32"))
