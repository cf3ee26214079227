"""METEOR: how much of a text's words another one has, and in how many pieces (Banerjee and Lavie, 2005).

Words are matched that are equal, then those of one stem. With ``m`` matches among ``g`` words of the gold and ``p`` of
the prediction, in ``c`` chunks of words that are neighbours in both::

    P = m / p    R = m / g    F = P R / (0.9 P + 0.1 R)    METEOR = F (1 - 0.5 (c / m)^3)

>>> round(meteor("the cat sat on the mat", "on the mat sat the cat"), 4)
0.9375
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from persona.retrievers.words.tokens import words

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5


def meteor(gold: str, prediction: str) -> float:
    """METEOR over the words of every script, 0 to 1; a text without words scores 0.

    Of words that stand in a text several times those are matched that continue a chunk; the published one matches the
    last ones and so counts chunks that are none.
    """
    return _score(words(gold), words(prediction))


def official_meteor(gold: str, prediction: str) -> float:
    """METEOR as LongLaMP has it: NLTK's, over its word tokens, with WordNet's synonyms where NLTK has WordNet.

    NLTK matches repeated words from the end of both texts, whatever stands beside them.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    tokenizer = NLTKWordTokenizer()
    both = tokenizer.tokenize(gold), tokenizer.tokenize(prediction)
    return float(single_meteor_score(*both, wordnet=_wordnet() or SimpleNamespace(synsets=lambda word: [])))


def has_wordnet() -> bool:
    """Whether NLTK has WordNet."""
    return _wordnet() is not None


@cache
def _wordnet() -> Any:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def _score(gold: Sequence[str], prediction: Sequence[str]) -> float:
    matched = _aligned(gold, prediction)
    m = len(matched)
    if not m:
        return 0.0
    precision, recall = m / len(prediction), m / len(gold)
    f_mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    ordered = sorted(matched.items())
    chunks = 1 + sum((here, there) != (before + 1, across + 1) for (before, across), (here, there) in pairwise(ordered))
    return float(f_mean * (1 - GAMMA * (chunks / m) ** BETA))


def _aligned(gold: Sequence[str], prediction: Sequence[str]) -> dict[int, int]:
    """Which word of `gold` each matched word of `prediction` stands for, by position: as many as can be.

    Among equal words the one behind the last match is taken first, else the one with which most of what follows agrees.
    """
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for form in (str, stem):
        ours, theirs = list(map(form, prediction)), list(map(form, gold))
        free: dict[str, set[int]] = defaultdict(set)
        for position, word in enumerate(theirs):
            if position not in taken:
                free[word].add(position)
        for position, word in enumerate(ours):
            if position in matched or not free[word]:
                continue
            follows = matched.get(position - 1, -2) + 1
            best = follows if follows in free[word] else _longest(ours, theirs, position, free[word])
            free[word].remove(best)
            matched[position] = best
            taken.add(best)
    return matched


def _longest(ours: Sequence[str], theirs: Sequence[str], position: int, candidates: set[int]) -> int:
    """The candidate from which the two texts agree for the most words; among equals the first."""

    def agreeing(start: int) -> int:
        length = 0
        for one, other in zip(ours[position:], theirs[start:], strict=False):
            if one != other:
                break
            length += 1
        return length

    return max(sorted(candidates), key=agreeing)


@cache
def stem(word: str) -> str:
    """The stem of a word, by Porter."""
    from nltk.stem.porter import PorterStemmer  # of rouge-score; it takes a second to import

    return str(PorterStemmer().stem(word))
