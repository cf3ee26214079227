"""Agents of LangChain that know their user: `PersonalMiddleware`.

    agent = create_agent(model, tools, middleware=[PersonalMiddleware("sqlite:///persona.db", remember=True)])
    agent.invoke({"messages": [...]}, config={"configurable": {"user_id": "ana"}})

What is known of the user goes into each request to the model (by default at the end of the system's turn), and nowhere
else: neither the agent's state nor its checkpoints hold it. The user comes from the run: ``user_id`` in its context (a
mapping or an object) or in the config's ``configurable``. A run that names none, or two, fails: there is no default
user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from persona.assembly import PersonalizationOptions
from persona.errors import InvalidUserIdError, needed
from persona.integrations.personal import Personal, last_said, one_user
from persona.store.profile_store import ProfileStore

with needed("langchain"):
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest
    from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage
    from langgraph.config import get_config
    from langgraph.runtime import Runtime


class PersonalMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Puts what is known of the user into an agent's requests to its model.

    Args:
        store: holds the users' records; or its URL, or None for that of the setting `PERSONA_STORE`.
        remember: after a run keep what the user said in it, as records.
        options: what is put in; None takes `PersonalizationOptions` with ``placement="system"``.
        **changes: fields of `PersonalizationOptions` by name: ``k=2``, ``retriever="dense"``, ``summary="stats"``, ...

    Raises:
        PersonaError: as `persona.integrations.personal.Personal`.
    """

    def __init__(
        self,
        store: ProfileStore | str | None = None,
        *,
        remember: bool = False,
        options: PersonalizationOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        self._personal = Personal(store, options, **changes)
        self._remember = remember

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        """Ask the model with what is known of the user.

        Raises:
            InvalidUserIdError: if the run names no user, or two.
        """
        return handler(self._with_user(request, _user(request.runtime)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> Any:
        """`wrap_model_call` for an event loop, which it does not block."""
        return await handler(await asyncio.to_thread(self._with_user, request, _user(request.runtime)))

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Remember what the user said last, if that is wanted."""
        if self._remember:
            self._remembered(state, _user(runtime))

    async def aafter_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """`after_agent` for an event loop, which it does not block."""
        if self._remember:
            await asyncio.to_thread(self._remembered, state, _user(runtime))

    def _remembered(self, state: AgentState[Any], user_id: str) -> None:
        messages = state["messages"]
        said = [_content(messages[place]) for place in last_said([each.type for each in messages], "human")]
        self._personal.remember(user_id, said)

    def _with_user(self, request: ModelRequest[Any], user_id: str) -> ModelRequest[Any]:
        messages = list(request.messages)
        place = last_said([each.type for each in messages], "human").stop - 1
        said = [_content(each) for each in messages if each.type == "human"]
        part = None if place < 0 else self._personal.part(user_id, _content(messages[place]), said)
        if part is None:
            return request
        content = part.with_prompt(_content(messages[place]))
        messages[place] = messages[place].model_copy(update={"content": content})
        turns: list[AnyMessage] = [
            HumanMessage(turn.content) if turn.role == "user" else AIMessage(turn.content) for turn in part.turns
        ]
        own = request.system_message
        content = part.with_system(None if own is None else _content(own))
        system = own if content is None else (own or SystemMessage("")).model_copy(update={"content": content})
        return request.override(messages=[*turns, *messages], system_message=system)


def _content(message: BaseMessage) -> Any:
    """A text, or parts in OpenAI's form; LangChain's may be plain strings."""
    if isinstance(message.content, str):
        return message.content
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in message.content]


def _user(runtime: Runtime[Any]) -> str:
    """The user of a run."""
    context = runtime.context
    in_context = context.get("user_id") if isinstance(context, Mapping) else getattr(context, "user_id", None)
    in_config = get_config().get("configurable", {}).get("user_id")
    user_id = one_user({"context": in_context, "config": in_config})
    if user_id is None:
        raise InvalidUserIdError(
            'no user is named: give context={"user_id": ...} or config={"configurable": {"user_id": ...}}'
        )
    return user_id
