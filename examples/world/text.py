"""The grammar of the seeded world: how a review, a film description or an article is worded.

A text is drawn in two steps. A row of dice, one per place in the sentence (`REVIEW_DICE`, ...), is thrown by the
caller, all rows of a user at once; `review`, `description` and `article` turn one row into what the text says
(its content, the only thing an answer depends on) and into the sentence. The wording is independent of the user.

>>> content, text = description([3, 9, 0, 1, 2, 5, 0, 2, 0, 5, 6, 7, 8, 9, 10])
>>> text
'A tired painter from Basel inherits brawls, evictions and chases in a tenement.'
>>> content
TagContent(family=3, candidates=(0, 1, 2))
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from examples.world.traits import CANDIDATE_ODDS, CANDIDATES, HeadlineContent, RatingContent, TagContent
from examples.world.words import (
    ANIMALS,
    ASPECTS,
    BELONGINGS,
    BLAME,
    COLOURS,
    CUES,
    DAYS,
    EVENTS,
    FAMILIES,
    FILM_VERBS,
    FOODS,
    GIVERS,
    HOBBIES,
    OWNER_MODIFIERS,
    OWNERS,
    PEOPLE,
    PERSON_ADJECTIVES,
    PLACES,
    PLANTS,
    PRAISE,
    PRODUCTS,
    PURCHASES,
    REASONS,
    ROOMS,
    SETTINGS,
    SHOPS,
    SOURCES,
    SURNAMES,
    THING_ADJECTIVES,
    THINGS,
    VEHICLES,
)


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


_A_PERSON_ADJECTIVE = tuple(map(_with_article, PERSON_ADJECTIVES))
_A_THING_ADJECTIVE = tuple(map(_with_article, THING_ADJECTIVES))
_A_SETTING = tuple(tuple(map(_with_article, settings)) for settings in SETTINGS)
_CANDIDATE_DIE = tuple(
    candidates for candidates, odds in zip(CANDIDATES, CANDIDATE_ODDS, strict=True) for _ in range(odds)
)
_ORDER_OF_THREE = tuple(permutations(range(3)))
_THREE_ASPECTS = tuple(permutations(range(len(ASPECTS)), 3))
_CUES_PER_TAG = len(CUES[0])
_WIDE_DIE = 9_240
"""Sides of a die whose face is used for several unrelated words at once."""


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


# -------------------------------------------------------------------------------------------------------- films, tags

DESCRIPTION_DICE = (
    *(len(FAMILIES), len(_CANDIDATE_DIE), _CUES_PER_TAG, _CUES_PER_TAG, _CUES_PER_TAG, len(_ORDER_OF_THREE)),
    *(8, len(SETTINGS[0]), len(PERSON_ADJECTIVES), len(PEOPLE), len(FILM_VERBS), len(PLACES), len(GIVERS)),
    *(len(BELONGINGS), len(ANIMALS)),
)
"""Sides of the dice that make a description: what it says (family, candidates), then how."""


def description(dice: Sequence[int]) -> tuple[TagContent, str]:
    """What a film's description says, and its one sentence of 9 to 18 words.

    Args:
        dice: one face per die of `DESCRIPTION_DICE`.
    """
    family, drawn, cue_1, cue_2, cue_3, order, pattern, at, adjective, who, verb, where, name, owned, pet = dice
    candidates = _CANDIDATE_DIE[drawn]
    cues = (cue_1, cue_2, cue_3)
    fitting = [CUES[FAMILIES[family][rank]][cues[rank]] for rank in _ORDER_OF_THREE[order] if rank in candidates]
    themes = _listed(fitting)
    setting = SETTINGS[family][at]
    person = f"{_A_PERSON_ADJECTIVE[adjective]} {PEOPLE[who]}"
    act = FILM_VERBS[verb]
    if pattern == 0:
        text = f"A{person[1:]} from {PLACES[where]} {act} {themes} in {_A_SETTING[family][at]}."
    elif pattern == 1:
        text = f"In {PLACES[where]}, {person} {act} {themes} at the {setting}."
    elif pattern == 2:
        text = f"{GIVERS[name]} and {person} share the {setting} with {themes}."
    elif pattern == 3:
        text = f"With {themes}, {person} {act} the {setting}."
    elif pattern == 4:
        text = f"The {setting}, {person}, the {BELONGINGS[owned]} and {themes}."
    elif pattern == 5:
        text = f"{GIVERS[name]} {act} {person}, the {BELONGINGS[owned]} and {themes} near the {setting}."
    elif pattern == 6:
        text = f"Between {themes}, the {PEOPLE[who]} {GIVERS[name]} {act} the {setting} in {PLACES[where]}."
    else:
        text = f"A{person[1:]} with one {ANIMALS[pet]} {act} {themes} in the {setting}."
    return TagContent(family, candidates), text


# --------------------------------------------------------------------------------------------------- reviews, ratings

REVIEW_DICE = (
    *(5, len(_THREE_ASPECTS), 2, 2, 2),
    *(len(ASPECTS[0]), len(ASPECTS[0]), len(ASPECTS[0]), len(PRAISE), len(PRAISE), len(PRAISE)),
    *(8, len(PRODUCTS), len(GIVERS), _WIDE_DIE),
)
"""Sides of the dice that make a review: how many aspects, which, the sentiments; then the wording."""


def review(dice: Sequence[int]) -> tuple[RatingContent, str]:
    """What a review says, and its one sentence of 9 to 22 words.

    Args:
        dice: one face per die of `REVIEW_DICE`.
    """
    size, drawn, mood_1, mood_2, mood_3, *wording, pattern, what, name, wide = dice
    mentioned = 3 if size < 2 else 2
    aspects = _THREE_ASPECTS[drawn][:mentioned]
    moods = (mood_1, mood_2, mood_3)[:mentioned]
    nouns = [ASPECTS[aspect][wording[place]] for place, aspect in enumerate(aspects)]
    adjectives = [(PRAISE if mood else BLAME)[wording[3 + place]] for place, mood in enumerate(moods)]
    said = list(zip(nouns, adjectives, strict=True))
    thing, giver = PRODUCTS[what], GIVERS[name]
    if pattern in (0, 3, 5, 6):
        claims = _listed([f"the {noun} is {adjective}" for noun, adjective in said])
    else:
        claims = _listed([f"{adjective} {noun}" for noun, adjective in said])
    if pattern == 0:
        text = f"{PURCHASES[wide % len(PURCHASES)]} {COLOURS[wide % len(COLOURS)]} {thing}: {claims}."
    elif pattern == 1:
        text = f"{giver} gave me this {thing}, it has {claims}."
    elif pattern == 2:
        text = f"This {thing} for {HOBBIES[wide % len(HOBBIES)]} has {claims}."
    elif pattern == 3:
        text = f"T{claims[1:]}, says {giver} about the {thing}."
    elif pattern == 4:
        text = f"My {COLOURS[wide % len(COLOURS)]} {thing} from the {SHOPS[wide % len(SHOPS)]} has {claims}."
    elif pattern == 5:
        text = f"{giver} keeps the {thing} in the {ROOMS[wide % len(ROOMS)]}: {claims}."
    elif pattern == 6:
        text = f"I use this {thing} near the {FOODS[wide % len(FOODS)]}: {claims}."
    else:
        text = f"Traded one {BELONGINGS[wide % len(BELONGINGS)]} for this {thing} with {claims}."
    return RatingContent(aspects, tuple(1 if mood else -1 for mood in moods)), text


# ------------------------------------------------------------------------------------------------ articles, headlines

ARTICLE_DICE = (
    *(len(OWNER_MODIFIERS), len(OWNERS), len(EVENTS), len(THING_ADJECTIVES), len(THINGS), len(PLACES), len(DAYS)),
    *(8, len(SOURCES), _WIDE_DIE),
)
"""Sides of the dice that make an article: who, what, where and when; then the wording."""


def article(dice: Sequence[int]) -> tuple[HeadlineContent, str]:
    """What an article says, and its one sentence of 14 to 22 words.

    Args:
        dice: one face per die of `ARTICLE_DICE`.
    """
    modifier, owner, event, adjective, noun, where, when, pattern, source, wide = dice
    content = HeadlineContent(
        owner=f"{OWNER_MODIFIERS[modifier]} {OWNERS[owner]}",
        event=event,
        thing=f"{THING_ADJECTIVES[adjective]} {THINGS[noun]}",
        place=PLACES[where],
        day=DAYS[when],
    )
    owned, thing = f"the {content.owner}", f"{_A_THING_ADJECTIVE[adjective]} {THINGS[noun]}"
    past, place, day, who = EVENTS[event][0], content.place, content.day, SOURCES[source]
    if pattern == 0:
        text = f"T{owned[1:]} {past} {thing} in {place} on {day}, {who} said."
    elif pattern == 1:
        text = f"On {day}, {owned} in {place} {past} {thing} after the {REASONS[wide % len(REASONS)]}."
    elif pattern == 2:
        text = f"{who.capitalize()} in {place} say {owned} {past} {thing} on {day}."
    elif pattern == 3:
        text = f"In {place}, {SURNAMES[wide % len(SURNAMES)]} reports that {owned} {past} {thing} on {day}."
    elif pattern == 4:
        text = f"From one {VEHICLES[wide % len(VEHICLES)]} {who} saw how {owned} {past} {thing} in {place} on {day}."
    elif pattern == 5:
        text = f"T{owned[1:]} {past} {thing}, {SURNAMES[wide % len(SURNAMES)]} told {who} in {place} on {day}."
    elif pattern == 6:
        text = f"Despite the {REASONS[wide % len(REASONS)]} in {place}, {owned} {past} {thing} on {day}."
    else:
        text = f"Beside an old {PLANTS[wide % len(PLANTS)]} in {place}, {owned} {past} {thing} on {day}."
    return content, text
