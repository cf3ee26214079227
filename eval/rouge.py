"""ROUGE-1 and ROUGE-L between two strings, as the official LaMP evaluator counts them.

A text is lower-cased and split into runs of ``a-z0-9``; nothing is stemmed. With ``m`` tokens in the gold,
``n`` in the prediction and ``c`` in common (ROUGE-1: the multiset intersection; ROUGE-L: the longest common
subsequence)::

    precision = c / n        recall = c / m        F = 2 * precision * recall / (precision + recall)

>>> rouge_1("The quick brown fox", "the brown, quick dog")
0.75
>>> rouge_l("The quick brown fox", "the brown, quick dog")
0.5

The numbers are those of the package `rouge_score` with ``use_stemmer=False``, bit for bit; that package
builds the whole table of the subsequence, and its import brings in nltk. Here a row of the table is one
integer (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004), and what is known of a gold is kept
for the next system that is scored on it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"[a-z0-9]+")


def rouge_1(gold: str, prediction: str) -> float:
    """F-measure of the words in common, in [0, 1]; 0 where either side has no token."""
    reference = _reference(gold)
    tokens = _tokens(prediction)
    common = sum(min(count, reference.counts[token]) for token, count in Counter(tokens).items())
    return _f_measure(common, reference.length, len(tokens))


def rouge_l(gold: str, prediction: str) -> float:
    """F-measure of the longest common subsequence, in [0, 1]; 0 where either side has no token."""
    reference = _reference(gold)
    tokens = _tokens(prediction)
    return _f_measure(_common_subsequence(reference, tokens), reference.length, len(tokens))


@dataclass(frozen=True, slots=True)
class _Reference:
    """A gold text, prepared.

    Attributes:
        length: number of tokens.
        counts: how often each token occurs.
        places: for each token, an integer whose bit i is set if it is the token at i.
    """

    length: int
    counts: Counter[str]
    places: dict[str, int]


# One evaluation scores several systems on the same golds: 2**14 of them cover the largest LaMP split.
@lru_cache(maxsize=2**14)
def _reference(gold: str) -> _Reference:
    tokens = _tokens(gold)
    places: dict[str, int] = {}
    for place, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << place
    return _Reference(len(tokens), Counter(tokens), places)


# ROUGE-1 and ROUGE-L of a sample are asked for in two passes over the same predictions.
@lru_cache(maxsize=2**14)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text.lower()))


def _common_subsequence(reference: _Reference, tokens: tuple[str, ...]) -> int:
    # Bit i of `row` is 0 where the table's row steps up at column i; a token's matches carry into the next
    # such bit.
    full = (1 << reference.length) - 1
    row = full
    for token in tokens:
        matches = row & reference.places.get(token, 0)
        row = ((row + matches) | (row - matches)) & full
    return reference.length - row.bit_count()


def _f_measure(common: int, gold_length: int, prediction_length: int) -> float:
    if not common:
        return 0.0
    precision = common / prediction_length
    recall = common / gold_length
    return 2 * precision * recall / (precision + recall)
