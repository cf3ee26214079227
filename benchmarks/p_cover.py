"""P-Cover: how much of a user's own vocabulary is in an answer.

Over the user's past texts h, with ``idf(w) = log(N / df(w))`` over the N texts of all histories::

    P-Cover(r) = max over h of  sum of idf(w) for the different words w that r and h share

`p_cover` averages it over answers, as it stands (``by_length=False``: what the published code computes) or over the
number of different words in the answer, so that a long answer has no advantage.

>>> p_cover(["blue harbour"], [["the harbour", "a blue boat"]], ["the harbour", "a blue boat"])
0.6931471805599453

Source: Ma et al., "One Chatbot Per Person" (arXiv 2108.09355), and ``evaluate.py`` of its code.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from persona.errors import EvaluationError

_WORD = re.compile(r"[^\W_]+")


def p_cover(
    answers: Sequence[str], histories: Sequence[Sequence[str]], background: Sequence[str], *, by_length: bool = False
) -> float:
    """The mean P-Cover of `answers`.

    Args:
        answers: what was said.
        histories: for each answer the past texts of its user; may be empty.
        background: the texts of which ``idf`` is computed; a word that is in none of them counts as in one.
        by_length: divide by the number of different words in the answer.

    Raises:
        EvaluationError: if there are no answers, or not as many histories.
    """
    if not answers or len(answers) != len(histories):
        raise EvaluationError(
            f"P-Cover needs at least one answer and a history for each, was given {len(answers)} and {len(histories)}"
        )
    counts = Counter(word for text in background for word in _words(text))
    total = max(1, len(background))
    known: dict[int, list[frozenset[str]]] = {}
    covers = []
    for answer, history in zip(answers, histories, strict=True):
        texts = known.setdefault(id(history), [_words(text) for text in history])
        said = _words(answer)
        weights = {word: math.log(total / max(1, counts[word])) for word in said}
        cover = max((sum(weights[word] for word in said & text) for text in texts), default=0.0)
        covers.append(cover / max(1, len(said)) if by_length else cover)
    return float(np.mean(covers))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
