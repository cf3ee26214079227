"""A request that was handed in: its answer in pieces or as a whole, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from threading import Event

from persona.errors import PersonaError
from persona.llm.answers.tokens import AnswerTokens
from persona.llm.continuous.sampling import Piece, SamplingOptions, TokenScore, Written


class Ticket:
    """The answer to a request, as it is written; one reader at a time.

    ::

        async for piece in ticket: ...
        (await ticket.whole()).text           ticket.result().text

    A reader that leaves early cancels the request. Text is made of tokens where it is read, so a slow reader gets
    longer pieces and holds nobody up. Reading raises what ended the request, see `Engine.submit`.

    Args:
        read: reads the tokens.
        options: how the request is answered.
        prompt_tokens: tokens of what is read.
        cancel: takes the request out of the engine.

    Attributes:
        prompt_tokens: as given.
        tokens: ids of the tokens that are written so far, without the end token.
        ended: whether the answer is whole, or there will be none.
    """

    def __init__(
        self, read: AnswerTokens, options: SamplingOptions, prompt_tokens: int, cancel: Callable[[], None]
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.tokens: list[int] = []
        self._read, self._options, self._cancel = read, options, cancel
        self._scores: list[TokenScore] = []
        self._shown, self._scores_shown = "", 0
        self.ended, self._end_tokens = False, 0
        self._error: PersonaError | None = None
        self._news = Event()
        self._wake: Callable[[], None] | None = None

    @property
    def written(self) -> Written:
        """The whole answer, once it has ended.

        Raises:
            PersonaError: what ended it instead.
            ValueError: if it has not ended.
        """
        if self._error is not None:
            raise self._error
        if not self.ended:
            raise ValueError("the answer is still being written: read it to its end first")
        answer = self._read.answer(self.tokens, self._options.generation)
        written = len(self.tokens) + self._end_tokens
        return Written(answer.text, answer.finish, self.prompt_tokens, written, tuple(self._scores))

    def cancel(self) -> None:
        """End the request if it has not ended: it leaves the queue at once, or the batch at its next step."""
        if not self.ended:
            self._cancel()

    def result(self) -> Written:
        """The whole answer, for a thread that may block."""
        try:
            while not self.ended:
                self._news.wait()
                self._news.clear()
        finally:
            self.cancel()
        return self.written

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The answer in pieces."""
        try:
            async for ended in self._awaits():
                for piece in self._new(ended):
                    yield piece
        finally:
            self.cancel()

    async def whole(self) -> Written:
        """The whole answer."""
        try:
            async for _ in self._awaits():
                pass
        finally:
            self.cancel()
        return self.written

    def put(self, token: int, score: TokenScore | None) -> None:
        """The engine has written a token."""
        if score is not None:
            self._scores.append(score)
        self.tokens.append(token)
        self._tell()

    def end(self, error: PersonaError | None = None, *, end_tokens: int = 0) -> None:
        """The engine has written the last token, or an error has ended the request."""
        if not self.ended:
            self._error, self._end_tokens, self.ended = error, end_tokens, True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        if (wake := self._wake) is not None:
            wake()

    async def _awaits(self) -> AsyncIterator[bool]:
        """Whenever something is new, whether the answer has ended."""
        here, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed, and nobody reads any more
                here.call_soon_threadsafe(news.set)

        self._wake = wake
        while not self.ended:
            yield False
            await news.wait()
            news.clear()
        yield True

    def _new(self, ended: bool) -> Iterator[Piece]:
        """What has become certain since the last piece."""
        if self._error is not None:
            raise self._error
        tokens, options = self.tokens[:], self._options.generation
        text = self._read.answer(tokens, options).text if ended else self._read.settled(tokens, options)
        new = text[len(self._shown) :] if text.startswith(self._shown) else ""
        scores = tuple(self._scores[self._scores_shown : len(tokens)])
        if new or (ended and scores):
            self._shown += new
            self._scores_shown += len(scores)
            yield Piece(new, scores)
