"""What a user names again and again: counts of names that fade with time, and the records that share them.

Of a history only aggregates count: a name, in how many records it stands, when it was last named, and its weight

    w(e) = sum over the records j that name e of 2^(-(now - t_j) / half_life)

(K-LaMP, Baek et al., WWW 2024: entity counts and times in place of the raw log). `now` is the time of the user's newest
record; another one would change all weights by one factor and no ranking.

    2011-01 Bond, 2012-01 Bond, 2012-01 Paris,  half-life a year:   w(Bond) = 2^-1 + 1 = 1.5,  w(Paris) = 1

Names are found by rules without a model: capitalised phrases, tags (``#word``, ``@word``), East Asian quotation
brackets, runs of katakana, and names of one's own list in any spelling; a record also has the names in its metadata
field `alias` (``"Mum, Maria"``). A name that the query holds exactly brings its records first and another retriever
fills up, as with the named concepts of RAP (Hao et al., CVPR 2025).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from persona.errors import InvalidOptionError, check_positive
from persona.formats.times import day_of
from persona.protocols import Retriever
from persona.records import Profile, Record, ScoredRecord

from ..base import ProfileRetriever, Ranking, check_view, positions, scored
from .tokens import words

ALIAS = "alias"
"""The metadata field with further names of a record, separated by commas."""

_CAPITAL = "[A-Z\u00c0-\u00d6\u00d8-\u00de\u0391-\u03ab\u0400-\u042f]"
_LINKS = "(?:of|the|de|la|le|du|des|del|della|di|da|do|dos|van|von|der|den|ten|ter|el|al|bin|ibn|y|i)"
_WORD = rf"{_CAPITAL}[\w'’&-]*\w"
_NAME = re.compile(
    rf"(?<![\w#@])(?P<phrase>{_WORD}(?:[^\S\n](?:{_LINKS}[^\S\n]){{0,2}}{_WORD})*)"
    rf"|(?P<inner>\b[a-z]+{_CAPITAL}\w*)"
    r"|(?P<tag>(?<!\w)[#@]\w+)"
    r"|(?P<title>(?<=[「『《])[^「」『』《》\n]{1,40}(?=[」』》]))"
    "|(?P<katakana>[\u30a1-\u30fa\u30fc]{3,}(?:\u30fb[\u30a1-\u30fa\u30fc]+)*)"
)
_OPENERS = re.compile(
    r"\A(?:An?|And|As|At|But|By|For|From|He|Her|His|I|If|In|It|My|Of|On|Or|Our|She|So|That|The|Then|They|This|To|We|What|"
    r"When|Where|While|Who|Why|With|You|Your)\s+(?=\S)"
)
_SENTENCE_START = re.compile(r"(?:^|[.!?…:;\n\"“”„«»(\[*•|–—-])\s*$")


@dataclass(frozen=True, slots=True)
class Entity:
    """What is known of one name.

    Attributes:
        name: as it was last written, e.g. ``"Steve McQueen"``.
        count: how many records name it.
        last: time of the newest of them, None if undated.
        weight: w(e), above 0.
    """

    name: str
    count: int
    last: str | None
    weight: float


class EntityRetriever(ProfileRetriever):
    """Retrieves the records that share the user's weightiest names with the query.

    A score is the sum of w(e) over the names e of the user that stand in the query and in the record, case, accents and
    punctuation aside. Equal scores, also the 0 of records without a shared name, are ordered by the base.

    Args:
        base: orders records with equal scores; None puts the newest first (later in the profile first).
        names: to be found wherever they stand, beside what the rules find.
        half_life_days: days after which a mention counts half; above 0.
        view: the view of a record that is read (`Record.view`).

    Raises:
        InvalidOptionError: if an option is out of range, or a name holds no word.
    """

    def __init__(
        self,
        base: Retriever | None = None,
        *,
        names: Iterable[str] = (),
        half_life_days: float = 365.0,
        view: str = "text",
    ) -> None:
        check_positive(half_life_days=half_life_days)
        self.base = base
        self.names = tuple(names)
        for name in self.names:
            if not _spelling(name):
                raise InvalidOptionError(f"a name must hold a word, was: {name!r}")
        self.half_life_days = half_life_days
        self.view = check_view(view)

    def entities(self, profile: Profile) -> tuple[Entity, ...]:
        """The names of a profile, weightiest first, equal ones by name; undated records are as old as the oldest."""
        days = [day_of(record.time) for record in profile]
        dated = [day for day in days if day is not None]
        oldest, newest = (min(dated), max(dated)) if dated else (0, 0)
        mentions: defaultdict[str, list[tuple[int, str, str]]] = defaultdict(list)
        for day, record in zip(days, profile, strict=True):
            known = oldest if day is None else day
            for spelling, name in self._find(record).items():
                mentions[spelling].append((known, record.time or "", name))
        found = [
            Entity(
                name=max(named)[2],
                count=len(named),
                last=max(time for _, time, _ in named) or None,
                # Never 0, so that what was named stays ahead of what never was.
                weight=max(math.fsum(2.0 ** ((day - newest) / self.half_life_days) for day, _, _ in named), 1e-300),
            )
            for named in mentions.values()
        ]
        return tuple(sorted(found, key=lambda entity: (-entity.weight, _spelling(entity.name))))

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """The `k` records of each profile with the weightiest shared names."""
        rankings: list[Ranking | None] = [None] * len(profiles)
        if self.base is not None:
            rankings = [*self.base.retrieve_batch(profiles, queries, max(map(len, profiles)))]
        return [self._rank(*asked, k) for asked in zip(profiles, queries, rankings, strict=True)]

    def _rank(self, profile: Profile, query: str, ranking: Sequence[ScoredRecord] | None, k: int) -> Ranking:
        asked = f" {_spelling(query)} "
        weights = {f" {_spelling(entity.name)} ": entity.weight for entity in self.entities(profile)}
        shared = {name: weight for name, weight in weights.items() if name in asked}
        texts = [self._said(record) for record in profile] if shared else [""] * len(profile)
        scores = [math.fsum(weight for name, weight in shared.items() if name in text) for text in texts]
        order = range(len(profile) - 1, -1, -1) if ranking is None else positions(profile, ranking)
        return scored(profile, sorted(order, key=lambda position: -scores[position])[:k], scores)

    def _find(self, record: Record) -> dict[str, str]:
        """The names in a record, by spelling."""
        said = self._said(record)
        listed = [name for name in self.names if f" {_spelling(name)} " in said]
        found = {_spelling(name): name for name in (*names_in(record.view(self.view)), *listed, *_aliases(record))}
        found.pop("", None)
        return found

    def _said(self, record: Record) -> str:
        """The spelling of a record and of each of its aliases, on lines of their own."""
        return "\n".join(f" {_spelling(text)} " for text in (record.view(self.view), *_aliases(record)))


def names_in(text: str) -> list[str]:
    """The names in a text, by the rules alone, in order.

    Of a phrase that opens a sentence the first word is capitalised anyhow: alone it is no name unless there are
    capitals inside (``NASA``), or it stands capitalised elsewhere in the text. Texts in which nearly every word has a
    capital name nothing by this rule.

    >>> names_in("Moody and stylish. Steve McQueen is cool, and so is Casino Royale. #bond")
    ['Steve McQueen', 'Casino Royale', '#bond']
    """
    plain = re.findall(r"(?<![\w#@])[^\W\d_]\w*", text)
    shouted = len(plain) >= 4 and sum(word != word.lower() for word in plain) >= 0.8 * len(plain)
    found = []
    for match in _NAME.finditer(text):
        name = match.group()
        if match["phrase"] and _opens_sentence(text, match):
            name, n_openers = _OPENERS.subn("", name, count=1)
            if not n_openers and not _is_sure(name, plain):
                continue
        if not (match["phrase"] and shouted):
            found.append(name)
    return found


def _opens_sentence(text: str, match: re.Match[str]) -> bool:
    return bool(_SENTENCE_START.search(text[max(0, match.start() - 3) : match.start()]))


def _is_sure(name: str, said: Sequence[str]) -> bool:
    """Whether a phrase is a name although it opens a sentence."""
    return " " in name or name[1:] != name[1:].lower() or (said.count(name) > 1 and name.lower() not in said)


def _spelling(name: str) -> str:
    """What two spellings of one name have in common, e.g. ``"steve mcqueen"``. Empty if `name` has no word."""
    return " ".join(words(name))


def _aliases(record: Record) -> list[str]:
    return [name.strip() for name in record.metadata.get(ALIAS, "").split(",")]
