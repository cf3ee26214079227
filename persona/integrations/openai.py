"""OpenAI's client that knows its user: `persona.wrap(OpenAI())`.

    client = persona.wrap(OpenAI(), "sqlite:///persona.db")
    client.chat.completions.create(model="gpt-...", messages=[...], user="ana")

What is known of the user goes into ``chat.completions.create`` and its like (``parse``, ``stream``, the raw and the
streaming responses); everything else is the client's own. The user is the argument ``user`` or the one whom the wrapper
is bound to; a call that names none is sent as it is. The wrapped client itself is not changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from persona.assembly import PersonalizationOptions
from persona.errors import InvalidOptionError, needed
from persona.integrations.personal import Personal, PersonalPart, last_said, one_user
from persona.records import check_user_id
from persona.store.profile_store import ProfileStore

C = TypeVar("C")

_INNER = frozenset({"chat", "completions", "with_raw_response", "with_streaming_response"})
_COPIES = frozenset({"with_options", "copy"})
_CALLS = frozenset({"create", "parse", "stream"})
_SYSTEM = ("system", "developer")


def wrap(
    client: C,
    store: ProfileStore | str | None = None,
    *,
    user_id: str | None = None,
    remember: bool = False,
    options: PersonalizationOptions | None = None,
    **changes: Any,
) -> C:
    """`client` with what is known of the user in its chat requests.

    Args:
        client: an `openai.OpenAI` or `openai.AsyncOpenAI`, for whatever endpoint.
        store: holds the users' records; or its URL, or None for that of the setting `PERSONA_STORE`.
        user_id: whom all requests are of; a request that names another is refused. None: each names its own, or none.
        remember: keep what the user says in the conversations, as records.
        options: what is put in; None takes `PersonalizationOptions` with ``placement="system"``.
        **changes: fields of `PersonalizationOptions` by name: ``k=2``, ``retriever="dense"``, ``summary="stats"``, ...

    Returns:
        A wrapper that is used as the client.

    Raises:
        InvalidOptionError: if `client` is no client of the package openai.
        MissingDependencyError: if that is not installed.
        PersonaError: as `persona.integrations.personal.Personal`.
    """
    with needed("openai"):
        from openai import AsyncOpenAI, OpenAI
    if not isinstance(client, OpenAI | AsyncOpenAI):
        raise InvalidOptionError(f"a client must be an OpenAI or AsyncOpenAI, was: {client!r:.80}")
    user = None if user_id is None else check_user_id(user_id)
    settings = _Settings(Personal(store, options, **changes), user, remember, isinstance(client, AsyncOpenAI))
    return cast(C, _Wrapped(client, settings))


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a wrapper hands on to its parts."""

    personal: Personal
    user_id: str | None
    remember: bool
    is_async: bool

    def prepared(self, arguments: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], list[Any]]:
        """The user of a call, its arguments with what is known of them, and what the user said last."""
        named = arguments.get("user")
        user_id = one_user({"the client": self.user_id, "`user`": named if isinstance(named, str) else None})
        if user_id is None or "messages" not in arguments:
            return None, dict(arguments), []
        messages = list(arguments["messages"])
        said = [_content(messages[place]) for place in last_said(list(map(_role, messages)), "user")]
        return user_id, {**arguments, "messages": _personal_messages(self.personal, user_id, messages)}, said

    def done(self, user_id: str | None, said: Sequence[Any]) -> None:
        """Remember what the user said, if that is wanted."""
        if self.remember and user_id is not None:
            self.personal.remember(user_id, said)


class _Wrapped:
    """A client, or a part of one, whose chat requests are personal; all else is its own."""

    def __init__(self, inner: Any, settings: _Settings, path: tuple[str, ...] = ()) -> None:
        self._inner, self._settings, self._path = inner, settings, path

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in _INNER:
            return _Wrapped(value, self._settings, (*self._path, name))
        if name in _COPIES:
            return lambda *args, **kwargs: _Wrapped(value(*args, **kwargs), self._settings)
        if name in _CALLS and {"chat", "completions"} <= set(self._path):
            awaited = self._settings.is_async and name != "stream" and "with_streaming_response" not in self._path
            return _awaited(value, self._settings) if awaited else _called(value, self._settings)
        return value

    def __repr__(self) -> str:
        return f"persona.wrap({self._inner!r})"

    def __enter__(self) -> Any:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)


def _called(method: Any, settings: _Settings) -> Any:
    def call(**arguments: Any) -> Any:
        user_id, personal, said = settings.prepared(arguments)
        answer = method(**personal)
        settings.done(user_id, said)
        return answer

    return call


def _awaited(method: Any, settings: _Settings) -> Any:
    async def call(**arguments: Any) -> Any:
        user_id, personal, said = await asyncio.to_thread(settings.prepared, arguments)
        answer = await method(**personal)
        await asyncio.to_thread(settings.done, user_id, said)
        return answer

    return call


def _personal_messages(personal: Personal, user_id: str, messages: Sequence[Any]) -> list[Any]:
    """`messages` with what is known of the user; those that nothing is added to are the same objects."""
    roles = list(map(_role, messages))
    place = last_said(roles, "user").stop - 1
    said = [_content(each) for each, role in zip(messages, roles, strict=True) if role == "user"]
    part = None if place < 0 else personal.part(user_id, _content(messages[place]), said)
    if part is None:
        return list(messages)
    asking = {**messages[place], "content": part.with_prompt(messages[place]["content"])}
    system, rest = _system_and_rest([*messages[:place], asking, *messages[place + 1 :]], part)
    return [*system, *({"role": turn.role, "content": turn.content} for turn in part.turns), *rest]


def _system_and_rest(messages: list[Any], part: PersonalPart) -> tuple[list[Any], list[Any]]:
    """The system's turns at the beginning, with what belongs there, and the other messages."""
    end = next((place for place, message in enumerate(messages) if _role(message) not in _SYSTEM), len(messages))
    system, rest = messages[:end], messages[end:]
    if part.system:
        own = system.pop() if system else {"role": "system", "content": None}
        system.append({**own, "content": part.with_system(own["content"])})
    return system, rest


def _role(message: Any) -> str:
    """Messages are mappings, or objects such as an answer that goes back into the conversation."""
    return str(message.get("role") if isinstance(message, Mapping) else getattr(message, "role", ""))


def _content(message: Any) -> Any:
    return message.get("content") if isinstance(message, Mapping) else getattr(message, "content", None)
