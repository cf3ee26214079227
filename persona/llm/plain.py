"""Language models that take text and nothing else: a plain function, and a LangChain runnable.

They limit their answers themselves: `GenerationOptions.max_new_tokens` is not handed on, because neither has a common
way to take it. More than one beam is refused. Stop strings cut an answer when it is there. A chat model gets a
conversation as messages, anything else as one text (`persona.llm.chat.messages.transcript`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from persona.errors import GenerationError, check_least, reason
from persona.llm.answers.text import answer_text
from persona.llm.chat.messages import transcript
from persona.llm.checks import check_answer, check_options, check_requests, collected
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import TEXT, GenerationOptions, Request, TextTokenizer

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable


class _TextOnly(ABC):
    """A language model that takes text alone.

    Args:
        fingerprint: names the model.
        tokenizer: measures prompts; None estimates by words.
    """

    channels: frozenset[str] = frozenset({TEXT})
    chats = False

    def __init__(self, fingerprint: str, tokenizer: TextTokenizer | None) -> None:
        self.fingerprint = fingerprint
        self.tokenizer: TextTokenizer = tokenizer or WhitespaceTokenizer()

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`.

        Raises:
            UnsupportedChannelError: if a request brings more than text.
            InvalidOptionError: if `options` asks for beams, or a prompt is no text.
            GenerationError: if there is no answer, or one that is no text.
        """
        return collected(self.generate_each(requests, options), len(requests))

    def generate_each(
        self, requests: Sequence[Request], options: GenerationOptions
    ) -> Iterator[tuple[int, str | GenerationError]]:
        """Index and answer of each of `requests`, or its error, as they come; errors as in `generate`."""
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        for index, answer in self._answers(requests):
            yield index, self._read(index, answer, options)

    def _read(self, index: int, answer: object, options: GenerationOptions) -> str | GenerationError:
        """The answer in what came back for a request, or the error in it."""
        if isinstance(answer, Exception):
            failed = GenerationError(f"{self.fingerprint} did not answer request {index}: {reason(answer)}")
            failed.__cause__ = answer
            return failed
        try:
            text = check_answer(self._text(answer), f"{self.fingerprint} (request {index})")
        except GenerationError as error:
            return error
        return answer_text(text, options)

    @abstractmethod
    def _answers(self, requests: Sequence[Request]) -> Iterable[tuple[int, object]]:
        """Index of each of `requests`, and what comes back for it or is raised instead, as they come."""

    def _text(self, answer: object) -> object:
        """The text in what came back."""
        return answer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint!r})"


class CallableLM(_TextOnly):
    """A function from prompt to answer, called once per request, in order, from the caller's thread.

    Args:
        function: the function.
        name: what the fingerprint ``callable:NAME`` calls it; None takes the function's module and name. Two functions
            of one name have one fingerprint, so name lambdas.
        tokenizer: measures prompts; None estimates by words.
    """

    def __init__(
        self, function: Callable[[str], str], *, name: str | None = None, tokenizer: TextTokenizer | None = None
    ) -> None:
        super().__init__(f"callable:{name or _name_of(function)}", tokenizer)
        self._function = function

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, object]]:
        for index, request in enumerate(requests):
            try:
                answer: object = self._function(transcript(request.turns, request.prompt))
            except Exception as error:  # It is the user's function: whatever it raises is its failure to answer.
                answer = error
            yield index, answer


class RunnableLM(_TextOnly):
    """A LangChain runnable from a string to a string or a message, such as a chat model or a chain.

    Attributes:
        chats: whether it takes messages.

    Args:
        runnable: asked with its own ``batch_as_completed``.
        name: what the fingerprint ``langchain:NAME`` calls it; None takes the model's name where it has one, else its
            class, and a hash of all that its `repr` shows.
        tokenizer: measures prompts; None estimates by words.
        max_concurrency: most requests at the same time, at least 1.

    Raises:
        InvalidOptionError: if `max_concurrency` is below 1.
    """

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        *,
        name: str | None = None,
        tokenizer: TextTokenizer | None = None,
        max_concurrency: int = 8,
    ) -> None:
        check_least(1, max_concurrency=max_concurrency)
        model = getattr(runnable, "model_name", None) or getattr(runnable, "model", None)
        if name is None:
            # Two chains of one class, or one model under two settings, are two LLMs: their answers are kept apart.
            content = hashlib.blake2b(repr(runnable).encode(errors="replace"), digest_size=4).hexdigest()
            name = f"{model if isinstance(model, str) else runnable.get_name()}-{content}"
        super().__init__(f"langchain:{name}", tokenizer)
        self._runnable = runnable
        self._config: Any = {"max_concurrency": max_concurrency}
        self.chats = _is_chat_model(runnable)

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, object]]:
        inputs = list(map(self._input, requests))
        return self._runnable.batch_as_completed(inputs, self._config, return_exceptions=True)

    async def agenerate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str | GenerationError]:
        """The answer to each of `requests`, or its error, by the runnable's own ``abatch``; errors as in `generate`."""
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        inputs = list(map(self._input, requests))
        answers = await self._runnable.abatch(inputs, self._config, return_exceptions=True)
        return [self._read(index, answer, options) for index, answer in enumerate(answers)]

    def stream(self, request: Request, options: GenerationOptions) -> Iterator[str]:
        """What is written to a request, in the pieces that the runnable gives; errors as in `generate`."""
        check_options(options, only_text=self.fingerprint)
        check_requests([request], self)
        try:
            for piece in self._runnable.stream(self._input(request)):
                yield check_answer(self._text(piece), self.fingerprint)
        except GenerationError:
            raise
        except Exception as error:  # it is the user's: whatever it raises is its failure to answer
            raise GenerationError(f"{self.fingerprint} did not answer: {reason(error)}") from error

    def _input(self, request: Request) -> str | list[tuple[str, str]]:
        if not self.chats or not request.turns:
            return transcript(request.turns, request.prompt)
        return [*((turn.role, turn.content) for turn in request.turns), ("user", request.prompt)]

    def _text(self, answer: object) -> object:
        """The text of a string or a message."""
        from langchain_core.messages import BaseMessage

        if isinstance(answer, BaseMessage):
            return str(answer.text)
        if isinstance(answer, str):
            return answer
        raise GenerationError(
            f"{self.fingerprint} must answer with a string or a message, answered: {type(answer).__name__}; "
            "end the chain with StrOutputParser()"
        )


def _is_chat_model(runnable: object) -> bool:
    """Whether it takes messages: a chat model, with arguments bound to it or not."""
    from langchain_core.language_models import BaseChatModel

    while (bound := getattr(runnable, "bound", None)) is not None:
        runnable = bound
    return isinstance(runnable, BaseChatModel)


def _name_of(function: Callable[[str], str]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"
