"""The Personalizer as a LangChain `Runnable`, to stand in a chain.

>>> from langchain_core.prompts import PromptTemplate
>>> from persona import Personalizer, ProfileStore, load_llm
>>> personalizer = Personalizer(load_llm(str.upper), ProfileStore("sqlite:///persona.db"))
>>> chain = PromptTemplate.from_template("a film about {topic}") | PersonalizedRunnable(personalizer)
>>> chain.invoke({"topic": "snow"}, config={"configurable": {"user_id": "critic-7"}})
'A FILM ABOUT SNOW'

The user comes from the input (``{"user_id": ..., "prompt": ...}``) or from the config's ``configurable``; where
neither names one, or both name different ones, the call fails: there is no default user.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config

from persona.errors import InvalidOptionError, InvalidUserIdError, PersonaError, reason
from persona.generation import Generation, Prepared
from persona.integrations.personal import one_user
from persona.personalizer import Personalizer
from persona.protocols import Message, Role

_ROLES: Mapping[str, Role] = {"system": "system", "human": "user", "ai": "assistant"}


class PersonalizedRunnable(Runnable[Any, str]):
    """A frozen LLM that answers as if it knew the user, as a LangChain `Runnable`.

    Input: a string, a `PromptValue`, a list of messages, or a mapping with ``prompt`` (any of these) and optionally
    ``user_id`` and ``history``, the messages before it. The last message is the user's, and records are sought by it.
    Output: the answer's text; `generate` of the wrapped `Personalizer` also tells the provenance.

    Args:
        personalizer: what answers.
    """

    def __init__(self, personalizer: Personalizer) -> None:
        self.personalizer = personalizer

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """The answer to one input.

        Raises:
            InvalidUserIdError: if neither the input nor the config names a user, or they name two.
            InvalidOptionError: if the input is of no known kind.
        """
        return self._call_with_config(self._answer, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """`invoke` for an event loop, which it does not block (`Personalizer.agenerate`)."""
        return await self._acall_with_config(self._aanswer, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[str]:
        """The answers to many inputs, of any users, in batches of the LLM.

        With `return_exceptions` an input that cannot be answered does not take the others down.
        """
        if not inputs:
            return []
        answer = partial(self._answers, apart=return_exceptions)
        return self._batch_with_config(answer, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[str]:
        """`batch` for an event loop, which it does not block (`Personalizer.abatch`)."""
        if not inputs:
            return []
        answer = partial(self._aanswers, apart=return_exceptions)
        return await self._abatch_with_config(answer, inputs, config, return_exceptions=return_exceptions, **kwargs)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        """The answer in pieces, as the LLM writes them (`Personalizer.stream`); errors as in `invoke`."""
        yield from self._transform_stream_with_config(iter([input]), self._pieces, config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[str]:
        """`stream`, from a thread of its own, so that the event loop stays free."""

        async def inputs() -> AsyncIterator[Any]:
            yield input

        async for piece in self._atransform_stream_with_config(inputs(), self._apieces, config, **kwargs):
            yield piece

    def _pieces(
        self, inputs: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Iterator[str]:
        for input in inputs:
            with self.personalizer.stream(*_question(input, config)) as stream:
                yield from stream

    async def _apieces(
        self, inputs: AsyncIterator[Any], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> AsyncIterator[str]:
        async for input in inputs:
            async with self.personalizer.astream(*_question(input, config)) as stream:
                async for piece in stream:
                    yield piece

    def _answer(self, input: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig) -> str:
        return self.personalizer.generate(*_question(input, config)).text

    async def _aanswer(self, input: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig) -> str:
        return (await self.personalizer.agenerate(*_question(input, config))).text

    def _answers(
        self,
        inputs: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        apart: bool,
    ) -> list[Exception | str]:
        """Answers in the order of `inputs`; with `apart` an exception stands where one cannot be answered."""
        results, asked = self._prepared(inputs, config, apart)
        answers: Sequence[Generation | PersonaError]
        try:
            each = dict(self.personalizer.answers(list(asked.values())))
            answers = [each[number] for number in range(len(asked))]
        except PersonaError:  # of one of them: asked alone, each tells whether it is that one
            if not apart:
                raise
            answers = list(map(self._alone, asked.values()))
        return _with_answers(results, asked, answers)

    async def _aanswers(
        self,
        inputs: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        apart: bool,
    ) -> list[Exception | str]:
        results, asked = await asyncio.to_thread(self._prepared, inputs, config, apart)
        answers: Sequence[Generation | PersonaError]
        try:
            answers = await self.personalizer.aanswers(list(asked.values()))
        except PersonaError:
            if not apart:
                raise
            answers = [await asyncio.to_thread(self._alone, one) for one in asked.values()]
        return _with_answers(results, asked, answers)

    def _alone(self, prepared: Prepared) -> Generation | PersonaError:
        try:
            return dict(self.personalizer.answers([prepared]))[0]
        except PersonaError as error:
            return error

    def _prepared(
        self, inputs: list[Any], config: list[RunnableConfig], apart: bool
    ) -> tuple[list[Exception | str], dict[int, Prepared]]:
        """The requests of inputs by their index; with `apart` the errors of those that cannot be asked."""
        results: list[Exception | str] = [""] * len(inputs)
        if not apart:
            questions = [_question(one, settings) for one, settings in zip(inputs, config, strict=True)]
            return results, dict(enumerate(self.personalizer.prepared(questions)))
        asked: dict[int, Prepared] = {}
        for index, (one, settings) in enumerate(zip(inputs, config, strict=True)):
            try:
                (asked[index],) = self.personalizer.prepared([_question(one, settings)])
            except PersonaError as error:
                results[index] = error
        return results, asked


def _with_answers(
    results: list[Exception | str], asked: Iterable[int], answers: Iterable[Generation | PersonaError]
) -> list[Exception | str]:
    """`results` with the texts of answers, or their errors, by the index of what was asked."""
    for index, answer in zip(asked, answers, strict=True):
        results[index] = answer if isinstance(answer, PersonaError) else answer.text
    return results


def _question(value: Any, config: RunnableConfig) -> tuple[str, list[Message]]:
    """User id and conversation of one input."""
    user_id = ensure_config(config).get("configurable", {}).get("user_id")
    history: Any = []
    if isinstance(value, Mapping):
        if "prompt" not in value:
            raise InvalidOptionError(
                f"a mapping must hold 'prompt' (and may hold 'user_id', 'history'), has: {', '.join(map(str, value))}"
            )
        # Who serves a chain sets the config, and whoever asks may write the input: neither is taken on trust.
        user_id = one_user({"input": value.get("user_id"), "config": user_id})
        history, value = value.get("history") or [], value["prompt"]
    if user_id is None:
        raise InvalidUserIdError(
            'no user is named: give {"user_id": ..., "prompt": ...} or config={"configurable": {"user_id": ...}}'
        )
    return user_id, [*_messages(history), *_messages(value)]


def _messages(value: Any) -> list[Message]:
    """Turns of what LangChain calls a prompt."""
    if isinstance(value, str):
        return [Message("user", value)]
    if isinstance(value, PromptValue):
        value = value.to_messages()
    if not isinstance(value, list) or any(isinstance(each, str) for each in value):
        raise InvalidOptionError(f"a prompt must be text, a PromptValue or messages, was: {type(value).__name__}")
    try:
        messages = convert_to_messages(value)
    except (ValueError, NotImplementedError) as error:
        raise InvalidOptionError(f"a prompt must be text, a PromptValue or messages: {reason(error)}") from error
    others = [message.type for message in messages if message.type not in _ROLES]
    if others:
        raise InvalidOptionError(f"a message must be of {', '.join(_ROLES)}, was of: {others[0]}")
    return [Message(_ROLES[message.type], str(message.text)) for message in messages]
