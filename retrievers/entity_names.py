"""What a text names: capitalised phrases, quoted titles, tags and the words of a list of one's own.

>>> EntityExtractor()("Moody and stylish. Steve McQueen is cool, and so is Casino Royale. #bond")
['Steve McQueen', 'Casino Royale', '#bond']
>>> EntityExtractor(["nouvelle vague"])("a late echo of the Nouvelle Vague")
['Nouvelle Vague']

It is a set of rules without a model, the same on every machine:

- *Capitalised phrases*: words with a capital letter that stand side by side, joined by at most two small words of a
  name (``Lord of Rings``, ``Vincent van Gogh``). A word that opens a sentence is capitalised anyhow: alone it counts
  only if the text capitalises it elsewhere too, or has a capital inside (``iPhone``, ``NASA``). Texts in capitals
  throughout, and headlines in which nearly every word has one, name nothing by this rule.
- *Titles in brackets of East Asian quotation* (``「」『』《》``) and runs of three or more katakana: scripts without
  capitals mark their names so, if at all.
- *Tags*: ``#word`` and ``@word``.
- *A gazetteer*: names that the caller lists are found in any case and spelling that `persona.retrievers.words.words`
  takes for the same. This is the way for languages in which all nouns are capitalised, or none.

What is one name and what are two is decided by `key`: case, accents and punctuation do not count.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from persona.errors import InvalidOptionError

from .words import WORDS_VERSION, words

MAX_WORDS = 6
"""Longest capitalised phrase, in words; what is longer is a headline."""

_TOKEN = re.compile(r"[#@]?[^\W_](?:[\w'’&-]*\w)?")
_PIECE = re.compile(r"[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af]+|[^\W_]")
_SMALL = frozenset(
    re.findall(r"\w+", "of the de la le du des del della di da do dos van von der den ten ter el al bin ibn y i")
)
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those i it its he she we you they my your his her our their there here what who how "
        "why when where which if in on at by for from to of as and but or not no so yet with after before while though "
        "although is are was were do does did has have had be been can could will would should may might one all some "
        "every each",
    )
)
_SENTENCE_END = re.compile(r"[.!?…:;\n\"“”„«»(\[*•|–—-]\s*$|^\s*$")
_BRACKETED = re.compile(r"[「『《]([^「」『』《》\n]{1,40})[」』》]")
_KATAKANA = re.compile("[\u30a1-\u30fa\u30fc]{3,}(?:\u30fb[\u30a1-\u30fa\u30fc]+)*")


def key(name: str) -> str:
    """What two spellings of one name have in common, e.g. ``"steve mcqueen"``. Empty if `name` has no word."""
    return " ".join(words(name))


class EntityExtractor:
    """Finds names in texts.

    Args:
        gazetteer: names to find wherever they stand, beside what the rules find.

    Raises:
        InvalidOptionError: if a name of the gazetteer holds no word.

    Attributes:
        rules: names the rules and the gazetteer; what was made by other rules is made anew.
    """

    def __init__(self, gazetteer: Iterable[str] = ()) -> None:
        listed: dict[str, str] = {}
        for name in gazetteer:
            if not key(name):
                raise InvalidOptionError(f"a name of the gazetteer must hold a word, was: {name!r}")
            listed.setdefault(key(name), name)
        self._listed = listed
        self._longest = max((len(_PIECE.findall(name)) for name in listed.values()), default=0)
        digest = hashlib.blake2b("\0".join(sorted(listed)).encode(), digest_size=8).hexdigest()
        self.rules = f"names-1/{WORDS_VERSION}/{digest}"

    def __call__(self, text: str) -> list[str]:
        """The names in `text` as they are written there, in order, repetitions kept."""
        found = self._known(text) if self._listed else []
        ruled = [*self._capitalised(text), *_marked(text)]
        # What the gazetteer says of a place goes before what the rules make of it.
        found += [one for one in ruled if not any(one[0] < last and first < one[1] for first, last in found)]
        return [text[first:last] for first, last in sorted(found) if key(text[first:last])]

    def _capitalised(self, text: str) -> list[tuple[int, int]]:
        """Where capitalised phrases and tags begin and end."""
        tokens = list(_TOKEN.finditer(text))
        plain = [token for token in tokens if token.group()[0] not in "#@"]
        capital = sum(_has_capital(token.group()) for token in plain)
        tags = [token.span() for token in tokens if token.group()[0] in "#@"]
        cased = sum(token.group().lower() != token.group().upper() for token in plain)
        # A headline, or somebody who shouts: capitals tell nothing there.
        if len(plain) >= 4 and capital >= 0.8 * cased:
            return tags
        inner = {token.group() for token in plain if _has_capital(token.group()) and not _opens(text, token)}
        found = []
        for first, last in _runs(text, plain):
            opens = _opens(text, plain[first])
            while opens and first <= last and plain[first].group().lower() in _OPENERS:
                first += 1
                opens = False
            if first > last or last - first >= MAX_WORDS:
                continue
            one = plain[first].group()
            if first == last and (len(one) < 2 or one.lower() in _OPENERS):
                continue
            if first == last and opens and one not in inner and not _has_capital(one[1:]):
                continue
            found.append((plain[first].start(), plain[last].end()))
        return found + tags

    def _known(self, text: str) -> list[tuple[int, int]]:
        """Where names of the gazetteer begin and end, the longest at each place."""
        # In a script without blanks every character may begin and end a name.
        cuts = [match.span() for match in _PIECE.finditer(text)]
        found = []
        place = 0
        while place < len(cuts):
            for length in range(min(self._longest, len(cuts) - place), 0, -1):
                start, end = cuts[place][0], cuts[place + length - 1][1]
                if key(text[start:end]) in self._listed:
                    found.append((start, end))
                    place += length - 1
                    break
            place += 1
        return found


def _marked(text: str) -> list[tuple[int, int]]:
    """Where bracketed titles and runs of katakana outside of them begin and end."""
    if text.isascii():
        return []
    bracketed = [match.span(1) for match in _BRACKETED.finditer(text)]
    runs = [match.span() for match in _KATAKANA.finditer(text)]
    return bracketed + [run for run in runs if not any(first <= run[0] < last for first, last in bracketed)]


def _runs(text: str, tokens: Sequence[re.Match[str]]) -> Iterable[tuple[int, int]]:
    """First and last token of each run of words with capitals."""
    place = 0
    while place < len(tokens):
        if not _has_capital(tokens[place].group()):
            place += 1
            continue
        first = last = place
        while True:
            # The next word with a capital, over two small words at most.
            step = 1
            while step <= 3 and _side_by_side(text, tokens, last + step - 1):
                word = tokens[last + step].group()
                if _has_capital(word) or word not in _SMALL:
                    break
                step += 1
            else:
                break
            if not _has_capital(tokens[last + step].group()):
                break
            last += step
        yield first, last
        place = last + 1


def _side_by_side(text: str, tokens: Sequence[re.Match[str]], place: int) -> bool:
    """Whether nothing but blanks stands between a token and the next."""
    if place + 1 >= len(tokens):
        return False
    between = text[tokens[place].end() : tokens[place + 1].start()]
    return between.isspace() and "\n" not in between


def _opens(text: str, token: re.Match[str]) -> bool:
    """Whether a word is the first of a sentence, or of a quotation or a line."""
    return bool(_SENTENCE_END.search(text[max(0, token.start() - 3) : token.start()]))


def _has_capital(word: str) -> bool:
    return any(character.isupper() or character.istitle() for character in word)
