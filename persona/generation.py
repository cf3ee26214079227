"""An answer and where it came from: prepared, whole, or in pieces as they are written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from persona.errors import GenerationError, InvalidOptionError
from persona.protocols import Answer, Message, Request
from persona.records import ScoredRecord

_UNFINISHED = "the whole answer is known at the end of the stream: read it to its end first"


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer and where it came from.

    Attributes:
        text: the answer.
        user_id: the user it was personalised for.
        prompt: the LLM's input, personal text included unless it stands in `turns`.
        records: the retrieved records in `prompt` or `turns`, best first.
        channels: names of the channels that carried something personal, in the order of the personalizer.
        tokens_added: tokens that personalization added to the prompt, in the LLM's own unit.
        notes: the notes about the user (a summary) in `prompt`, whole or shortened.
        sources: where the notes come from, e.g. ``"llm:LaMP_3:instruct-1:gpt@..."``.
        answered: how the answer was made, one of `persona.protocols.Mode`; empty before it is there.
        finish: how it ended, one of `persona.protocols.Finish`; empty before it is there.
        turns: the turns before `prompt`, those with personal text included (`PromptBuilder.placement`).
        thought: whether the LLM wrote a part for thinking, which is not in `text`.
    """

    text: str
    user_id: str
    prompt: str
    records: tuple[ScoredRecord, ...] = ()
    channels: tuple[str, ...] = ()
    tokens_added: int = 0
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    answered: str = ""
    finish: str = ""
    turns: tuple[Message, ...] = ()
    thought: bool = False

    @property
    def abstained(self) -> bool:
        """True if nothing personal was added, because there was nothing or a relevance filter found nothing relevant.

        The answer is then that of the plain LLM, or with a user embedder that of its neutral prompt.
        """
        return not self.channels


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that is ready to be answered.

    Attributes:
        request: the LLM's input.
        generation: the answer without its text.
        identity: what besides `request` determines the answer: the weights behind its adapter's name.
    """

    request: Request
    generation: Generation
    identity: str = ""

    def with_answer(self, answered: Answer | GenerationError) -> Generation | GenerationError:
        """The generation with what the LLM answered; an error as it is."""
        return answered if isinstance(answered, GenerationError) else self.generation_of(answered)

    def generation_of(self, answer: Answer) -> Generation:
        """The generation with what the LLM answered."""
        return replace(
            self.generation, text=answer.text, answered=answer.mode, finish=answer.finish, thought=answer.thought
        )


class GenerationStream(Iterator[str]):
    """An answer in pieces, as they are written; joined, they are its text.

    Leaving it early (`close`, or the end of a ``with`` block) stops the LLM.

    Args:
        pieces: those of the text, and at the end the whole.
    """

    def __init__(self, pieces: Generator[str | Generation, None, None]) -> None:
        self._pieces = pieces
        self._generation: Generation | None = None

    def __next__(self) -> str:
        for piece in self._pieces:
            if isinstance(piece, str):
                return piece
            self._generation = piece
        raise StopIteration

    @property
    def generation(self) -> Generation:
        """The whole answer and where it came from.

        Raises:
            InvalidOptionError: if the stream has not been read to its end.
        """
        if self._generation is None:
            raise InvalidOptionError(_UNFINISHED)
        return self._generation

    def close(self) -> None:
        """Stop the LLM, if it still writes."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncGenerationStream(AsyncIterator[str]):
    """A `GenerationStream` for an event loop, which it does not block.

    Args:
        pieces: those of the text, and at the end the whole.
    """

    def __init__(self, pieces: AsyncGenerator[str | Generation, None]) -> None:
        self._pieces = pieces
        self._generation: Generation | None = None

    async def __anext__(self) -> str:
        async for piece in self._pieces:
            if isinstance(piece, str):
                return piece
            self._generation = piece
        raise StopAsyncIteration

    @property
    def generation(self) -> Generation:
        """The whole answer and where it came from; errors as in `GenerationStream`."""
        if self._generation is None:
            raise InvalidOptionError(_UNFINISHED)
        return self._generation

    async def aclose(self) -> None:
        """Stop the LLM, if it still writes."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()
