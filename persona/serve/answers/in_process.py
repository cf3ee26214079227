"""The engine in the process: all requests under way share its batch, each with its own user's state."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from math import ceil
from typing import Any

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from persona.errors import BusyError, GenerationError, InvalidOptionError, PersonaError
from persona.generation import Prepared
from persona.llm.continuous.engine import Engine
from persona.llm.continuous.sampling import SamplingOptions, Written
from persona.llm.continuous.ticket import Ticket
from persona.llm.transformers import TransformersLM
from persona.protocols import LanguageModel
from persona.serve.answers.backend import Call
from persona.serve.answers.fields import check_fields, check_messages, sampling
from persona.serve.answers.forms import ChatForm, CompletionForm, Form
from persona.serve.answers.personal import Personalizing
from persona.serve.answers.pieces import DONE, Events, Noting, event, unless_gone
from persona.serve.answers.shapes import ChatBody, Used
from persona.serve.errors import ApiError
from persona.serve.metrics import Metrics


def engine_llm(llm: LanguageModel) -> TransformersLM:
    """An LLM that the engine can run.

    Raises:
        InvalidOptionError: if it is none.
    """
    if not isinstance(llm, TransformersLM):
        raise InvalidOptionError(
            "a server needs a transformers model (a folder, a hub id, a GGUF file, 'smollm2', 'tiny'), which its own "
            f"engine runs, or an upstream (openai:MODEL@URL, vllm:MODEL@URL); was: {llm.fingerprint}"
        )
    return llm


class InProcess:
    """Answers requests by an engine.

    Args:
        engine: runs the LLM; it is closed with this.
        name: what requests call the model.
        personal: makes requests personal.
        metrics: count them.
        answer_tokens: most tokens of an answer.
    """

    def __init__(
        self, engine: Engine, name: str, personal: Personalizing, metrics: Metrics, *, answer_tokens: int
    ) -> None:
        self._engine, self._personal, self._metrics = engine, personal, metrics
        self._most = answer_tokens
        self._room = engine_llm(personal.llm).frozen.positions[1]
        self.models = (name,)
        self.ready = True
        metrics.watch("waiting", "Requests that wait for the engine.", lambda: engine.waiting)
        metrics.watch("running", "Answers that the engine is writing.", lambda: engine.running)

    async def aclose(self, drain: float) -> None:
        """Let what is being written go on for a while, and stop."""
        self.ready = False
        await to_thread.run_sync(lambda: self._engine.close(drain=drain))

    async def answer(self, call: Call) -> Response:
        """The engine's answer.

        Raises:
            ApiError: if a field asks for what the engine cannot do, or too many requests wait (429).
            PersonaError: if the prompt is too long, or the LLM does not answer.
        """
        check_fields(call.raw)
        options = sampling(call.body, self._most, self._room)
        form: Form
        prompt: str | list[dict[str, Any]]
        if isinstance(call.body, ChatBody):
            check_messages(call.body.messages)
            form, prompt = ChatForm(options.logprobs is not None), call.body.messages
        else:
            form, prompt = CompletionForm(options.logprobs is not None), _prompt(call.body.prompt)
        prepared = await self._personal.prepared(call.user_id, prompt, call.body.persona, options.max_new_tokens)
        ticket = await to_thread.run_sync(self._submit, prepared, options, call)
        reply = _Reply(call, form, self._personal.used(prepared), prepared, Noting(call, self._metrics))
        if call.streams:
            return Events(reply.events(ticket))
        try:
            return JSONResponse(reply.whole(await unless_gone(call.request, ticket.whole())))
        finally:
            ticket.cancel()

    def _submit(self, prepared: Prepared, options: SamplingOptions, call: Call) -> Ticket:
        """Queue a request; its text becomes tokens, so this is for a worker thread."""
        client = f"{call.caller.key_id} {call.user_id or ''}"
        try:
            ticket = self._engine.submit(prepared.request, options, client=client, user_id=call.user_id)
        except BusyError as error:
            headers = {"Retry-After": str(ceil(error.retry_after))}
            raise ApiError(429, str(error), code="busy", headers=headers) from None
        # Who was forgotten before this request was in the engine's hands was not found there by `Engine.drop`.
        if prepared.generation.channels and not self._personal.knows(call.user_id):
            ticket.cancel()
            raise GenerationError("the request's user was forgotten")
        return ticket


class _Reply:
    """One answer in the form of its endpoint.

    Args:
        call: the request.
        form: of the endpoint.
        used: what of the user went into it.
        prepared: checks it.
        noting: notes its tokens.
    """

    def __init__(self, call: Call, form: Form, used: Used, prepared: Prepared, noting: Noting) -> None:
        self._call, self._form, self._noting = call, form, noting
        self._used, self._prepared = used, prepared
        self._head = {"id": f"{form.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": call.model}

    def whole(self, written: Written) -> dict[str, Any]:
        """The whole answer."""
        self._noting.first()
        persona = self._persona(written)
        answer = self._chunk([self._form.whole(written)], self._form.whole_object)
        return {**answer, "usage": self._usage(written), **persona}

    async def events(self, ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """The answer in events; the engine stops when they are closed."""
        form = self._form
        try:
            if opened := form.opened():
                yield event(self._chunk(opened))
            async for piece in ticket:
                self._noting.first()
                yield event(self._chunk([form.piece(piece)]))
            usage = self._usage(ticket.written)
            yield event({**self._chunk([form.ended(ticket.written)]), **self._persona(ticket.written)})
            if self._call.with_usage:
                yield event({**self._chunk([]), "usage": usage})
            yield DONE
        except PersonaError as error:
            yield event(ApiError.of(error).body)
        finally:
            ticket.cancel()

    def _persona(self, written: Written) -> dict[str, Any]:
        """What of the user went into the answer, and what checks have found in it."""
        return self._used.field(self._prepared.findings(written.text))

    def _chunk(self, choices: list[dict[str, Any]], kind: str = "") -> dict[str, Any]:
        return {**self._head, "object": kind or self._form.chunk_object, "choices": choices}

    def _usage(self, written: Written) -> dict[str, int]:
        read, wrote = written.prompt_tokens, written.completion_tokens
        usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
        self._noting.usage(usage)
        return usage


def _prompt(given: str | list[Any]) -> str:
    if isinstance(given, list) and len(given) == 1:
        (given,) = given
    if not isinstance(given, str):
        raise ApiError(400, "`prompt` must be one text here", code="unsupported", param="prompt")
    return given
