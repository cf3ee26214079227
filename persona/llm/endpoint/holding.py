"""Holding an answer to the choices of a request: what a server is told, and what it made of it.

===============  =======================================================================  =============================
way              fields of the request                                                    servers
===============  =======================================================================  =============================
``choice``       ``structured_outputs: {"choice": [...]}``                                vLLM
``guided``       ``guided_choice: [...]``                                                 vLLM before 0.12
``json_schema``  ``response_format`` with the schema ``{"answer": one of the choices}``   OpenAI, vLLM and most others
``json_object``  the same schema in an older place                                        llama-cpp-python, some hosts
===============  =======================================================================  =============================

A server that refuses a way (400, 422), or takes it and answers something else, is asked in the next one, and in the end
without any: the answer is then read. What a server does not take is remembered, and said once. A refusal for the sake
of what is asked (a content filter, a prompt that is too long) says nothing of the way.
"""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from persona.errors import EndpointError, PersonaWarning
from persona.protocols import Answer

_NEVER_OF_THE_WAY = (401, 402, 403, 404, 429)
_OF_THE_WAY = re.compile(r"response_format|schema|json|structured|guided|grammar|choice|enum", re.IGNORECASE)
_OF_THE_REQUEST = re.compile(r"content|filter|polic|moderat|safety|context|length|too long|tokens", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to hold an answer to choices.

    Attributes:
        name: see the module.
        fields: the fields of the request, by the choices.
        read: the choice in what came back, or None if it holds none.
        room: bytes that an answer may take beyond those of its choice, which are as many tokens at most.
    """

    name: str
    fields: Callable[[Sequence[str]], Mapping[str, Any]]
    read: Callable[[str, Sequence[str]], str | None]
    room: int = 0


def _bare(text: str, choices: Sequence[str]) -> str | None:
    return next((choice for choice in choices if text.strip() == choice.strip()), None)


def _object(text: str, choices: Sequence[str]) -> str | None:
    try:
        answer = json.loads(text)["answer"]
    except (ValueError, LookupError, TypeError):
        return None
    return answer if answer in choices else None


def _schema(choices: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(choices)}},
        "required": ["answer"],
        "additionalProperties": False,
    }


def _json_schema(choices: Sequence[str]) -> dict[str, Any]:
    named = {"name": "answer", "strict": True, "schema": _schema(choices)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


CHOICE = Way("choice", lambda choices: {"extra_body": {"structured_outputs": {"choice": list(choices)}}}, _bare)
GUIDED = Way("guided", lambda choices: {"extra_body": {"guided_choice": list(choices)}}, _bare)
JSON_SCHEMA = Way("json_schema", _json_schema, _object, room=64)
JSON_OBJECT = Way(
    "json_object",
    lambda choices: {"response_format": {"type": "json_object", "schema": _schema(choices)}},
    _object,
    room=64,
)


class Holding:
    """The ways that a server may take; it forgets those that it does not.

    Args:
        name: what warnings call the endpoint.
        ways: the first one is tried first.
    """

    def __init__(self, name: str, ways: Sequence[Way]) -> None:
        self._name, self._ways = name, list(ways)
        self._trying = asyncio.Lock()
        self._known = False

    async def answer(self, choices: Sequence[str], ask: Callable[[Way | None], Awaitable[Answer]]) -> Answer:
        """An answer that is held to `choices`, or else one in the LLM's own words.

        Args:
            choices: the legal answers.
            ask: sends the request in that way; None is no way.
        """
        if not self._known:
            # Until it is known what the server takes, one request at a time finds out.
            async with self._trying:
                if not self._known:
                    return await self._answer(choices, ask, list(self._ways))
        return await self._answer(choices, ask, list(self._ways))

    async def _answer(
        self, choices: Sequence[str], ask: Callable[[Way | None], Awaitable[Answer]], ways: Sequence[Way]
    ) -> Answer:
        if not ways:
            answer = await ask(None)
            self._known = True
            return answer
        way, *others = ways
        try:
            answer = await ask(way)
        except EndpointError as error:
            if not self._refused(error):
                raise
            # Where the request itself is at fault, it is refused in any way, and nothing is known of this one.
            answer = await self._answer(choices, ask, others)
            self._drop([way], "refuses")
            return answer
        held = way.read(answer.text, choices)
        if held is not None:
            self._known = True
            return replace(answer, text=held, mode="constrained")
        if answer.finish != "stop" or not answer.text:
            return answer
        if way in (CHOICE, GUIDED):  # a server passes over fields that it does not know
            self._drop([way], "ignores")
            return await self._answer(choices, ask, others)
        self._drop(self._ways, "ignores")
        self._known = True
        return answer

    def _refused(self, error: EndpointError) -> bool:
        """Whether a refusal may be that of the way; llama-cpp-python refuses fields with a 500."""
        if self._known or error.status is None or error.status in _NEVER_OF_THE_WAY:
            return False
        if _OF_THE_WAY.search(str(error.__cause__ or error)):
            return True
        return error.status in (400, 422) and not of_the_request(error, _OF_THE_WAY)

    def _drop(self, ways: Sequence[Way], does: str) -> None:
        """Forget ways that the server does not take, and say so of the first one."""
        names = [way.name for way in ways if way in self._ways][:1]
        self._ways = [way for way in self._ways if way not in ways]
        if names:
            then = f"it is asked by {self._ways[0].name!r}" if self._ways else "its answers are read"
            warnings.warn(
                f"{self._name} {does} the constraint {names[0]!r}: from now on {then}", PersonaWarning, stacklevel=2
            )


def of_the_request(error: EndpointError, words: re.Pattern[str]) -> bool:
    """Whether a refusal is for the sake of what is asked, and names none of the `words` of the way to ask."""
    said = str(error.__cause__ or error)
    return bool(_OF_THE_REQUEST.search(said)) and not words.search(said)
