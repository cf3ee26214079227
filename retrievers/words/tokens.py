"""Text as words, for any script, without a model: the tokens of the `bm25` retriever.

>>> words("Café at McQueen's: 3 stars ❤️")
['cafe', 'at', 'mcqueen', 's', '3', 'stars', '❤']
>>> words("東京に行く")
['東', '東京', '京', '京に', 'に', 'に行', '行', '行く', 'く']

What is done, and why:

- *One spelling for one word.* Compatibility forms, case and accents are folded (NFKD, full case folding, combining
  diacritics dropped, NFC): ``Ｃａｆé``, ``CAFÉ`` and ``cafe`` are one word. So are the usual spellings of Arabic,
  Persian, Urdu and Hebrew words (vowel signs and the stretching line dropped, forms of alef, yeh, kaf and heh as one,
  as in Lucene's normalisation of Arabic and Persian), Latin letters with a stroke and without (``Łódź``), and digits of
  all scripts. In a profile of fifty records a match lost to a spelling costs more than two words that fall together.
- *A word is a run of letters, digits and marks.* An apostrophe or hyphen ends it, so that ``McQueen's`` meets
  ``McQueen`` and ``l'homme`` meets ``homme``. Marks belong to the word: Python's ``\\w`` alone would cut Hindi or
  Tamil at every vowel sign.
- *Scripts written without blanks* (Han, kana, Thai, ...) and Hangul, whose particles cling to the noun, give
  characters, each with its marks, and pairs of neighbouring characters.
- *An emoji is a word*, its skin tone and variation selector are not: in tweets it often is the only common word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest

_ASCII_WORD = re.compile(r"[a-z0-9_]+")

_PUNCTUATION = re.compile(
    "[\u00a0-\u00a9\u00ab-\u00ac\u00ae-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u2010-\u2029\u2030-\u205f]"
)
"""The typographer's punctuation (dashes, curly quotes, ...). It ends a word, and without it most text is ASCII."""

_RUN = re.compile("[A-Za-z0-9_\u0080-\U0010ffff]+")

_ACCENT = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]")
"""The combining diacritics of Latin, Greek and Cyrillic, the vowel signs of Hebrew and Arabic, and the stretching line.

The marks of other scripts carry letters and stay.
"""

_SPELLINGS = str.maketrans(
    {
        "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th",
        "ٱ": "ا", "ى": "ي", "ی": "ي", "ې": "ي", "ے": "ي", "ک": "ك", "ڪ": "ك",
        "ة": "ه", "ۀ": "ه", "ہ": "ه", "ھ": "ه", "ە": "ه",
    }
)  # fmt: skip
"""Letters that decompose into nothing simpler, and the spelling that stands for them."""

_INVISIBLE = re.compile("[\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]")
"""Soft hyphen, zero-width joiners and non-joiners, variation selectors, skin tones."""

_DIGIT = re.compile(r"[^\W\D0-9]")
"""A digit of any script but ours."""

_EMOJI = "[\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\uac00-\ud7af]+"  # Hangul
)


def words(text: str) -> list[str]:
    """The words of `text` in order, repetitions kept. Empty for text without letters, digits and emoji."""
    if not text.isascii():
        text = _PUNCTUATION.sub(" ", text)
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for run in _RUN.findall(text):
        if run.isascii():
            found.append(run.lower())
        else:
            found.extend(_folded_words(run))
    return found


def _folded_words(text: str) -> Iterator[str]:
    """`words` without the short cuts, which are worth a factor of ten on English."""
    for word in _word_pattern().findall(_fold(text)):
        if word.isascii():
            yield word
        else:
            yield from _cut(word)


def _fold(text: str) -> str:
    """`text` without the differences that do not make another word."""
    # Folding case can undo the decomposition (and the reverse), hence twice; see Unicode 5.18, caseless matching.
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    plain = _INVISIBLE.sub("", _ACCENT.sub("", decomposed)).translate(_SPELLINGS)
    return unicodedata.normalize("NFC", _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), plain))


def _cut(word: str) -> Iterator[str]:
    """`word` cut where a script without blanks begins or ends, and such a part into characters and pairs."""
    done = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > done:
            yield word[done : run.start()]
        characters = _character_pattern().findall(run.group())
        for character, following in zip_longest(characters, characters[1:]):
            yield character
            if following is not None:
                yield character + following
        done = run.end()
    if done < len(word):
        yield word[done:]


@cache
def _word_pattern() -> re.Pattern[str]:
    """One emoji, or a letter or digit with all letters, digits and marks that follow."""
    return re.compile(rf"{_EMOJI}|\w[\w{_marks()}]*")


@cache
def _character_pattern() -> re.Pattern[str]:
    """A character with the marks that follow; a mark that follows none is no character."""
    return re.compile(f"[^{_marks()}][{_marks()}]*")


@cache
def _marks() -> str:
    """All marks (about 2,400): Python's `re` has no name for them. Listed once, and only when text needs them."""
    return "".join(
        character
        for character in map(chr, range(0x300, 0x1F000))
        if unicodedata.category(character) in ("Mn", "Mc") and not _INVISIBLE.match(character)
    )
