"""Conversations as users give them, and as one text."""

from __future__ import annotations

from typing import Any

import pytest

from persona.errors import InvalidOptionError
from persona.llm.chat.messages import check_turns, conversation, system_and_turns, transcript, without_oldest
from persona.protocols import Message

SYSTEM, HI, HELLO = Message("system", "Be brief."), Message("user", "Hi."), Message("assistant", "Hello!")


def test_a_text_and_messages_of_any_kind_become_turns_and_a_prompt() -> None:
    assert conversation("Tea?") == ((), "Tea?")
    as_dicts: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i."}], "name": "ana"},
        HELLO,
        {"role": "user", "content": "Tea?"},
    ]
    assert conversation(as_dicts) == ((SYSTEM, HI, HELLO), "Tea?")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, "a prompt must be a string, or a list of messages, was: int"),
        ([], "a prompt must be a string, or a list of messages, was: list"),
        (["Tea?"], "message 1 must be a `Message`, or have `role` and `content`, was: 'Tea"),
        ([{"role": "user"}], "message 1 must be a `Message`, or have"),
        ([{"role": "tool", "content": "7"}], "message 1 must be of the role system, user, assistant, was: 'tool'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "the content of message 1 must be text, was: "),
        ([{"role": "user", "content": None}], "the content of message 1 must be text, was: None"),
        ([HI, HELLO], "the last message is the one to answer and must be the user's, was: assistant's"),
        ([HI, SYSTEM, HI], "a system message must be the first one, was number 2"),
    ],
)
def test_anything_else_is_refused_in_one_line(given: object, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said) as caught:
        conversation(given)
    assert "\n" not in str(caught.value)


def test_turns_must_be_messages() -> None:
    with pytest.raises(
        InvalidOptionError, match=r"a turn must be a `Message` of text, was: \('user', 'Hi'\) \(request 3\)"
    ):
        check_turns([("user", "Hi")], " (request 3)")  # type: ignore[list-item]


def test_system_texts_are_joined() -> None:
    assert system_and_turns("Rule.", [SYSTEM, HI]) == ("Rule.\n\nBe brief.", (HI,))
    assert system_and_turns(None, [HI]) == (None, (HI,))
    assert system_and_turns("", [SYSTEM]) == ("Be brief.", ())


def test_a_conversation_as_one_text() -> None:
    assert transcript((), "Tea?") == "Tea?"
    assert transcript((SYSTEM,), "Tea?") == "Be brief.\n\nTea?"
    whole = "Be brief.\n\nUser: Hi.\n\nAssistant: Hello!\n\nUser: Tea?\n\nAssistant:"
    assert transcript((SYSTEM, HI, HELLO), "Tea?") == whole


def test_the_oldest_exchange_goes_as_a_whole() -> None:
    other = Message("user", "And you?")
    assert without_oldest((SYSTEM, HI, HELLO, HELLO, other)) == (SYSTEM, other)
    assert without_oldest((SYSTEM, other)) == (SYSTEM,)
    assert without_oldest((HELLO, HI)) == (HI,)
    assert without_oldest((SYSTEM,)) is without_oldest(()) is None
