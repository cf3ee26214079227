"""As many records as fit into a number of tokens, long ones cut to even shares.

The best-ranked records are kept first. If they are too long to fit, they share the room evenly, short ones leaving
their rest to long ones; none is cut below `Fitting.least` tokens of text, and one that cannot have as much is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from persona.prompts.quoting import quoted
from persona.protocols import TextTokenizer
from persona.records import Record

WORD = "word"
"""Stands for a text where what is around it is measured: empty quotation marks would merge into one token."""

CUT = "…"
"""Ends a text that was cut."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """A record's text and target as they are to be shown, measured.

    Attributes:
        record: the record.
        text: its text.
        target: its target; empty if there is none.
        text_tokens: size of `text`.
        target_tokens: size of `target`.
        frame: size of what is shown around them.
        least: below this size the record is left out.
    """

    record: Record
    text: str
    target: str
    text_tokens: int
    target_tokens: int
    frame: int
    least: int

    @property
    def size(self) -> int:
        """Tokens of the whole."""
        return self.frame + self.text_tokens + self.target_tokens


@dataclass(frozen=True, slots=True)
class Fitting:
    """Measures and shortens what is put into a prompt.

    Attributes:
        tokenizer: the LLM's.
        least: tokens below which nothing is cut, at least 1.
    """

    tokenizer: TextTokenizer
    least: int

    def size(self, text: str) -> int:
        """Tokens of `text` inside a longer one."""
        return self.tokenizer.count(text) - self.tokenizer.count("") if text else 0

    def frame(self, line: str, words: int) -> int:
        """Tokens of `line` without the `words` times `WORD` that are in it."""
        return self.size(line) - words * self.size(WORD)

    def quotation(self, record: Record, text: str, target: str, frame: int) -> Quotation:
        """`record` with its text and target as they are to be shown, and the size of what is around them."""
        text_tokens, target_tokens = self.size(text), self.size(target)
        least = frame + min(text_tokens, self.least) + min(target_tokens, self.least)
        return Quotation(record, text, target, text_tokens, target_tokens, frame, least)

    def fitted(self, quotations: Sequence[Quotation], room: int) -> list[Quotation]:
        """As many records as fit with `least` tokens each, in their order; text and target are whole or shortened."""
        kept: list[Quotation] = []
        free = room
        for quotation in quotations:
            if quotation.least <= free:
                kept.append(quotation)
                free -= quotation.least
        shortened = map(self._fitted, kept, _shares(kept, room))
        return [each for each in shortened if each is not None]

    def shortened(self, text: str, tokens: int) -> str:
        """`text` if it has at most `tokens`, else its beginning; empty if `tokens` are fewer than `least`."""
        if self.size(text) <= tokens:
            return text
        special = self.tokenizer.count("")
        limit = tokens if tokens >= self.least else 0
        while limit > 0:
            # Decoding may add quotation marks and brackets, and half a character at the end.
            start = quoted(self.tokenizer.truncate(text, limit + special)).rstrip("\ufffd ")
            excess = self.size(start + CUT) - tokens
            if start and excess <= 0:
                return start + CUT
            limit -= max(excess, 1)
        return ""

    def _fitted(self, quotation: Quotation, share: int) -> Quotation | None:
        """A record in `share` tokens; the text is cut before the target. None if it does not fit."""
        free = share - quotation.frame
        target_tokens = min(quotation.target_tokens, free - min(quotation.text_tokens, self.least))
        text = self.shortened(quotation.text, free - target_tokens)
        target = self.shortened(quotation.target, target_tokens) if quotation.target else ""
        if not text or (quotation.target and not target):
            return None
        return replace(quotation, text=text, target=target)


def _shares(quotations: Sequence[Quotation], room: int) -> list[int]:
    """`room` divided among records: each gets its size, the highest level that fits all, or its least."""

    def at(level: int) -> list[int]:
        return [max(quotation.least, min(quotation.size, level)) for quotation in quotations]

    levels = range(1 + max((quotation.size for quotation in quotations), default=0))
    return at(max(0, bisect_right(levels, room, key=lambda level: sum(at(level))) - 1))
