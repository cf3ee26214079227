"""The vocabulary of the seeded world: some 2,000 plain English words, read from ``words.toml``.

Every list is a tuple in a fixed order, because a draw is an index into it: to append a word changes the world that a
seed gives. The lists that carry meaning (`CUES`, `ASPECTS`, `PRAISE`, `BLAME`) hold no word twice, so a cue
tells its tag and an adjective its sentiment.

>>> CUES[9][:3]  # of the tag "fantasy"
('dragons', 'wizards', 'spells')
"""

from __future__ import annotations

import tomllib
from pathlib import Path

_LISTS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))


def _words(name: str) -> tuple[str, ...]:
    """A list of words, or of phrases."""
    entries = _LISTS[name]
    return tuple(entries.split() if isinstance(entries, str) else entries)


def _rows(name: str) -> tuple[tuple[str, ...], ...]:
    """A list of rows of words."""
    return tuple(tuple(row.split()) for row in _LISTS[name])


# films and tags

FAMILIES = (
    (0, 5, 9),  # sci-fi, dystopia, fantasy
    (2, 6, 10),  # comedy, dark comedy, romance
    (4, 8, 11),  # twist ending, psychology, thought-provoking
    (3, 12, 13),  # action, social commentary, violence
    (1, 7, 14),  # based on a book, classic, true story
)
"""The tags that compete with one another for the same film, as indices into `persona.lamp.tasks.MOVIE_TAGS`."""

CUES = _rows("cues")
"""Per tag, the plural nouns that make a description fit it."""
SETTINGS = _rows("settings")
"""Per family, the places in which its films play."""
PEOPLE = _words("people")
PERSON_ADJECTIVES = _words("person_adjectives")
FILM_VERBS = _words("film_verbs")

# reviews and scores

ASPECTS = _rows("aspects")
"""What a review may touch; each row names one aspect in three ways."""
PRAISE = _words("praise")
BLAME = _words("blame")
PRODUCTS = _words("products")
GIVERS = _words("givers")
PURCHASES = _words("purchases")

# articles and headlines

EVENTS = tuple((verb, tuple(headline)) for verb, *headline in _rows("events"))
"""What happened: the article's own verb, and the headline's in the three registers plain, lofty and casual."""
FAVOURITES = _words("favourites")
"""The two words that a user puts into every headline; the first choice is to put none."""
OWNER_MODIFIERS = _words("owner_modifiers")
OWNERS = _words("owners")
THING_ADJECTIVES = _words("thing_adjectives")
THINGS = _words("things")
PLACES = _words("places")
DAYS = _words("days")
SOURCES = _words("sources")
REASONS = _words("reasons")

# by the way

ANIMALS = _words("animals")
FOODS = _words("foods")
PLANTS = _words("plants")
HOBBIES = _words("hobbies")
SHOPS = _words("shops")
SURNAMES = _words("surnames")
BELONGINGS = _words("belongings")
COLOURS = _words("colours")
VEHICLES = _words("vehicles")
ROOMS = _words("rooms")
