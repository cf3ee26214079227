"""What an upstream replies: a whole answer, events as they come, refusals, and what is no answer at all."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import httpx

from persona.errors import PersonaError
from persona.serve.answers.pieces import DONE, Noting, event
from persona.serve.answers.shapes import Used
from persona.serve.errors import ApiError

Check: TypeAlias = Callable[[str], Sequence[str]]

_OWN_KEY = (401, 402, 403)
_KEPT = (503, 504)
_LONGEST = 16 << 20
"""Bytes of the longest event or answer that is taken."""
_END = re.compile(rb"\r?\n\r?\n")


def failure(error: httpx.HTTPError) -> ApiError:
    """Why there was no reply, or no more of it."""
    if isinstance(error, httpx.PoolTimeout):
        return ApiError(429, "too many requests are under way: try again", code="busy", headers={"Retry-After": "1"})
    if isinstance(error, httpx.TimeoutException):
        return ApiError(504, "the upstream did not answer in time", code="upstream_timeout")
    return ApiError(
        502, f"the upstream cannot be reached, or broke off: {type(error).__name__}", code="upstream_failed"
    )


async def refusal(reply: httpx.Response) -> ApiError:
    """What a reply says that is no answer."""
    said = _said(await _read(reply))
    status = reply.status_code
    headers = {"Retry-After": wait} if (wait := reply.headers.get("retry-after")) else {}
    message = str(said.get("message") or f"the upstream sent the status {status}")
    if status in _OWN_KEY or not 400 <= status < 600:
        what = "refused the server's own key" if status in _OWN_KEY else "sent no answer"
        return ApiError(502, f"the upstream {what} ({status})", code="upstream_refused")
    if status >= 500:
        kept = status if status in _KEPT else 502
        return ApiError(
            kept, f"the upstream failed ({status}): {message:.300}", code="upstream_failed", headers=headers
        )
    code, param = said.get("code") or said.get("type"), said.get("param")
    return ApiError(
        status,
        message,
        code=None if code is None else str(code),
        param=None if param is None else str(param),
        headers=headers,
    )


def check_streams(reply: httpx.Response) -> None:
    """Refuse a reply that is no stream; errors as in `whole`."""
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise _no_answer()


async def whole(reply: httpx.Response) -> dict[str, Any]:
    """The answer in a reply.

    Raises:
        ApiError: if it is none in OpenAI's form, or breaks off.
    """
    answer = _json(await _read(reply))
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise _no_answer()
    return answer


class SentEvents:
    """The events of a reply, as they come: the same bytes, but for the one that ends the answer.

    Args:
        used: goes into that one.
        check: finds what is to be said of the whole text there; None where nothing is checked.
        names: what the upstream calls the model, and what the client does.
        noting: notes the first event and the usage.
    """

    def __init__(self, used: Used, check: Check | None, names: tuple[str, str], noting: Noting) -> None:
        self._used, self._check, self._noting = used, check, noting
        self._texts, self._unchecked = defaultdict[str, str](str), set[str]()
        self._theirs, self._own = (json.dumps(name).encode() for name in names)
        self._told = self._ended = False

    async def of(self, reply: httpx.Response) -> AsyncIterator[bytes]:
        """What goes to the client; a reply that breaks off ends in an event with the error."""
        rest = b""
        try:
            async for data in reply.aiter_bytes():
                *events, rest = _END.split(rest + data)
                if len(rest) > _LONGEST:
                    raise ApiError(502, "the upstream's answer is too long", code="upstream_failed")
                if events:
                    self._noting.first()
                    yield b"".join(map(self._passed, events))
            if rest.strip():
                yield self._passed(rest)
            if not self._told:
                raise ApiError(502, "the upstream broke off its answer", code="upstream_failed")
            if not self._ended:
                yield self._done()
        except httpx.HTTPError as error:
            yield event(failure(error).body)
        except PersonaError as error:
            yield event(ApiError.of(error).body)

    def _passed(self, sent: bytes) -> bytes:
        if self._theirs != self._own:
            sent = sent.replace(self._theirs, self._own)
        data = b"\n".join(line[5:].strip() for line in sent.splitlines() if line.startswith(b"data:"))
        if data == b"[DONE]":
            return self._done()
        chunk = _json(data)
        return self._read(chunk, sent) if isinstance(chunk, dict) else sent + b"\n\n"

    def _done(self) -> bytes:
        """The end; where no chunk ended the answer or a choice of it, one of ours says what was used and found."""
        self._ended = True
        if self._told and not self._unchecked:
            return DONE
        self._told = True
        return event({"object": "chunk", "choices": [], **self._persona(sorted(self._unchecked))}) + DONE

    def _read(self, chunk: dict[str, Any], sent: bytes) -> bytes:
        self._noting.usage(chunk.get("usage"))
        self._told = self._told or bool(chunk.get("error"))
        choices, ended = chunk.get("choices"), list[str]()
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                number = str(choice.get("index"))
                if self._check and (text := written(choice)):
                    self._texts[number] += text
                    self._unchecked.add(number)
                if choice.get("finish_reason"):
                    ended.append(number)
        if not ended:
            return sent + b"\n\n"
        self._told = True
        return event(chunk | self._persona(ended))

    def _persona(self, choices: Sequence[str]) -> dict[str, Any]:
        """What was used, and what is found in choices that are whole."""
        self._unchecked -= set(choices)
        found = [each for number in choices for each in self._check(self._texts[number])] if self._check else []
        return self._used.field(found)


def written(choice: Any) -> str:
    """The text of a choice, of a part of it, or of its next piece; empty where it has none."""
    said = choice if isinstance(choice, dict) else {}
    said = said.get("message") or said.get("delta") or said
    if not isinstance(said, dict):  # no form of OpenAI's, and yet a text
        return str(said)
    text = next((found for name in ("content", "text", "refusal") if (found := said.get(name))), "")
    return "".join(map(written, text)) if isinstance(text, list) else text if isinstance(text, str) else ""


def _no_answer() -> ApiError:
    return ApiError(502, "the upstream's answer is not in OpenAI's form", code="upstream_failed")


async def _read(reply: httpx.Response) -> bytes:
    """All bytes of a reply, which is closed then."""
    read = bytearray()
    try:
        async for data in reply.aiter_bytes():
            read += data
            if len(read) > _LONGEST:
                raise ApiError(502, "the upstream's answer is too long", code="upstream_failed")
    except httpx.HTTPError as error:
        raise failure(error) from error
    finally:
        await reply.aclose()
    return bytes(read)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _said(text: bytes) -> dict[str, Any]:
    """The error in a reply, which servers word in two ways; empty if there is none."""
    found = _json(text)
    error = found.get("error", found) if isinstance(found, dict) else None
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}
