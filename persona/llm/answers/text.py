"""The text of an answer: without its thinking, up to a stop string, and without emphasis around a bare answer.

>>> options = GenerationOptions(stop=("Review:",))
>>> answer_text("<think>Four, or five?</think>\\n\\n**5**", options), answer_text("5 Review: next", options)
('5', '5 ')
>>> answer_text("<think>Four, or", options), answer_text("**Not** bad, 5 * 3 stars", options)
('', '**Not** bad, 5 * 3 stars')

An answer that has none of these stays as it is. Thinking is a part that an answer begins with, in one of the forms of
`THINKING`; one that is not finished leaves no answer. A part that the prompt has opened, as some chat templates do, is
known by its end alone.
"""

from __future__ import annotations

import re
from dataclasses import replace

from persona.protocols import Answer, GenerationOptions

THINKING: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>", "<|channel|>final<|message|>"),
)
"""How parts for thinking begin and end."""

_ENDS = dict(THINKING)
_OPENING = re.compile(rf"\s*({'|'.join(re.escape(begin) for begin, _ in THINKING)})")
_LONE_END = re.compile(rf"^[ \t]*(?:{'|'.join(re.escape(end) for _, end in THINKING)})[ \t]*$", re.MULTILINE)
_EMPHASIS = re.compile(r"\s*(?:(\*{1,3})(?P<strong>[^*\s]|[^*\s][^*\n]*[^*\s])\1|(_{1,3})(?P<low>[^_\n]+)\3)\s*")
_EMPHASIS_BEGUN = re.compile(r"\s*(?:\*{1,3}[^*\n]*\*{0,3}|_{1,3}[^_\n]*_{0,3})\s*")


def answer_text(text: str, options: GenerationOptions, *, thinking_end: str | None = None) -> str:
    """The answer in what an LLM wrote; applied to its own result it changes nothing.

    Args:
        text: all that was written.
        options: the stop strings, and whether the text is to be kept as it is up to one of them.
        thinking_end: what ends the part for thinking that the prompt has opened; None if it has opened none.
    """
    begin = _answer_begin(text, thinking_end)
    if options.raw:
        return text if begin is None else text[: _stopped(text, begin, options)]
    if begin is None:
        return ""
    answer = _without_emphasis(text[begin : _stopped(text, begin, options)])
    # Within emphasis there may be more of the kind.
    return answer if answer == text else answer_text(answer, options)


def told(answer: Answer, options: GenerationOptions) -> Answer:
    """An answer by all that an LLM wrote: its `answer_text`, and whether it thought."""
    thought = answer.thought or without_thinking(answer.text) != answer.text
    return replace(answer, text=answer_text(answer.text, options), thought=thought)


def settled_text(text: str, options: GenerationOptions, *, thinking_end: str | None = None) -> str:
    """The beginning of the answer that stays whatever is written after `text`; for streams. Arguments as above.

    It has no white space at its end, since that of an answer may be stripped.
    """
    begin = _answer_begin(text, thinking_end)
    if begin is None:
        return text.rstrip() if options.raw else ""
    shown = 0 if options.raw else begin
    if _may_become_thinking(text[begin:]):
        return text[shown:begin].rstrip()
    end = _stopped(text, begin, options)
    if end == len(text):
        end -= max((_overlap(text[begin:], stop) for stop in options.stop), default=0)
    answer = text[shown:end].rstrip()
    return "" if not options.raw and _EMPHASIS_BEGUN.fullmatch(answer) else answer


def without_thinking(text: str, thinking_end: str | None = None) -> str:
    """`text` behind its thinking; empty if that is not finished, and as it is where there is none."""
    begin = _answer_begin(text, thinking_end)
    return "" if begin is None else text[begin:]


def is_stopped(text: str, options: GenerationOptions, *, thinking_end: str | None = None) -> bool:
    """Whether `text` holds a stop string, behind its thinking."""
    begin = _answer_begin(text, thinking_end)
    return begin is not None and _stopped(text, begin, options) < len(text)


def opened_thinking(prompt: str) -> str | None:
    """What ends the part for thinking that a prompt opens in its very end; None if it opens none."""
    return next((end for begin, end in THINKING if prompt.rstrip().endswith(begin)), None)


def _answer_begin(text: str, thinking_end: str | None) -> int | None:
    """Where the answer begins, behind all thinking; None if that is not finished."""
    begin = 0
    if thinking_end is not None:
        begin = _behind(text, thinking_end, 0)
    elif _OPENING.match(text) is None and (lone := _LONE_END.search(text)) is not None:
        begin = lone.end()
    while begin >= 0 and (opening := _OPENING.match(text, begin)) is not None:
        begin = _behind(text, _ENDS[opening[1]], opening.start(1))
    if begin < 0:
        return None
    return begin + len(text[begin:]) - len(text[begin:].lstrip()) if begin else 0


def _behind(text: str, end: str, begin: int) -> int:
    """The place behind the next `end`; -1 if there is none."""
    at = text.find(end, begin)
    return at + len(end) if at >= 0 else -1


def _may_become_thinking(text: str) -> bool:
    start = text.lstrip()
    return any(begin.startswith(start) for begin, _ in THINKING)


def _stopped(text: str, begin: int, options: GenerationOptions) -> int:
    """Where the first stop string begins, or the text ends."""
    found = (text.find(stop, begin) for stop in options.stop)
    return min((at for at in found if at >= 0), default=len(text))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, but not all of it, that `text` ends in."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)


def _without_emphasis(text: str) -> str:
    """What Markdown emphasis is put around, if it is put around all of `text`; names such as ``__init__`` stay."""
    match = _EMPHASIS.fullmatch(text)
    inner = match and (match["strong"] or match["low"].strip())
    return text if not inner or (match and match["low"] and inner.isidentifier()) else inner
