"""Language models that take text and nothing else: a plain function, and a LangChain runnable.

How they decode is their own affair: `GenerationOptions.max_new_tokens` is not handed on, because neither has a common
way to take it (limit the answer where you make the function or the chat model); more than one beam is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from persona.errors import GenerationError, InvalidOptionError, reason
from persona.llm.checks import check_options, check_requests
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import TEXT, GenerationOptions, Request, TextTokenizer

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable


class CallableLM:
    """A function from prompt to answer.

    Args:
        function: called once per request, in order, from the caller's thread.
        name: what the fingerprint calls it; None takes the function's module and name. Two functions of one name
            have one fingerprint, so name lambdas.
        tokenizer: measures prompts; None estimates by words.
    """

    def __init__(
        self,
        function: Callable[[str], str],
        *,
        name: str | None = None,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        self._function = function
        self._name = name or _name_of(function)
        self._tokenizer = tokenizer or WhitespaceTokenizer()

    @property
    def channels(self) -> frozenset[str]:
        """Text."""
        return frozenset({TEXT})

    @property
    def fingerprint(self) -> str:
        """``callable:`` and the name."""
        return f"callable:{self._name}"

    @property
    def tokenizer(self) -> TextTokenizer:
        """Measures prompts, or estimates them."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`, as the function gives them.

        Raises:
            UnsupportedChannelError: if a request brings more than text.
            InvalidOptionError: if `options` asks for beams.
            GenerationError: if the function raises, or returns no string.
        """
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        return [self._answer(index, request.prompt) for index, request in enumerate(requests)]

    def _answer(self, index: int, prompt: str) -> str:
        try:
            answer: object = self._function(prompt)
        except Exception as error:  # It is the user's function: whatever it raises is its failure to answer.
            raise GenerationError(f"{self.fingerprint} did not answer request {index}: {reason(error)}") from error
        if not isinstance(answer, str):
            raise GenerationError(
                f"{self.fingerprint} must return a string, returned: {type(answer).__name__} (request {index})"
            )
        return answer

    def __repr__(self) -> str:
        return f"CallableLM({self._name!r})"


class RunnableLM:
    """A LangChain runnable from a string to a string or a message, such as a chat model or a chain.

    Args:
        runnable: asked with its own ``batch``.
        name: what the fingerprint calls it; None takes the model's name where it has one, else its class.
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
        if max_concurrency < 1:
            raise InvalidOptionError(f"`max_concurrency` must be at least 1, was: {max_concurrency}")
        self._runnable = runnable
        model = getattr(runnable, "model_name", None) or getattr(runnable, "model", None)
        self._name = name or (model if isinstance(model, str) else runnable.get_name())
        self._tokenizer = tokenizer or WhitespaceTokenizer()
        self._max_concurrency = max_concurrency

    @property
    def channels(self) -> frozenset[str]:
        """Text."""
        return frozenset({TEXT})

    @property
    def fingerprint(self) -> str:
        """``langchain:`` and the name."""
        return f"langchain:{self._name}"

    @property
    def tokenizer(self) -> TextTokenizer:
        """Measures prompts, or estimates them."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`; of a message its text.

        Raises:
            UnsupportedChannelError: if a request brings more than text.
            InvalidOptionError: if `options` asks for beams.
            GenerationError: if the runnable raises, or answers with neither a string nor a message.
        """
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        answers = self._runnable.batch(
            [request.prompt for request in requests],
            config={"max_concurrency": self._max_concurrency},
            return_exceptions=True,
        )
        return [self._text(index, answer) for index, answer in enumerate(answers)]

    def _text(self, index: int, answer: object) -> str:
        from langchain_core.messages import BaseMessage

        if isinstance(answer, Exception):
            raise GenerationError(f"{self.fingerprint} did not answer request {index}: {reason(answer)}") from answer
        if isinstance(answer, BaseMessage):
            return str(answer.text)
        if isinstance(answer, str):
            return answer
        raise GenerationError(
            f"{self.fingerprint} must answer with a string or a message, answered: {type(answer).__name__} "
            f"(request {index}); end the chain with StrOutputParser()"
        )

    def __repr__(self) -> str:
        return f"RunnableLM({self._name!r})"


def _name_of(function: Callable[[str], str]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"
