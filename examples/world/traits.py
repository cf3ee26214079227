"""Who a user of the seeded world is: hidden traits, how probable each is, and how they turn content into an answer.

Three habits, one per LaMP task, each a small discrete law, so that every expectation over it is a finite sum:

- **rating** (LaMP_3): ``score = clip(3 + bias + sum of weight[a] * sentiment[a] over the aspects mentioned, 1, 5)``,
  with ``bias`` in -2..2, ``weight`` 0 or 1 per aspect, ``sentiment`` -1 or 1. One review in ten is off by one.
- **tag** (LaMP_2): of the two or three tags of one family that fit a film, the user picks the one that comes first
  in an order of their own. One time in twenty they pick another that fits.
- **headline** (LaMP_4): a style of template, favourite words, verb register, length, casing and punctuation. One
  headline in twelve carries somebody else's favourite words.

>>> RatingHabit(bias=1, weights=(1, 0, 0, 0, 0, 0)).score(RatingContent(aspects=(0, 1), sentiments=(-1, 1)))
3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

from examples.world.words import ASPECTS, EVENTS, FAMILIES, FAVOURITES

# ----------------------------------------------------------------------------------------------------------- ratings

SCORES = (1, 2, 3, 4, 5)
BIASES = (-2, -1, 0, 1, 2)
WEIGHTS = (0, 1)
RATING_SLIPS = 20
"""One review in this many is a point too high and one a point too low (where the scale has room)."""


@dataclass(frozen=True, slots=True)
class RatingContent:
    """What a review says: two or three aspects (indices into `ASPECTS`) and the sentiment (-1 or 1) on each."""

    aspects: tuple[int, ...]
    sentiments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RatingHabit:
    """How a user scores: `bias` in -2..2, and for each aspect whether they care (1) or not (0)."""

    bias: int
    weights: tuple[int, ...]

    def score(self, content: RatingContent) -> int:
        """The score that the user means to give, 1 to 5."""
        score = 3 + self.bias
        for aspect, sentiment in zip(content.aspects, content.sentiments, strict=True):
            score += self.weights[aspect] * sentiment
        return _clip(score)

    def answers(self, content: RatingContent) -> dict[int, float]:
        """The probability of each score that the user may put down, slips included."""
        return _slipped_scores(self.score(content))


def rating_prior(content: RatingContent) -> Iterator[tuple[RatingHabit, float]]:
    """Every habit that differs on `content`, with its probability; weights of aspects not mentioned are 0."""
    mentioned = len(content.aspects)
    share = 1 / (len(BIASES) * len(WEIGHTS) ** mentioned)
    for bias, *cares in product(BIASES, *[WEIGHTS] * mentioned):
        weights = [0] * len(ASPECTS)
        for aspect, weight in zip(content.aspects, cares, strict=True):
            weights[aspect] = weight
        yield RatingHabit(bias, tuple(weights)), share


def slipped_score(score: int, slip: int) -> int:
    """What is put down for `score` when the die with `RATING_SLIPS` sides shows `slip`."""
    return _clip(score + 1) if slip == 0 else _clip(score - 1) if slip == 1 else score


def _clip(score: int) -> int:
    return min(max(score, SCORES[0]), SCORES[-1])


@cache
def _slipped_scores(score: int) -> dict[int, float]:
    law = dict.fromkeys(SCORES, 0.0)
    for slip in range(RATING_SLIPS):
        law[slipped_score(score, slip)] += 1 / RATING_SLIPS
    return law


# -------------------------------------------------------------------------------------------------------------- tags

ORDERS = tuple(permutations(range(3)))
"""The orders in which the three tags of a family can please a user, best first."""

ORDER_ODDS = (4, 3, 3, 2, 2, 2)
"""How common each of `ORDERS` is, in sixteenths: the first tag of a family is a little more popular."""

CANDIDATES = ((0, 1), (0, 2), (1, 2), (0, 1, 2))
CANDIDATE_ODDS = (1, 1, 1, 7)
"""Which tags of its family a film fits, and how common that is, in tenths."""

TAG_SLIPS = 20
"""One pick in this many is not the user's favourite among the tags that fit."""


@dataclass(frozen=True, slots=True)
class TagContent:
    """What a description says: its family (index into `FAMILIES`) and which of the three tags fit (0 to 2, sorted)."""

    family: int
    candidates: tuple[int, ...]

    @property
    def tags(self) -> tuple[int, ...]:
        """The tags that fit, as indices into `persona.lamp.tasks.MOVIE_TAGS`."""
        return tuple(FAMILIES[self.family][candidate] for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class TagHabit:
    """Per family, the index into `ORDERS` of the order in which its tags please the user."""

    orders: tuple[int, ...]

    def tag(self, content: TagContent, slip: int = TAG_SLIPS, other: int = 0) -> int:
        """The tag the user picks (index into `MOVIE_TAGS`).

        Args:
            content: what the film fits.
            slip: the die with `TAG_SLIPS` sides; 0 makes the user pick another tag than the favourite.
            other: which of the others, 0 or 1.
        """
        order = ORDERS[self.orders[content.family]]
        ranked = [rank for rank in order if rank in content.candidates]
        pick = ranked[1 + other % (len(ranked) - 1)] if slip == 0 else ranked[0]
        return FAMILIES[content.family][pick]

    def answers(self, content: TagContent) -> dict[int, float]:
        """The probability of each tag that fits."""
        favourite = self.tag(content)
        missed = 1 / TAG_SLIPS / (len(content.candidates) - 1)
        return {tag: 1 - 1 / TAG_SLIPS if tag == favourite else missed for tag in content.tags}


def tag_prior(content: TagContent) -> Iterator[tuple[TagHabit, float]]:
    """Every order of the content's family, with its probability; the other families stand at their first order."""
    for order, odds in enumerate(ORDER_ODDS):
        orders = [0] * len(FAMILIES)
        orders[content.family] = order
        yield TagHabit(tuple(orders)), odds / sum(ORDER_ODDS)


# --------------------------------------------------------------------------------------------------------- headlines

TEMPLATES = ("{favourite}: {core}", "{core} - {favourite}", "how {core}, {favourite}", "the day {core}, {favourite}")
BARE_TEMPLATES = ("{core}", "{core}", "how {core}", "the day {core}")
"""`TEMPLATES` for the user who has no favourite words."""

TEMPLATE_ODDS = (3, 3, 2, 2)
FAVOURITE_ODDS = (4, 2, 2, 2, 2, 2, 2, 2, 2)
REGISTER_ODDS = (2, 1, 1)
LENGTH_ODDS = (2, 3)
CASING_ODDS = (1, 1, 1)
PUNCTUATION_ODDS = (2, 1, 1)
"""How common each value of a style is, as parts of the sum of its row."""

CASINGS = ("sentence", "title", "lower")
PUNCTUATION = ("", "!", "...")

HEADLINE_SLIPS = 12
"""One headline in this many carries favourite words of others (each equally often)."""


@dataclass(frozen=True, slots=True)
class HeadlineContent:
    """What an article says: who did what to which thing, where and when.

    Attributes:
        owner: two lower-case words (``"harbour council"``).
        event: index into `EVENTS`.
        thing: two lower-case words (``"wooden bridge"``).
        place: a capitalised word.
        day: a capitalised word.
    """

    owner: str
    event: int
    thing: str
    place: str
    day: str


@dataclass(frozen=True, slots=True)
class HeadlineHabit:
    """How a user writes headlines.

    Attributes:
        template: index into `TEMPLATES`.
        favourite: index into `FAVOURITES`; 0 is no favourite words.
        register: which verb of `EVENTS`: 0 plain, 1 lofty, 2 casual.
        length: 0 leaves place and day out, 1 names them.
        casing: index into `CASINGS`.
        punctuation: index into `PUNCTUATION`.
    """

    template: int
    favourite: int
    register: int
    length: int
    casing: int = 2
    punctuation: int = 0

    def headline(self, content: HeadlineContent, slip: int = HEADLINE_SLIPS, other: int = 0) -> str:
        """The headline the user writes.

        Args:
            content: what the article says.
            slip: the die with `HEADLINE_SLIPS` sides; 0 swaps the favourite words for others.
            other: which of the others, 0 to ``len(FAVOURITES) - 2``.
        """
        favourite = self.favourite
        if slip == 0:
            favourite = other if other < favourite else other + 1
        title_case = self.casing == 1
        verb = EVENTS[content.event][1][self.register]
        core = f"{content.owner} {verb} {content.thing}"
        if self.length:
            core = f"{core} in {content.place} on {content.day}"
        if favourite:
            text = TEMPLATES[self.template].format(core=core, favourite=FAVOURITES[favourite])
        else:
            text = BARE_TEMPLATES[self.template].format(core=core)
        if title_case:
            text = " ".join([word[0].upper() + word[1:] for word in text.split(" ")])
        elif self.casing == 0:
            text = text[0].upper() + text[1:]
        else:
            text = text.lower()
        return text + PUNCTUATION[self.punctuation]

    def favourites(self) -> list[tuple[int, float]]:
        """Every choice of favourite words that may stand in a headline of this user, with its probability."""
        others = [favourite for favourite in range(len(FAVOURITES)) if favourite != self.favourite]
        slipped = 1 / HEADLINE_SLIPS / len(others)
        return [(self.favourite, 1 - 1 / HEADLINE_SLIPS), *[(favourite, slipped) for favourite in others]]


def style_prior() -> list[tuple[HeadlineHabit, float]]:
    """Every style as ROUGE sees it (casing and punctuation do not count), with its probability."""
    rows = (TEMPLATE_ODDS, FAVOURITE_ODDS, REGISTER_ODDS, LENGTH_ODDS)
    styles = product(*[range(len(odds)) for odds in rows])
    return [(HeadlineHabit(*style), _share(rows, style)) for style in styles]


def _share(rows: Sequence[Sequence[int]], values: Sequence[int]) -> float:
    share = 1.0
    for odds, value in zip(rows, values, strict=True):
        share *= odds[value] / sum(odds)
    return share


# -------------------------------------------------------------------------------------------------------- all of them


@dataclass(frozen=True, slots=True)
class Traits:
    """Everything about a user that decides their answers. No text of the world states any of it."""

    rating: RatingHabit
    tag: TagHabit
    headline: HeadlineHabit


Content = RatingContent | TagContent | HeadlineContent
"""What a text says, whoever answers to it."""
