"""Questions with lettered options: how they are asked, and which option an answer chooses.

>>> lettered(("tea", "rye bread"))
'(A) tea\\n(B) rye bread'
>>> chosen_letter("I would say (b), a classic.", "AB"), chosen_letter("A classic: rye bread.", "AB")
('B', None)
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

LETTERS = "ABCDEFGH"
_NO_ARTICLE = r"(?!(?<=[aA]) (?!because|since|as|is)[a-z])"


def lettered(options: Sequence[str]) -> str:
    """Options on lines of their own, each after its letter."""
    return "\n".join(f"({letter}) {' '.join(text.split())}" for letter, text in zip(LETTERS, options, strict=False))


def shuffled(options: Sequence[str], seed: int, name: str) -> list[int]:
    """The places of options in random order, which depends on the seed and the question's name and on nothing else: a
    run that goes on, or asks fewer questions, has the same."""
    order = list(range(len(options)))
    random.Random(f"{seed}:{name}").shuffle(order)
    return order


def chosen_letter(answer: str, letters: str) -> str | None:
    """The option that an answer names; None where it names none, or several.

    A letter counts in brackets, before a bracket, a dot or a colon at the beginning, after "answer", "option" or
    "choice", or as the whole answer. The article "a" is no option.
    """
    legal = f"[{letters.upper()}{letters.lower()}]"
    for pattern in (
        rf"^\W*({legal})\W*$",
        rf"\(({legal})\)",
        rf"^\W*({legal})[).:]",
        rf"(?i:\b(?:answer|option|choice)\b)(?i:\s+is)?\W{{0,4}}({legal})(?![\w'’]){_NO_ARTICLE}",
    ):
        found = {match.upper() for match in re.findall(pattern, answer.strip())}
        if found:
            return found.pop() if len(found) == 1 else None
    return None
