"""How a text is written, as numbers: what a sentence encoder discards.

An encoder maps "Mayor opens bridge!" and "the mayor opens the bridge" to nearly the same vector. A user's casing,
punctuation, length and function words are habits too; these numbers describe them.

>>> style = style_vector("How Mayor Opens Bridge, Good Grief!")
>>> style.shape == (STYLE_DIM,), float(style[STYLE_NAMES.index("ends with !")])
(True, 1.0)
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MARKS = ("!", "?", ".", ",", ":", ";", "-", "–", "...", '"', "'", "(", "/", "&", "#", "@")
_ENDS = (".", "!", "?", "...", ":", ")")
_FUNCTION_WORDS = (
    *("the", "a", "an", "this", "that", "these", "i", "you", "we", "they", "he", "she", "it", "my", "your", "our"),
    *("his", "her", "their", "of", "in", "on", "at", "to", "for", "from", "with", "by", "as", "and", "or", "but"),
    *("not", "no", "is", "are", "was", "be", "have", "has", "do", "will", "can", "how", "why", "what", "when", "who"),
    *("so", "just", "very", "more", "all", "if", "than", "up", "out", "about"),
)
_FUNCTION_INDEX = {word: index for index, word in enumerate(_FUNCTION_WORDS)}

STYLE_NAMES = (
    *("characters", "words", "mean word length", "letters in capitals", "words with a capital", "words in capitals"),
    *("starts with a capital", "digits", "line breaks", "words said twice"),
    *(f"marks {mark}" for mark in _MARKS),
    *(f"ends with {end}" for end in _ENDS),
    *(f"says {word}" for word in _FUNCTION_WORDS),
    *(f"starts with {word}" for word in _FUNCTION_WORDS),
)
"""The meaning of each number of a style vector."""

STYLE_DIM = len(STYLE_NAMES)


def style_vector(text: str) -> NDArray[np.float32]:
    """The style of `text`, float32, each number about 0 to 1; an empty text is all zeros.  # (STYLE_DIM,)

    Lengths are logarithms over a tenth of their usual range; shares are of letters or words; marks and function words
    are counts per ten words, at most 1.
    """
    style = np.zeros(STYLE_DIM, np.float32)
    stripped = text.strip()
    words = _WORD.findall(stripped)
    if not stripped:
        return style
    n_words = max(1, len(words))
    letters = [character for character in stripped if character.isalpha()]
    lower = [word.lower() for word in words]
    style[:10] = (
        math.log1p(len(stripped)) / 10,
        math.log1p(len(words)) / 10,
        sum(map(len, words)) / n_words / 10,
        sum(map(str.isupper, letters)) / max(1, len(letters)),
        sum(word[0].isupper() for word in words) / n_words,
        sum(len(word) > 1 and word.isupper() for word in words) / n_words,
        float(stripped[0].isupper()),
        sum(map(str.isdigit, stripped)) / len(stripped),
        float("\n" in stripped),
        1 - len(set(lower)) / n_words,
    )
    column = 10
    for mark in _MARKS:
        style[column] = min(1.0, 10 * stripped.count(mark) / n_words)
        column += 1
    for end in _ENDS:
        style[column] = float(stripped.endswith(end))
        column += 1
    for word in lower:
        if (index := _FUNCTION_INDEX.get(word)) is not None:
            style[column + index] = min(1.0, style[column + index] + 10 / n_words)
    if lower and (index := _FUNCTION_INDEX.get(lower[0])) is not None:
        style[column + len(_FUNCTION_WORDS) + index] = 1.0
    return style
