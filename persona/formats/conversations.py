"""Conversations with an assistant become rows: a turn each, those of the user alone unless others are asked for.

========  ============================================================================================================
messages  ``{"messages": [{"role": "user", "content": "Hi."}, ...], "user_id": "ada"}``, one a line or in an array
chatgpt   OpenAI's export: a tree of messages (``mapping``), of which the path to ``current_node`` is read
claude    Anthropic's export: ``chat_messages``, of which the path to the last one is read where there are branches
========  ============================================================================================================

>>> turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
>>> talk = {"user_id": "ada", "messages": turns}
>>> [row["text"] for _, row in turns_of(talk, "messages", Whose(roles=("user", "assistant")))]
['Hi.', 'Hello!']

An export does not say whose it is: the user is named when it is read (`Whose`). Hidden messages, calls of tools and
what is no text (images, files) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from persona.errors import DataFormatError, InvalidOptionError
from persona.formats.fields import check_present, described, id_text, listed
from persona.records import check_user_id

Row: TypeAlias = dict[str, object]

KINDS = MESSAGES, CHATGPT, CLAUDE = ("messages", "chatgpt", "claude")
"""The forms of conversations."""

ROLES = ("user", "assistant", "system")
"""Whose turns may be asked for."""

_MARKS = {MESSAGES: "messages", CHATGPT: "mapping", CLAUDE: "chat_messages"}
_FIELDS = ("messages", "user_id", "conversation_id", "time", "title")
_SENDERS = {"human": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose conversations are read, and which of their turns.

    Attributes:
        user_id: who talks to the assistant, where the conversations do not say it.
        roles: whose turns become records, of `ROLES`.

    Raises:
        InvalidUserIdError: if `user_id` is not a legal id.
        InvalidOptionError: if there is no such role.
    """

    user_id: str | None = None
    roles: tuple[str, ...] = ("user",)

    def __post_init__(self) -> None:
        if self.user_id is not None:
            check_user_id(self.user_id)
        if not self.roles or not set(self.roles) <= set(ROLES):
            raise InvalidOptionError(f"`roles` must be of {', '.join(ROLES)}, were: {', '.join(self.roles) or 'none'}")


def kind_of(value: object) -> str | None:
    """The form of a conversation, one of `KINDS`; None for what is none."""
    return next((kind for kind, mark in _MARKS.items() if isinstance(value, Mapping) and mark in value), None)


def turns_of(value: object, kind: str, whose: Whose) -> Iterator[tuple[str, Row]]:
    """The turns of a conversation, oldest first, as rows (`persona.formats.rows`), each with its place in it.

    Raises:
        DataFormatError: if it is of another form, or nobody says whose it is.
    """
    if not isinstance(value, Mapping):
        raise DataFormatError(f"a conversation must be a JSON object, was: {described(value)}")
    check_present(value, [_MARKS[kind]], "a conversation")
    user_id = _user_of(value, kind, whose)
    conversation = _first(value, ("conversation_id", "id", "uuid"), "conversation_id")
    title = _first(value, ("title", "name"), "title")
    about = {name: text for name, text in (("conversation", conversation), ("title", title)) if text}
    for place, turn in _READERS[kind](value, whose.roles):
        own = turn.pop("id", None)
        named = f"{conversation}:{own}" if own and conversation else own
        yield place, {"user_id": user_id, "id": named, "metadata": about, **turn}


def _user_of(conversation: Mapping[str, Any], kind: str, whose: Whose) -> object:
    given = conversation.get("user_id") if kind == MESSAGES else None
    if given is None and whose.user_id is None:
        raise DataFormatError("nobody says whose conversation this is: name the user (--user, in Python `user_id=`)")
    if given is not None and whose.user_id is not None and id_text(given, "user_id") != whose.user_id:
        raise DataFormatError(f"the conversation is of {given!r:.80}, and was to be of {whose.user_id!r:.80}")
    return whose.user_id if given is None else given


def _first(value: Mapping[str, Any], names: tuple[str, ...], what: str) -> str | None:
    found = next((value[name] for name in names if value.get(name)), None)
    return None if found is None else id_text(found, what)


def _of_messages(value: Mapping[str, Any], roles: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    surplus = [name for name in value if name not in _FIELDS]
    if surplus:
        raise DataFormatError(f"a conversation may have {', '.join(_FIELDS)}, and has {listed(surplus)}")
    for number, message in enumerate(_listed(value["messages"], "messages"), start=1):
        place = f"message {number}"
        role = _role(message, place)
        if role in roles:
            time = message.get("time") or value.get("time")
            row = {"text": _content(message.get("content"), place), "role": role, "speaker": message.get("name")}
            yield place, {**row, "time": time, "id": message.get("id")}


def _role(message: object, place: str) -> str:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise DataFormatError(f"{place} must be an object with a `role`, was: {described(message)}")
    return "system" if message["role"] == "developer" else str(message["role"])


def _content(content: object, place: str) -> str:
    """The text of a content: itself, or that of its parts of the type ``text``."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise DataFormatError(f"the content of {place} must be text or a list of parts, was: {described(content)}")
    return "\n".join(text for part in content if (text := _text_of(part)))


def _text_of(part: object) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
    return text if isinstance(text, str) else ""


def _of_chatgpt(value: Mapping[str, Any], roles: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    nodes = value["mapping"]
    if not isinstance(nodes, Mapping) or not all(isinstance(node, Mapping) for node in nodes.values()):
        raise DataFormatError(f"`mapping` must be an object of nodes, was: {described(nodes)}")
    for node in _path(nodes, value.get("current_node") or _last_leaf(nodes), "parent"):
        message = nodes[node].get("message")
        if message is None:
            continue
        place = f"message {node!s:.80}"
        author = message.get("author") if isinstance(message, Mapping) else None
        role = _role(author, place)
        text = _shown(message) if role in roles else None
        if text is not None:
            seconds = message.get("create_time") or value.get("create_time")
            name = author.get("name") if isinstance(author, Mapping) else None
            yield place, {"text": text, "role": role, "speaker": name, "time": _moment(seconds), "id": node}


def _shown(message: Mapping[str, Any]) -> str | None:
    """The text of a message that its user saw in the conversation; None for what was hidden or for a tool."""
    content, metadata = message.get("content"), message.get("metadata")
    hidden = isinstance(metadata, Mapping) and metadata.get("is_visually_hidden_from_conversation")
    if hidden or message.get("recipient", "all") != "all" or not isinstance(content, Mapping):
        return None
    if content.get("content_type") not in ("text", "multimodal_text"):
        return None
    # A part that was spoken is an object with the text that was heard.
    parts = (part.get("text") if isinstance(part, Mapping) else part for part in content.get("parts") or ())
    return "\n".join(part for part in parts if isinstance(part, str))


def _last_leaf(nodes: Mapping[str, Any]) -> str | None:
    """The latest node that nothing follows; None if there is no node."""

    def time(node: str) -> float:
        message = nodes[node].get("message")
        seconds = message.get("create_time") if isinstance(message, Mapping) else None
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    return max((node for node in nodes if not nodes[node].get("children")), key=time, default=None)


def _of_claude(value: Mapping[str, Any], roles: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    messages = _listed(value["chat_messages"], "chat_messages")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise DataFormatError(f"message {number} must be an object, was: {described(message)}")
    by_id = {str(message["uuid"]): message for message in messages if message.get("uuid")}
    if messages and len(by_id) == len(messages) and all("parent_message_uuid" in message for message in messages):
        leaf = value.get("current_leaf_message_uuid") or messages[-1]["uuid"]
        messages = [by_id[node] for node in _path(by_id, leaf, "parent_message_uuid")]
    for number, message in enumerate(messages, start=1):
        place = f"message {message.get('uuid') or number!s:.80}"
        role = _SENDERS.get(str(message.get("sender")))
        if role is None:
            raise DataFormatError(f"the sender of {place} must be human or assistant, was: {message.get('sender')!r}")
        if role in roles:
            text = _content(message.get("content"), place)
            text = text if text.strip() else _content(message.get("text"), place)
            time = message.get("created_at") or value.get("created_at")
            yield place, {"text": text, "role": role, "time": time, "id": message.get("uuid")}


def _path(nodes: Mapping[str, Any], leaf: object, parent: str) -> list[str]:
    """The ids of the nodes from the first one to `leaf`, each of which names the one before it in `parent`."""
    path: list[str] = []
    node = leaf
    while isinstance(node, str) and node in nodes:
        path.append(node)
        if len(path) > len(nodes):
            raise DataFormatError(f"the messages must be a tree, {node!r:.80} comes before itself")
        node = nodes[node].get(parent)
    if not path and leaf is not None:
        raise DataFormatError(f"the last message {leaf!r:.80} must be one of the conversation's")
    return path[::-1]


def _moment(seconds: object) -> str | None:
    """Unix seconds as ISO 8601 in UTC."""
    if seconds is None:
        return None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        try:
            return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
        except (ValueError, OverflowError, OSError):
            pass
    raise DataFormatError(f"`create_time` must be Unix seconds, was: {described(seconds)}")


def _listed(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataFormatError(f"`{name}` must be a list, was: {described(value)}")
    return value


_READERS: Mapping[str, Callable[[Mapping[str, Any], tuple[str, ...]], Iterator[tuple[str, Row]]]] = {
    MESSAGES: _of_messages,
    CHATGPT: _of_chatgpt,
    CLAUDE: _of_claude,
}
