"""A tokenizer's chat template: what it takes is found by rendering a few conversations when the LLM is loaded.

==============================  =====================================================================================
the template                    what is done
==============================  =====================================================================================
takes content as parts only     each text becomes one part of the type ``text``
refuses a system turn           the system text stands before the first user turn
demands a system turn           it gets an empty one where there is no system text, or the LLM is refused
raises, or drops the prompt     the LLM is refused when it is loaded
takes no earlier turns          a request with turns is refused
opens a part for thinking       an answer begins inside it (`persona.llm.answers.text`)
==============================  =====================================================================================

Texts that others wrote (records, earlier turns) never become control tokens: those in a message stay text, and open no
turn of their own. Before anything is asked each conversation is rendered and must show the texts that were given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from persona.errors import InvalidOptionError, ModelLoadError, reason
from persona.llm.answers.text import opened_thinking
from persona.llm.chat.messages import joined, system_and_turns
from persona.protocols import Message

Chat: TypeAlias = tuple[Sequence[Message], str]
"""The turns of a conversation, and the prompt after them."""

_SYSTEM = Message("system", "Answer with one number only")
_ASKED = Message("user", "What is three plus four")
_ANSWERED = Message("assistant", "It is seven")
_ASKED_NEXT = Message("user", "And what is nine minus two")
_HINT = "load the LLM with chat_template='off', or give its tokenizer another template"


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: one that has a template.
        system: text of the system's turn, before that of a conversation's own; None for the template's default.
        arguments: the template's own, such as ``{"enable_thinking": False}``.

    Attributes:
        turn_tokens: tokens that a turn takes besides those of its text.
        thinking_end: what ends the part for thinking that the template opens for an answer; None if it opens none.

    Raises:
        ModelLoadError: if the template shows no prompt, or demands a system text and there is none.
        InvalidOptionError: if an argument is none of the template's.
    """

    def __init__(self, tokenizer: Any, system: str | None, arguments: Mapping[str, object]) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._arguments = dict(arguments)
        self._check_arguments()
        self._in_parts = self._takes_system = False
        refusals = {parts: self._refusals(parts) for parts in (False, True)}
        fitting = next((parts for parts, (plain, own) in refusals.items() if plain is None or own is None), None)
        if fitting is None:
            raise ModelLoadError(f"the chat template cannot be used, it {refusals[False][0]}: {_HINT}")
        plain, own = refusals[fitting]
        self._in_parts, self._takes_system = fitting, own is None
        if plain is not None and system is None:
            self._system = ""
            if (refusal := self._refusal([], _ASKED.content)) is not None:
                raise ModelLoadError(
                    f"the chat template demands a system text, it {refusal}: load the LLM with system='...'"
                )
        self._no_turns = self._refusal([_ASKED, _ANSWERED], _ASKED_NEXT.content)
        self.turn_tokens = self._turn_tokens()
        self.thinking_end = opened_thinking(self._rendered(self._messages([], _ASKED.content)))

    @property
    def settings(self) -> dict[str, object]:
        """What decides the tokens of a conversation besides its turns; a template may also write today's date."""
        return {
            "chat_template": self._tokenizer.chat_template,
            "chat_template_kwargs": self._arguments,
            "system": self._system,
            "rendered": self._rendered(self._messages([], _ASKED.content)),
        }

    def encode(self, chats: Sequence[Chat]) -> list[list[int]]:
        """Token ids of conversations, each with its earlier turns and its prompt; the assistant's turn is opened.

        Raises:
            InvalidOptionError: if the template takes no earlier turns, refuses these, or drops one of them.
        """
        for index, (turns, prompt) in enumerate(chats):
            if self._no_turns is not None and any(turn.role != "system" for turn in turns):
                raise InvalidOptionError(f"the LLM's chat template takes no earlier turns, it {self._no_turns}")
            if (refusal := self._refusal(turns, prompt)) is not None:
                raise InvalidOptionError(f"the LLM's chat template {refusal} (prompt {index})")
        try:
            encoded: list[list[int]] = self._tokenizer.apply_chat_template(
                [self._messages(turns, prompt) for turns, prompt in chats],
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                tokenizer_kwargs={"verbose": False},
                **self._arguments,
            )["input_ids"]
        except ValueError as error:  # a tokenizer that cannot read a control token as text
            raise InvalidOptionError(f"a prompt cannot be a turn of the chat: {reason(error)}") from error
        return encoded

    def _turn_tokens(self) -> int:
        """Half of what a question and its answer take, rounded up; 0 where no earlier turns are taken."""
        if self._no_turns is not None:
            return 0
        with_turns, alone = self.encode([((_ASKED, _ANSWERED), _ASKED_NEXT.content), ((), _ASKED_NEXT.content)])
        texts = [self._tokenizer(turn.content, add_special_tokens=False)["input_ids"] for turn in (_ASKED, _ANSWERED)]
        return max(0, len(with_turns) - len(alone) - sum(map(len, texts)) + 1) // 2

    def _check_arguments(self) -> None:
        text = str(self._tokenizer.chat_template)
        for name in self._arguments:
            if name in ("messages", "add_generation_prompt") or not re.search(rf"\b{re.escape(name)}\b", text):
                raise InvalidOptionError(
                    f"`chat_template_kwargs` must be variables of the LLM's chat template, which has no {name!r}"
                )

    def _refusals(self, parts: bool) -> tuple[str | None, str | None]:
        """What is wrong with a user turn alone, and with one after a system turn."""
        self._in_parts = parts
        return self._flaw([_ASKED]), self._flaw([_SYSTEM, _ASKED])

    def _refusal(self, turns: Sequence[Message], prompt: str) -> str | None:
        """What is wrong with a conversation, None if nothing is."""
        return self._flaw(self._turns(turns, prompt))

    def _flaw(self, turns: Sequence[Message]) -> str | None:
        try:
            rendered = _squeezed(self._rendered(self._as_messages(turns)))
        except Exception as error:  # templates are programs of others, and fail with whatever they like
            return f"fails with {reason(error)}"
        for turn in turns:
            # Of earlier answers templates may leave something out, such as their thinking.
            if turn.role != "assistant" and _squeezed(turn.content) not in rendered:
                return f"does not show what the {turn.role}'s turn says"
        return "shows the parts of a content as they are" if "{'type'" in rendered else None

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._arguments
        )
        return rendered

    def _messages(self, turns: Sequence[Message], prompt: str) -> list[dict[str, Any]]:
        return self._as_messages(self._turns(turns, prompt))

    def _turns(self, turns: Sequence[Message], prompt: str) -> list[Message]:
        """All turns of a conversation, its system text where the template takes it."""
        system, turns = system_and_turns(self._system, turns)
        whole = [*turns, Message("user", prompt)]
        if system is None:
            return whole
        if self._takes_system:
            return [Message("system", system), *whole]
        first = next(index for index, turn in enumerate(whole) if turn.role == "user")
        whole[first] = Message("user", joined(system, whole[first].content))
        return whole

    def _as_messages(self, turns: Sequence[Message]) -> list[dict[str, Any]]:
        return [
            {"role": turn.role, "content": [{"type": "text", "text": turn.content}] if self._in_parts else turn.content}
            for turn in turns
        ]


def _squeezed(text: str) -> str:
    """`text` without white space, which templates may trim."""
    return "".join(text.split())
