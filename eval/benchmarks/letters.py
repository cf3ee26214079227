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

from persona.eval.benchmark import Question

LETTERS = "ABCDEFGH"
_OPTION = re.compile(r"^\(([A-H])\) (.*)$", re.MULTILINE)
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


def option_baselines(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Answers without an LLM: the first option, and the one that is most like a record of the history, by BM25 for each
    of its words."""
    from persona.retrievers.words.bm25 import BM25Retriever
    from persona.retrievers.words.tokens import words

    options = [_OPTION.findall(question.prompt) for question in questions]
    asked = [(question.profile, text) for question, some in zip(questions, options, strict=True) for _, text in some]
    found = BM25Retriever().retrieve_batch([profile for profile, _ in asked], [text for _, text in asked], 1)
    scores = iter(
        records[0].score / max(1, len(words(text))) if records else 0.0
        for records, (_, text) in zip(found, asked, strict=True)
    )
    likeness = [[next(scores) for _ in some] for some in options]
    nearest = [LETTERS[max(range(len(some)), key=some.__getitem__)] for some in likeness]
    return {"first option": [LETTERS[0]] * len(questions), "option nearest to the history": nearest}


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
