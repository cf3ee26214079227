"""A request as it came, with what is personal put into it; everything else of it stays as it is.

What is personal was made by `Personalizer.prepare`. Here it finds its place among fields that persona does not know:
images beside the text, calls of tools and their results, turns of any roles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from persona.llm.chat.content import text_of, with_text, with_texts_around
from persona.llm.chat.messages import joined
from persona.llm.endpoint.options import EndpointOptions
from persona.llm.endpoint.wire import completion
from persona.protocols import Message, Request

_SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The turn of a conversation that is answered, and the turns before it that are text.

    Attributes:
        index: of the turn in the conversation.
        text: its text; that of several parts is joined.
        turns: the user's and the assistant's turns before it, as far as they are text.
    """

    index: int
    text: str
    turns: tuple[Message, ...]


def asked_of(messages: list[dict[str, Any]]) -> Asked | None:
    """The last turn of the user that has text; None if there is none.

    Results of tools may stand behind it: with every step of an agent the same turn is asked again.
    """
    for index in range(len(messages) - 1, -1, -1):
        text = text_of(messages[index].get("content"))
        if messages[index].get("role") == "user" and text.strip():
            before = [(each.get("role"), text_of(each.get("content"))) for each in messages[:index]]
            turns = [Message(role, said) for role, said in before if role in ("user", "assistant") and said]
            return Asked(index, text, tuple(turns))
    return None


def placed(messages: list[dict[str, Any]], asked: Asked, request: Request, options: EndpointOptions) -> list[Any]:
    """The conversation with what is personal in it.

    Args:
        messages: as they came.
        asked: the turn that is answered.
        request: that turn, made personal; turns about the user stand before those of `asked`.
        options: the system text that stands before everything, and where a soft prompt stands.
    """
    personal = request.turns[: len(request.turns) - len(asked.turns)]
    turns = [dict(each) for each in messages]
    turns[asked.index]["content"] = with_text(turns[asked.index]["content"], asked.text, request.prompt)
    about = joined(*(turn.content for turn in personal if turn.role == "system"))
    own = bool(turns) and turns[0].get("role") in _SYSTEM
    if about or options.system is not None:
        if not own:
            turns.insert(0, {"role": "system", "content": ""})
            own = True
        turns[0]["content"] = with_texts_around(turns[0]["content"], options.system, about)
    turns[int(own) : int(own)] = [
        {"role": turn.role, "content": turn.content} for turn in personal if turn.role != "system"
    ]
    if request.soft_prompt is not None:
        from persona.llm.inputs import message_parts

        first = options.soft_prompt == "before" or options.system is None
        parts: list[Any] = message_parts(request.soft_prompt, "")[:1]
        given = turns[0]["content"]
        given = [{"type": "text", "text": given}] if isinstance(given, str) else list(given or [])
        turns[0]["content"] = parts + given if first else given + parts
    return turns


def placed_completion(request: Request, options: EndpointOptions) -> dict[str, Any]:
    """The prompt's fields of a completion."""
    fields = completion(request, options)
    return {**fields, **fields.pop("extra_body", {})}
