"""Conversations as users give them, and as one text for LLMs that know no turns.

>>> talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
>>> turns, prompt = conversation([*talk, Message("user", "Tea or coffee?")])
>>> prompt, [turn.role for turn in turns]
('Tea or coffee?', ['user', 'assistant'])
>>> print(transcript(turns, prompt))
User: Hi.
<BLANKLINE>
Assistant: Hello!
<BLANKLINE>
User: Tea or coffee?
<BLANKLINE>
Assistant:
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast, get_args

from persona.errors import InvalidOptionError
from persona.protocols import Message, Role

Conversation: TypeAlias = str | Sequence[Message | Mapping[str, Any]]
"""A prompt, or the turns of a conversation that ends in one."""

_NAMES = {"user": "User", "assistant": "Assistant"}


def conversation(given: object) -> tuple[tuple[Message, ...], str]:
    """The turns before the last one, and the last one, which is the user's: the prompt.

    Args:
        given: a text, or turns: `Message` or mappings with ``role`` and ``content``, as OpenAI's clients take them. A
            content is text, or a list of parts of the type ``text``.

    Raises:
        InvalidOptionError: if it is none of these, the last turn is not the user's, or a system turn is not the first.
    """
    if isinstance(given, str):
        return (), given
    if not isinstance(given, Sequence) or isinstance(given, bytes) or not given:
        kind = type(given).__name__
        raise InvalidOptionError(f"a prompt must be a string, or a list of messages, was: {kind} ({given!r:.80})")
    *before, last = (_message(each, index) for index, each in enumerate(given))
    if last.role != "user":
        raise InvalidOptionError(f"the last message is the one to answer and must be the user's, was: {last.role}'s")
    turns = tuple(before)
    check_turns(turns)
    return turns, last.content


def check_turns(turns: Sequence[Message], where: str = "") -> None:
    """Refuse turns that no LLM can take; `where` says whose they are.

    Raises:
        InvalidOptionError: if one is no `Message` of a known role, or a system turn is not the first.
    """
    for index, turn in enumerate(turns):
        if not isinstance(turn, Message) or turn.role not in get_args(Role) or not isinstance(turn.content, str):
            raise InvalidOptionError(f"a turn must be a `Message` of text, was: {turn!r:.80}{where}")
        if turn.role == "system" and index:
            raise InvalidOptionError(f"a system message must be the first one, was number {index + 1}{where}")


def system_and_turns(system: str | None, turns: Sequence[Message]) -> tuple[str | None, tuple[Message, ...]]:
    """The text of the system's turn, and the turns after it.

    Args:
        system: a text that stands before the conversation's own system text; None for none.
        turns: the conversation.
    """
    if not turns or turns[0].role != "system":
        return system, tuple(turns)
    return joined(system, turns[0].content), tuple(turns[1:])


def with_personal_turns(turns: Sequence[Message], personal: Sequence[Message]) -> tuple[Message, ...]:
    """The turns of a conversation with those about its user before them; its own system text is the first one."""
    own, turns = system_and_turns(None, turns)
    system, before = system_and_turns(own, personal)
    return (*([] if system is None else [Message("system", system)]), *before, *turns)


def without_oldest(turns: Sequence[Message]) -> tuple[Message, ...] | None:
    """`turns` without the user's first turn and what was answered to it; None if there are none but the system's."""
    system = [turn for turn in turns[:1] if turn.role == "system"]
    rest = turns[len(system) :]
    if not rest:
        return None
    next_turn = next((index for index, turn in enumerate(rest) if index and turn.role == "user"), len(rest))
    return (*system, *rest[next_turn:])


def joined(*texts: str | None) -> str:
    """Texts with a blank line between them; empty ones and None are left out."""
    return "\n\n".join(filter(None, texts))


def transcript(turns: Sequence[Message], prompt: str) -> str:
    """A conversation as one text, the assistant's turn opened; `prompt` alone where no turns are before it.

    A system text stands before everything else.
    """
    system, turns = system_and_turns(None, turns)
    if turns:
        lines = [f"{_NAMES[turn.role]}: {turn.content}" for turn in (*turns, Message("user", prompt))]
        prompt = "\n\n".join([*lines, f"{_NAMES['assistant']}:"])
    return joined(system, prompt)


def _message(given: object, index: int) -> Message:
    if isinstance(given, Message):
        return given
    where = f"message {index + 1}"
    if not isinstance(given, Mapping) or not {"role", "content"} <= set(given):
        raise InvalidOptionError(f"{where} must be a `Message`, or have `role` and `content`, was: {given!r:.80}")
    role = "system" if given["role"] == "developer" else given["role"]
    if role not in get_args(Role):
        raise InvalidOptionError(f"{where} must be of the role {', '.join(get_args(Role))}, was: {given['role']!r:.80}")
    return Message(cast(Role, role), _text(given["content"], where))


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    known = [text for text in texts if isinstance(text, str)]
    if len(known) < len(texts):
        raise InvalidOptionError(f"the content of {where} must be text, was: {content!r:.80}")
    return "".join(known)
