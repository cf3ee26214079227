"""An answer and where it came from: prepared, whole, or in pieces as they are written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from persona.channels import Ask
from persona.errors import GenerationError, InvalidOptionError
from persona.prompts.personal_data import personal_data
from persona.protocols import Answer, Message, Request
from persona.records import ScoredRecord


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
        findings: what checks have found in the answer (`AnswerCheck`).
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
    findings: tuple[str, ...] = ()

    @property
    def abstained(self) -> bool:
        """True if nothing personal was added, because there was nothing or a relevance filter found nothing relevant.

        The answer is then that of the plain LLM, or with a user embedder that of its neutral prompt.
        """
        return not self.channels


class AnswerCheck(Protocol):
    """Looks at an answer before it is given out: for safety, personal data, bias. Any function of this form is one."""

    def __call__(self, ask: Ask, text: str) -> Sequence[str]:
        """What is wrong with the answer `text` to `ask`, in words (`Generation.findings`); nothing if nothing is.

        Raises:
            GenerationError: to hold the answer back. Pieces of a stream are out by then.

        In a server it runs on the event loop, between pieces of other answers: it must be quick.
        """
        ...


@dataclass(frozen=True, slots=True)
class PersonalDataCheck:
    """Finds personal data in an answer that is neither in the user's own records nor in the request.

    It may be another person's, or made up (`persona.prompts.personal_data` says what is found).

    Attributes:
        hold_back: raise in the place of a finding.
    """

    hold_back: bool = False

    def __call__(self, ask: Ask, text: str) -> list[str]:
        """A finding for each datum, without the datum."""
        found = personal_data(text)
        if not found:
            return []
        records = (part for one in ask.profile for part in (one.text, one.target or "", *one.metadata.values()))
        own = personal_data("\n".join([ask.prompt, *(turn.content for turn in ask.turns), *records]))
        findings = [f"{what} that the user has not given" for datum, what in found.items() if datum not in own]
        if findings and self.hold_back:
            raise GenerationError(f"the answer was held back: it has {', '.join(findings)}")
        return findings


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that is ready to be answered.

    Attributes:
        request: the LLM's input.
        generation: the answer without its text.
        identity: what besides `request` determines the answer: the weights behind its adapter's name.
        ask: what was asked; None for nobody's request, which is not checked.
        checks: look at the answer.
    """

    request: Request
    generation: Generation
    identity: str = ""
    ask: Ask | None = None
    checks: Sequence[AnswerCheck] = ()

    def with_answer(self, answered: Answer | GenerationError) -> Generation | GenerationError:
        """The generation with what the LLM answered; an error as it is, that of a check too."""
        if isinstance(answered, GenerationError):
            return answered
        try:
            return self.generation_of(answered)
        except GenerationError as error:
            return error

    def generation_of(self, answer: Answer) -> Generation:
        """The generation with what the LLM answered; errors as `AnswerCheck`."""
        made = replace(
            self.generation, text=answer.text, answered=answer.mode, finish=answer.finish, thought=answer.thought
        )
        return replace(made, findings=self.findings(answer.text))

    def findings(self, text: str) -> tuple[str, ...]:
        """What the checks find in an answer; errors as `AnswerCheck`."""
        return () if self.ask is None else tuple(each for check in self.checks for each in check(self.ask, text))


class _Unfolding:
    """What both kinds of streams have at their end."""

    _generation: Generation | None = None

    @property
    def generation(self) -> Generation:
        """The whole answer and where it came from.

        Raises:
            InvalidOptionError: if the stream has not been read to its end.
        """
        if self._generation is None:
            raise InvalidOptionError("the whole answer is known at the end of the stream: read it to its end first")
        return self._generation


class GenerationStream(_Unfolding, Iterator[str]):
    """An answer in pieces, as they are written; joined, they are its text.

    Leaving it early (`close`, or the end of a ``with`` block) stops the LLM.

    Args:
        pieces: those of the text, and at the end the whole.
    """

    def __init__(self, pieces: Generator[str | Generation, None, None]) -> None:
        self._pieces = pieces

    def __next__(self) -> str:
        for piece in self._pieces:
            if isinstance(piece, str):
                return piece
            self._generation = piece
        raise StopIteration

    def close(self) -> None:
        """Stop the LLM, if it still writes."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncGenerationStream(_Unfolding, AsyncIterator[str]):
    """A `GenerationStream` for an event loop, which it does not block.

    Args:
        pieces: those of the text, and at the end the whole.
    """

    def __init__(self, pieces: AsyncGenerator[str | Generation, None]) -> None:
        self._pieces = pieces

    async def __anext__(self) -> str:
        async for piece in self._pieces:
            if isinstance(piece, str):
                return piece
            self._generation = piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop the LLM, if it still writes."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()
