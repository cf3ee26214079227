"""Any OpenAI-compatible upstream: a request goes on as it came, with what is personal in it, and so does the answer.

==========================================  ===========================================================================
what comes back                             what the client gets
==========================================  ===========================================================================
an answer                                   the same, with the field ``persona``
chunks                                      the same bytes as they come, ``persona`` in the chunk that ends the answer
what a check holds back (`AnswerCheck`)     502, or in a stream an event with the error in place of what is not sent yet
400, 404, 413, 422, 429 and their like      the same status and words, ``Retry-After`` too
401, 402, 403: of the server's own key      502; the client has nothing to do with that key
5xx, no answer, or none in OpenAI's form    502; 503 and 504 stay what they are
no answer in time                           504
==========================================  ===========================================================================

A request that could not be sent is sent again; one that was sent never is, since it may have been answered. Neither the
client's key nor its ``user`` go upstream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.responses import Response

from persona.errors import InvalidOptionError
from persona.generation import Prepared
from persona.llm.endpoint.model import OpenAILM
from persona.protocols import TEXT, Message
from persona.serve.answers.backend import Call
from persona.serve.answers.personal import Personalizing
from persona.serve.answers.pieces import Events, Noting, unless_gone
from persona.serve.answers.placing import asked_of, placed, placed_completion
from persona.serve.answers.replies import Check, SentEvents, check_streams, failure, refusal, whole, written
from persona.serve.answers.shapes import ChatBody, Used
from persona.serve.errors import ApiError
from persona.serve.metrics import Metrics

_PAUSES = (0.2, 0.5)
_CONNECTIONS, _TIMEOUT, _CONNECTING, _IDLE = 256, 300.0, 10.0, 4.0


@dataclass(frozen=True, slots=True, eq=False)
class _Outgoing:
    """A request for the upstream.

    Attributes:
        path: behind the upstream's URL.
        content: its body.
        used: what of the user is in it.
        check: finds what is to be said of an answer's text; None where nothing is checked.
        names: what the upstream calls the model, and what the client does.
    """

    path: str
    content: bytes
    used: Used
    check: Check | None
    names: tuple[str, str]


class Upstream:
    """Answers requests by an endpoint.

    Args:
        llm: the endpoint.
        personal: makes requests personal.
        metrics: count them.
        models: further names of models there that requests may give.
        connections: most requests at a time; None is 256.

    Raises:
        InvalidOptionError: if the endpoint is asked for completions alone or only so many times a minute, or further
            models are to get soft prompts or adapters, which are made for one.
    """

    def __init__(
        self,
        llm: OpenAILM,
        personal: Personalizing,
        metrics: Metrics,
        *,
        models: tuple[str, ...] = (),
        connections: int | None = None,
    ) -> None:
        self._llm, self._personal, self._metrics = llm, personal, metrics
        self._at = llm.address
        options = self._at.options
        if options.endpoint != "chat" or options.requests_per_minute is not None:
            raise InvalidOptionError(
                "a server's clients choose the endpoint, and its upstream limits requests: leave `endpoint` and "
                "`requests_per_minute` out"
            )
        self.models = tuple(dict.fromkeys((self._at.model, *models)))
        if len(self.models) > 1 and personal.ways != {TEXT}:
            raise InvalidOptionError("soft prompts and adapters are made for one LLM: leave `models` out")
        self.ready = True
        most = connections or _CONNECTIONS
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._at.key}", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(options.timeout or _TIMEOUT, connect=_CONNECTING, pool=_CONNECTING),
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=_IDLE),
        )

    async def aclose(self, drain: float) -> None:
        """Close the connections; the web server has waited for what was under way."""
        self.ready = False
        await self._client.aclose()

    async def answer(self, call: Call) -> Response:
        """The upstream's reply; errors as in the module."""
        outgoing, noting = await self._outgoing(call), Noting(call, self._metrics)
        if call.streams:
            return Events(self._events(await unless_gone(call.request, self._streamed(outgoing)), outgoing, noting))
        answer = await unless_gone(call.request, self._whole(outgoing))
        noting.first()
        noting.usage(answer.get("usage"))
        check = outgoing.check or (lambda text: ())
        answer |= outgoing.used.field([each for choice in answer["choices"] for each in check(written(choice))])
        if outgoing.names[0] != outgoing.names[1]:
            answer["model"] = call.model
        return Response(json.dumps(answer), media_type="application/json")

    async def _outgoing(self, call: Call) -> _Outgoing:
        prepared: Prepared | None
        if isinstance(call.body, ChatBody):
            path, (fields, prepared) = "/chat/completions", await self._chat(call, call.body.messages)
        else:
            path, (fields, prepared) = "/completions", await self._completion(call, call.body.prompt)
        used, check, model = Used(), None, call.model
        if prepared is not None:
            used = self._personal.used(prepared)
            check = prepared.findings if prepared.checks else None
            if prepared.request.adapter is not None:
                model = self._llm.model_of(prepared.request)
        rest = {name: value for name, value in call.raw.items() if name not in ("persona", "user")}
        try:
            content = json.dumps({**rest, **fields, "model": model}, allow_nan=False).encode()
        except ValueError:
            raise ApiError(400, "JSON has no NaN and no Infinity: send finite numbers", code="invalid_value") from None
        return _Outgoing(path, content, used, check, (model, call.model))

    async def _chat(self, call: Call, messages: list[dict[str, Any]]) -> tuple[dict[str, Any], Prepared | None]:
        """The conversation; it stays as it is where no turn of the user's has text."""
        if (asked := asked_of(messages)) is None:
            return {}, None
        turns = [*asked.turns, Message("user", asked.text)]
        prepared = await self._personal.prepared(call.user_id, turns, call.body.persona)
        return {"messages": placed(messages, asked, prepared.request, self._at.options)}, prepared

    async def _completion(self, call: Call, prompt: str | list[Any]) -> tuple[dict[str, Any], Prepared]:
        if not isinstance(prompt, str):
            raise ApiError(400, "`prompt` must be one text here", code="unsupported", param="prompt")
        prepared = await self._personal.prepared(call.user_id, prompt, call.body.persona)
        if prepared.request.soft_prompt is not None and self._at.options.embed is None:
            raise ApiError(
                400,
                "a soft prompt needs the chat endpoint of this upstream: use /v1/chat/completions, or choose other "
                '`persona.channels`, e.g. ["records"]',
                code="unsupported",
                param="persona.channels",
            )
        return placed_completion(prepared.request, self._at.options), prepared

    async def _sent(self, outgoing: _Outgoing) -> httpx.Response:
        """The reply's head: it has begun well."""
        headers = {"Content-Type": "application/json"}
        request = self._client.build_request(
            "POST", self._at.url + outgoing.path, content=outgoing.content, headers=headers
        )
        for pause in (*_PAUSES, None):
            try:
                reply = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if pause is None:
                    raise failure(error) from error
                await asyncio.sleep(pause)
            except httpx.HTTPError as error:
                raise failure(error) from error
            else:
                break
        if reply.status_code != 200:
            raise await refusal(reply)
        return reply

    async def _streamed(self, outgoing: _Outgoing) -> httpx.Response:
        reply = await self._sent(outgoing)
        try:
            check_streams(reply)
        except ApiError:
            await reply.aclose()
            raise
        return reply

    async def _whole(self, outgoing: _Outgoing) -> dict[str, Any]:
        return await whole(await self._sent(outgoing))

    async def _events(self, reply: httpx.Response, outgoing: _Outgoing, noting: Noting) -> AsyncGenerator[bytes, None]:
        try:
            async for events in SentEvents(outgoing.used, outgoing.check, outgoing.names, noting).of(reply):
                yield events
        finally:
            await reply.aclose()
