"""An LLM behind an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, and many others.

>>> from persona.llm.load import load_llm
>>> load_llm("vllm:llama-3@http://127.0.0.1:8000/v1", system="Be brief.")
VllmLM('llama-3', base_url='http://127.0.0.1:8000/v1/')

Needs the extra `openai`. Answers are asked for with temperature 0 and a fixed seed; how far that makes them repeatable
is up to the server.

**Soft prompts** go to a vLLM server started with ``--enable-prompt-embeds`` (`persona.llm.inputs`). The chat endpoint
takes one as a part of a message, beside the text. The completions endpoint takes embeddings of the whole prompt, so the
text has to be embedded here, by `EndpointOptions.embed`.

**Adapters** are models of their own to a vLLM server that was started with ``--enable-lora``: a request with an adapter
names it in the place of the model (`persona.adapters.serving.vllm`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from persona.errors import EndpointError, GenerationError, InvalidOptionError
from persona.llm.answers.choices import chosen
from persona.llm.answers.text import told
from persona.llm.checks import check_options, check_requests, check_soft_prompt, collected
from persona.llm.endpoint.connection import Connection
from persona.llm.endpoint.holding import JSON_OBJECT, JSON_SCHEMA, Holding, Way
from persona.llm.endpoint.likelihood import PromptScores
from persona.llm.endpoint.options import EndpointOptions
from persona.llm.endpoint.wire import read_answer, read_piece, request_fields
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import ADAPTER, SOFT_PROMPT, TEXT, Answer, GenerationOptions, Request, TextTokenizer

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_IN_A_ROW = 16
"""So many failures one after the other, none of them a refusal, and the endpoint is taken to be down."""


class OpenAILM:
    """A language model that is reached through a client of the package `openai`.

    Requests are sent from an event loop of its own, whoever asks.

    Args:
        model: the model's name at the endpoint.
        options: how to ask.
        client: an `openai.OpenAI` or `openai.AsyncOpenAI` client, with its own timeout and retries (an asynchronous one
            must not be used elsewhere); None makes one from `base_url` and `api_key`.
        base_url: e.g. ``"http://127.0.0.1:8000/v1"``; None takes `OPENAI_BASE_URL`, else OpenAI itself.
        api_key: None takes `OPENAI_API_KEY`.

    Attributes:
        fingerprint: ``openai:MODEL@URL``; the weights behind an endpoint cannot be seen.
        channels: text, soft prompts where `hidden_size` is given, and adapters where `adapter_name` is.
        chats: whether a conversation is sent as messages.
        tokenizer: measures prompts, or estimates them.
        serves: fingerprint of the LLM behind the endpoint, as it was given.

    Raises:
        MissingDependencyError: if `openai` is not installed.
        ModelLoadError: if there is no key.
        InvalidOptionError: if the model has no name, or `client` and the means to make one are both given.
    """

    constrains = True
    ways: Sequence[Way] = (JSON_SCHEMA, JSON_OBJECT)
    """How the endpoint may be told to hold an answer to choices, the first one first."""
    likelihoods = False
    """Whether the endpoint may say how likely its LLM finds each choice."""

    def __init__(
        self,
        model: str,
        options: EndpointOptions | None = None,
        *,
        client: OpenAI | AsyncOpenAI | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if not model:
            raise InvalidOptionError("the model's name at the endpoint must not be empty: openai:MODEL")
        if client is not None and (base_url is not None or api_key is not None):
            raise InvalidOptionError("give a client, or `base_url` and `api_key` to make one, not both")
        self._model = model
        self._options = options = options or EndpointOptions()
        self.serves, self.chats = options.serves, options.endpoint == "chat"
        self.tokenizer: TextTokenizer = options.tokenizer or WhitespaceTokenizer()
        given = ((SOFT_PROMPT, options.hidden_size), (ADAPTER, options.adapter_name))
        self.channels = frozenset({TEXT, *(way for way, option in given if option is not None)})
        self._connect = partial(Connection, self._options, client, base_url, api_key)
        self._alive = self._started()

    def _started(self) -> _Live:
        connection = self._connect()
        self.fingerprint = name = f"openai:{self._model}@{connection.url.rstrip('/')}"
        scores = PromptScores(name, connection) if self.likelihoods else None
        return _Live(os.getpid(), connection, Holding(name, self.ways), scores)

    @property
    def _live(self) -> _Live:
        if self._alive.process != os.getpid():
            self._alive = self._started()
        return self._alive

    @property
    def address(self) -> Address:
        """Where requests go, for who sends their own."""
        connection = self._live.connection
        return Address(self._model, connection.url.rstrip("/"), connection.key, self._options)

    @property
    def settings(self) -> dict[str, object]:
        """What besides the model and a request decides an answer."""
        names = ("endpoint", "seed", "fields", "system", "chat_template_kwargs", "soft_prompt")
        return {name: getattr(self._options, name) for name in names}

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`. Equal prompts are asked once.

        Raises:
            UnsupportedChannelError: if a request brings more than is taken here.
            UnknownAdapterError: if `adapter_name` knows no adapter of that name.
            InvalidOptionError: if `options` asks for beams, or a soft prompt has the wrong shape.
            GenerationError: if the endpoint refuses a request, cannot be reached, or answers without text.
        """
        return [answer.text for answer in collected(self.generate_each(requests, options), len(requests))]

    def generate_each(
        self, requests: Sequence[Request], options: GenerationOptions
    ) -> Iterator[tuple[int, Answer | GenerationError]]:
        """Index and answer of each request, or its error, in the order in which they arrive; errors as in `generate`.

        Where no request can be answered (no key, no server), nothing more is sent; what was under way and is answered
        comes before the error.
        """
        asked = self._asked(requests, options)
        if asked:
            yield from self._live.connection.loop.each(partial(self._answers, asked, options))

    async def agenerate(
        self, requests: Sequence[Request], options: GenerationOptions
    ) -> list[Answer | GenerationError]:
        """The answer to each request, or its error, in their order, without blocking the caller's event loop."""
        answers: dict[int, Answer | GenerationError] = {}
        if asked := self._asked(requests, options):
            await self._live.connection.loop.run(self._answers(asked, options, lambda one: answers.update([one])))
        return [answers[index] for index in range(len(requests))]

    def stream(self, request: Request, options: GenerationOptions) -> Iterator[str | Answer]:
        """What is written to a request, in pieces, and at the end the whole of it; errors as in `generate`.

        An endpoint that sends no pieces is asked for the whole.
        """
        (asked,) = self._asked([request], options)
        yield from self._live.connection.loop.each(partial(self._pieces, asked, options))

    async def _pieces(self, asked: Asked, options: GenerationOptions, put: Callable[[str | Answer], None]) -> None:
        connection = self._live.connection
        fields = request_fields(asked.request, self._options, options, connection.url)
        written, finish = "", None
        async with connection.slots:
            async for chunk in connection.pieces(self.fingerprint, self._method, {"model": asked.model, **fields}):
                piece, ended = read_piece(chunk)
                written, finish = written + piece, ended or finish
                if piece:
                    put(piece)
            if not written and finish is None:
                put(await self._answer(asked.model, asked.request, options))
            else:
                put(Answer(written, finish or "stop"))

    def _asked(self, requests: Sequence[Request], options: GenerationOptions) -> list[Asked]:
        """What is sent, and for which requests; checked before anything is."""
        check_options(options, only_text=self.fingerprint)
        check_requests(requests, self)
        # Adapters are named before anything is sent: nobody is answered by the plain model because one is gone.
        asked: dict[tuple[object, ...], Asked] = {}
        for index, request in enumerate(requests):
            if request.soft_prompt is not None:
                from persona.llm.inputs import TokenSet

                if isinstance(request.soft_prompt, TokenSet):
                    raise InvalidOptionError(f"an endpoint reads soft tokens in order, not as a set (request {index})")
                check_soft_prompt(request.soft_prompt, self._options.hidden_size, self.fingerprint, index)
            model = self.model_of(request)
            # Equal prompts are one question; a soft prompt is never taken for equal to another.
            choices = None if options.answers == "generate" else request.choices
            key = (request.prompt, request.turns, model, choices, None if request.soft_prompt is None else index)
            asked.setdefault(key, Asked(model, request, [])).indexes.append(index)
        return list(asked.values())

    async def _answers(
        self,
        asked: Sequence[Asked],
        options: GenerationOptions,
        put: Callable[[tuple[int, Answer | GenerationError]], None],
    ) -> None:
        """Ask everything, and hand over what comes."""
        ended: list[GenerationError] = []
        live = self._live

        async def ask(each: Asked) -> None:
            async with live.connection.slots:
                if ended:
                    return
                try:
                    answer: Answer | GenerationError = await self._answer(each.model, each.request, options)
                    live.failures = 0
                except GenerationError as error:
                    answer = error
                    live.failures = live.failures + 1 if _is_down(error) else 0
                    if live.failures >= _IN_A_ROW:
                        ended.append(EndpointError(f"{live.failures} requests in a row were not answered; {error}"))
                    elif isinstance(error, EndpointError) and error.for_all:
                        ended.append(error)
                        return
            for index in each.indexes:
                put((index, answer))

        await asyncio.gather(*map(ask, asked))
        if ended:
            raise ended[0]

    def model_of(self, request: Request) -> str:
        """The model that a request goes to: the server's name of its adapter, if it has one.

        Raises:
            UnknownAdapterError: if `EndpointOptions.adapter_name` knows no such adapter.
        """
        adapter_name = self._options.adapter_name
        return self._model if request.adapter is None or adapter_name is None else adapter_name(request.adapter)

    async def _answer(self, model: str, request: Request, options: GenerationOptions) -> Answer:
        if options.answers == "generate" or request.choices is None:
            return await self._written(model, request, options)
        if options.answers == "likelihood" and (scores := await self._scores(model, request, options)) is not None:
            return Answer(chosen(scores, request.choices), mode="likelihood")
        texts = request.choices.texts
        longest = max(len(json.dumps(text)) for text in texts)

        async def ask(way: Way | None) -> Answer:
            if way is None:
                return await self._written(model, request, options)
            room = replace(options, max_new_tokens=max(options.max_new_tokens, longest + way.room))
            return await self._written(model, request, room, way.fields(texts))

        return await self._live.holding.answer(texts, ask)

    async def _scores(self, model: str, request: Request, options: GenerationOptions) -> list[float] | None:
        """How likely the LLM finds each choice; None if the endpoint does not say."""
        live = self._live
        if live.scores is None or request.choices is None or request.soft_prompt is not None:
            return None
        fields = request_fields(request, self._options, options, live.connection.url)
        return await live.scores(model, self.chats, fields, request.choices.texts)

    async def _written(
        self,
        model: str,
        request: Request,
        options: GenerationOptions,
        further: Mapping[str, Any] = MappingProxyType({}),
    ) -> Answer:
        connection = self._live.connection
        fields = request_fields(request, self._options, options, connection.url, further)

        def read(reply: Any) -> Answer:
            return told(read_answer(reply, self.fingerprint, options.max_new_tokens), options)

        return await connection.ask(self.fingerprint, self._method, read, {"model": model, **fields})

    def _method(self, client: Any) -> Any:
        """What of a client takes a request."""
        return (client.chat.completions if self._options.endpoint == "chat" else client.completions).create

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._alive.connection.url!r})"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is, and how it is asked.

    Attributes:
        model: the model's name there.
        url: without a slash at its end.
        key: the API key.
        options: what is asked of it.
    """

    model: str
    url: str
    key: str = field(repr=False)
    options: EndpointOptions


@dataclass(slots=True)
class _Live:
    """What belongs to one process; a forked one has neither the thread nor the sockets of its parent.

    Attributes:
        process: its id.
        connection: to the endpoint.
        holding: what the endpoint takes of ways to hold an answer to choices.
        scores: how likely the LLM finds choices; None where no endpoint of the kind says that.
        failures: how many requests in a row were not answered, up to now.
    """

    process: int
    connection: Connection
    holding: Holding
    scores: PromptScores | None
    failures: int = 0


def _is_down(error: GenerationError) -> bool:
    """Whether it says more of the endpoint than of the request."""
    return isinstance(error, EndpointError) and (error.status is None or error.status == 429 or error.status >= 500)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is sent once: a request, the model that it goes to, and the indexes of all requests like it."""

    model: str
    request: Request
    indexes: list[int]
