"""What judges are asked: kinds of questions about an answer, and the versioned prompts that word them.

A kind says what is to be decided and which verdicts are legal, a prompt how a judge is led to one. What is judged is
quoted: every line of it begins with ``| ``, so that an answer which gives orders, or a verdict on itself, stands as
what it is. The words of a released prompt never change: a better one gets another version.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType

from persona.errors import InvalidOptionError, UnknownPartError

_VERDICT = re.compile(r"^[\s*_#>`\"']*VERDICT[\s*_`]*[:=](.*)$", re.IGNORECASE | re.MULTILINE)
_AROUND = " \t\r\n*_`\"'.!()[]"

YES_NO: Mapping[str, float] = MappingProxyType({"yes": 1.0, "no": 0.0})


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """One thing to be decided about one answer.

    Attributes:
        id: of the question, and of the part of it that is judged.
        kind: a name of `KINDS`.
        question: what was asked.
        gold: the right answer, or empty where there is none.
        answer: what is judged.
        rubric: what the judge is to know besides, by its heading.
    """

    id: str
    kind: str
    question: str
    gold: str
    answer: str
    rubric: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is to be decided about an answer.

    Attributes:
        task: the instruction.
        verdicts: the legal verdicts, lower case, and the value of each, 0 to 1.
    """

    task: str
    verdicts: Mapping[str, float] = field(default_factory=lambda: YES_NO)

    def value(self, reply: str) -> float | None:
        """The value of the verdict in a judge's reply; None where it gives none."""
        word = verdict_in(reply, self.verdicts)
        return None if word is None else self.verdicts[word]


_WORDS = tomllib.loads(resources.files("persona.eval.judging").joinpath("prompts.toml").read_text("utf-8"))

KINDS: Mapping[str, Kind] = MappingProxyType({name: Kind(**given) for name, given in _WORDS["kinds"].items()})
"""Every kind by its name."""


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A way to ask a judge.

    Attributes:
        name: with its version, e.g. ``"reasoned/1"``.
        opening: stands before what is judged.
        closing: stands behind the task; ``{verdicts}`` becomes the legal ones.
    """

    name: str
    opening: str
    closing: str

    def text(self, item: JudgedItem, *, again: bool = False) -> str:
        """The request about an item; `again` for one whose reply had no verdict.

        Raises:
            UnknownPartError: if there is no kind of that name.
        """
        kind = kind_of(item)
        parts = {"Question": item.question, "Reference answer": item.gold, **item.rubric, "Answer": item.answer}
        quoted = [f"{name}:\n{_quoted(text)}" for name, text in parts.items() if text.strip() or name == "Answer"]
        legal = " or ".join(f"VERDICT: {word}" for word in kind.verdicts)
        closing = self.closing.format(verdicts=legal) + (_AGAIN.format(verdicts=legal) if again else "")
        return "\n\n".join([self.opening, *quoted, f"What to decide: {kind.task}", closing])


_AGAIN = " A reply without that line, {verdicts}, cannot be counted."

PROMPTS: Mapping[str, JudgePrompt] = MappingProxyType(
    {name: JudgePrompt(name, **given) for name, given in _WORDS["prompts"].items()}
)
"""Every prompt by its name; the first one is the default."""

DEFAULT_PROMPT = next(iter(PROMPTS))


def judge_prompt(name: str) -> JudgePrompt:
    """The prompt of that name.

    Raises:
        InvalidOptionError: if there is none.
    """
    if name not in PROMPTS:
        raise InvalidOptionError(f"a judge's prompt must be one of {', '.join(PROMPTS)}, was: {name!r}")
    return PROMPTS[name]


def kind_of(item: JudgedItem) -> Kind:
    """The kind of an item.

    Raises:
        UnknownPartError: if there is none of that name.
    """
    if item.kind not in KINDS:
        raise UnknownPartError(f"a judged item's kind must be one of {', '.join(KINDS)}, was: {item.kind!r}")
    return KINDS[item.kind]


def _quoted(text: str) -> str:
    return "\n".join(f"| {line}" for line in text.strip().splitlines()) or "| "


def verdict_in(reply: str, legal: Collection[str]) -> str | None:
    """The word of `legal` (lower case) that a reply gives as its verdict; None where it gives none, or two.

    A verdict is a line ``VERDICT: word``, or a reply that is nothing but the word: what is not plainly said is none.

    >>> verdict_in("It names the city.\\nVERDICT: yes", ("yes", "no")), verdict_in("Yes, it seems so.", ("yes", "no"))
    ('yes', None)
    """
    found = {match.strip(_AROUND).lower() for match in _VERDICT.findall(reply)} or {reply.strip(_AROUND).lower()}
    word = found.pop()
    return word if not found and word in legal else None
