"""A seeded world: users with hidden habits who write in the shapes of LaMP_2, LaMP_3 and LaMP_4, without end.

A user is a number in a split, and everything about them follows from ``(seed, split, index)`` by a counter-based
generator: user 900,000 costs what user 0 costs, nothing is kept, and splits share no user. What an answer can score at
best, with the user known and unknown, is computed in `examples.world.bounds`.

>>> world = World(seed=0)
>>> question = next(world.questions("LaMP_3", "dev", users=1, records_per_user=10))
>>> question.question.user_id, len(question.question.profile), question.gold in {"1", "2", "3", "4", "5"}
('dev-0', 10, True)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np

from examples.world.bounds import no_user_score, oracle_score
from examples.world.text import ARTICLE_DICE, DESCRIPTION_DICE, REVIEW_DICE, article, description, review
from examples.world.traits import (
    BIASES,
    CASING_ODDS,
    FAVOURITE_ODDS,
    HEADLINE_SLIPS,
    LENGTH_ODDS,
    ORDER_ODDS,
    PUNCTUATION_ODDS,
    RATING_SLIPS,
    REGISTER_ODDS,
    TAG_SLIPS,
    TEMPLATE_ODDS,
    Content,
    HeadlineContent,
    HeadlineHabit,
    RatingContent,
    RatingHabit,
    TagContent,
    TagHabit,
    Traits,
    slipped_score,
)
from examples.world.words import ASPECTS, FAMILIES, FAVOURITES
from persona.errors import InvalidOptionError
from persona.files import write_atomically
from persona.lamp.tasks import MOVIE_TAGS, Question, lamp_task
from persona.records import Profile, Record

SPLITS = ("train", "dev", "test", "pretrain")
"""The three splits of LaMP, and the users on whom the LLM `tiny` was trained, who are in none of them."""

WORLD_TASKS = ("LaMP_2", "LaMP_3", "LaMP_4")

_FIRST_DAY = date(2010, 1, 1).toordinal()
_DAYS_BETWEEN_RECORDS = 5
_SLIP_DICE = {"LaMP_2": (TAG_SLIPS, 2), "LaMP_3": (RATING_SLIPS, 1), "LaMP_4": (HEADLINE_SLIPS, len(FAVOURITES) - 1)}
_WORDING_DICE = {"LaMP_2": DESCRIPTION_DICE, "LaMP_3": REVIEW_DICE, "LaMP_4": ARTICLE_DICE}
_WORDING: dict[str, Callable[[Sequence[int]], tuple[Content, str]]] = {
    "LaMP_2": description,
    "LaMP_3": review,
    "LaMP_4": article,
}


def _loaded(odds: Sequence[int]) -> tuple[int, ...]:
    """The faces of a die on which value i stands ``odds[i]`` times."""
    return tuple(value for value, sides in enumerate(odds) for _ in range(sides))


_ORDER_DIE = _loaded(ORDER_ODDS)
_STYLE_DICE = tuple(
    map(_loaded, (TEMPLATE_ODDS, FAVOURITE_ODDS, REGISTER_ODDS, LENGTH_ODDS, CASING_ODDS, PUNCTUATION_ODDS))
)
_TRAIT_DICE = (
    *(len(BIASES), *[2] * len(ASPECTS)),
    *[len(_ORDER_DIE)] * len(FAMILIES),
    *[len(die) for die in _STYLE_DICE],
)
_HISTORY, _QUESTIONS = 0, 1
"""The two streams of dice that a user has for a task."""


@dataclass(frozen=True, slots=True)
class WorldUser:
    """One inhabitant.

    Attributes:
        user_id: ``"dev-17"``: the split and the index.
        split: one of `SPLITS`.
        index: which user of the split, from 0.
        traits: what they answer by, and no text says.
    """

    user_id: str
    split: str
    index: int
    traits: Traits


@dataclass(frozen=True, slots=True)
class WorldQuestion:
    """A question of which everything is known.

    Attributes:
        question: as a LaMP file holds it: official input, profile, time.
        gold: what the user answered.
        content: what the question's text says.
        user: who asks; ``user.traits`` is what the oracle knows.
    """

    question: Question
    gold: str
    content: Content
    user: WorldUser


class World:
    """All users, texts and answers that a seed gives.

    Args:
        seed: 0 to 2**64 - 1. Worlds of two seeds share vocabulary and habits' laws, but no user.

    Raises:
        InvalidOptionError: if `seed` is out of range.
    """

    def __init__(self, seed: int = 0) -> None:
        if not 0 <= seed < 2**64:
            raise InvalidOptionError(f"a world's `seed` must be from 0 to 2**64 - 1, was: {seed}")
        self.seed = seed

    def user(self, split: str, index: int) -> WorldUser:
        """User `index` of `split`.

        Raises:
            InvalidOptionError: if there is no such split, or `index` is negative.
        """
        if index < 0:
            raise InvalidOptionError(f"a user's `index` must be at least 0, was: {index}")
        faces = self._throw(split, index, 0, _TRAIT_DICE, 1)[0]
        bias, weights = faces[0], faces[1 : 1 + len(ASPECTS)]
        orders = faces[1 + len(ASPECTS) : 1 + len(ASPECTS) + len(FAMILIES)]
        style = [die[face] for die, face in zip(_STYLE_DICE, faces[-len(_STYLE_DICE) :], strict=True)]
        traits = Traits(
            rating=RatingHabit(BIASES[bias], tuple(weights)),
            tag=TagHabit(tuple(_ORDER_DIE[face] for face in orders)),
            headline=HeadlineHabit(*style),
        )
        return WorldUser(f"{split}-{index}", split, index, traits)

    def records(self, user: WorldUser, task: str, n: int) -> tuple[Record, ...]:
        """The first `n` records of the user's history for a task, oldest first; fewer are a prefix of more.

        Raises:
            InvalidOptionError: if `task` is none of `WORLD_TASKS`, or `n` is negative.
        """
        name = task[-1]
        days = _FIRST_DAY + user.index % 365
        return tuple(
            Record(text, target, _iso_date(days + _DAYS_BETWEEN_RECORDS * place), f"{name}-{place}")
            for place, (_, text, target) in enumerate(self._written(user, task, _HISTORY, n))
        )

    def contents(self, user: WorldUser, task: str, n: int) -> tuple[Content, ...]:
        """What each of `records` says.

        Raises:
            InvalidOptionError: as `records` does.
        """
        return tuple(content for content, _, _ in self._written(user, task, _HISTORY, n))

    def question(
        self, task: str, user: WorldUser, records_per_user: int = 20, number: int = 0, per_user: int = 1
    ) -> WorldQuestion:
        """The user's question `number`, asked after all of their records.

        Args:
            task: one of `WORLD_TASKS`.
            user: who asks.
            records_per_user: length of the profile.
            number: which of the user's questions, from 0.
            per_user: how many questions each user of the split has; only the official id depends on it.

        Raises:
            InvalidOptionError: if `task` is none of `WORLD_TASKS`, or a number is out of range.
        """
        if not 0 <= number < per_user:
            raise InvalidOptionError(f"a question's `number` must be from 0 to {per_user - 1}, was: {number}")
        profile = Profile(user.user_id, self.records(user, task, records_per_user))
        content, text, gold = self._written(user, task, _QUESTIONS, number + 1)[number]
        asked = _iso_date(_FIRST_DAY + user.index % 365 + _DAYS_BETWEEN_RECORDS * records_per_user + number)
        lamp = lamp_task(task)
        question = Question(
            id=f"{int(task[-1]) - 1}{SPLITS.index(user.split)}{user.index * per_user + number}",
            user_id=user.user_id,
            input=lamp.make_input(text),
            profile=profile,
            time=asked,
        )
        return WorldQuestion(question, gold, content, user)

    def questions(
        self, task: str, split: str, users: int | Iterable[int], records_per_user: int = 20, per_user: int = 1
    ) -> Iterator[WorldQuestion]:
        """The questions of some users, one after the other.

        Args:
            task: one of `WORLD_TASKS`.
            split: one of `SPLITS`.
            users: how many (the first ones), or which indices.
            records_per_user: length of each profile.
            per_user: questions of each user.

        Raises:
            InvalidOptionError: as `user` and `question` do.
        """
        for index in range(users) if isinstance(users, int) else users:
            user = self.user(split, index)
            for number in range(per_user):
                yield self.question(task, user, records_per_user, number, per_user)

    def stream(
        self, task: str, split: str, users: int | Iterable[int], records_per_user: int = 10
    ) -> Iterator[tuple[str, Record]]:
        """``(user_id, record)`` of all records of some users, user after user; memory does not grow.

        Raises:
            InvalidOptionError: as `user` and `records` do.
        """
        for index in range(users) if isinstance(users, int) else users:
            user = self.user(split, index)
            for record in self.records(user, task, records_per_user):
                yield user.user_id, record

    def write_lamp(
        self,
        folder: str | PathLike[str],
        task: str,
        users: Mapping[str, int],
        records_per_user: int = 20,
        *,
        bounds: bool = False,
    ) -> None:
        """Write ``{split}_questions.json`` and ``{split}_outputs.json`` in LaMP's official form, streaming.

        Questions carry ``user_id`` and ``date`` as those of LaMP's time split do. Existing files are replaced.

        Args:
            folder: made if it is not there.
            task: one of `WORLD_TASKS`.
            users: split -> number of users, one question each (``{"train": 1000, "dev": 200, "test": 200}``).
            records_per_user: length of each profile.
            bounds: also write ``{split}_bounds.json``: by question the best expected score with the user unknown and
                known, ``{"120": [0.43, 0.95], ...}``.

        Raises:
            InvalidOptionError: as `questions` does; then no file was touched.
        """
        _check_task(task)
        for split, count in users.items():
            if split not in SPLITS:
                raise InvalidOptionError(f"a split must be one of {', '.join(SPLITS)}, was: {split!r}")
            if count < 0:
                raise InvalidOptionError(f"a number of users must be at least 0, was: {count} for {split!r}")
        if records_per_user < 0:
            raise InvalidOptionError(f"a number of records must be at least 0, was: {records_per_user}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lamp = lamp_task(task)
        for split, count in users.items():
            with (
                (folder / f"{split}_questions.json").open("w", encoding="utf-8") as questions,
                (folder / f"{split}_outputs.json").open("w", encoding="utf-8") as outputs,
            ):
                questions.write("[")
                outputs.write(f'{{"task": {json.dumps(lamp.official_name)}, "golds": [')
                separator = "\n"
                for asked in self.questions(task, split, count, records_per_user):
                    question = asked.question
                    profile = [
                        lamp.entry(record, f"{question.id}{place}") for place, record in enumerate(question.profile)
                    ]
                    row = {
                        "id": question.id,
                        "user_id": question.user_id,
                        "date": question.time,
                        "input": question.input,
                        "profile": profile,
                    }
                    questions.write(separator + json.dumps(row, ensure_ascii=False))
                    outputs.write(separator + json.dumps({"id": question.id, "output": asked.gold}))
                    separator = ",\n"
                questions.write("\n]\n")
                outputs.write("\n]}\n")
            if bounds:
                best = {
                    asked.question.id: [no_user_score(asked.content), oracle_score(asked.content, asked.user.traits)]
                    for asked in self.questions(task, split, count, records_per_user=0)
                }
                write_atomically(folder / f"{split}_bounds.json", json.dumps(best) + "\n")

    def _written(self, user: WorldUser, task: str, stream: int, n: int) -> list[tuple[Content, str, str]]:
        """Content, text and answer of the first `n` rows that a user throws for a task."""
        _check_task(task)
        if n < 0:
            raise InvalidOptionError(f"a number of records must be at least 0, was: {n}")
        place = 1 + 2 * WORLD_TASKS.index(task) + stream
        rows = self._throw(user.split, user.index, place, (*_SLIP_DICE[task], *_WORDING_DICE[task]), n)
        write = _WORDING[task]
        written = []
        for slip, other, *dice in rows:
            content, text = write(dice)
            written.append((content, text, _answer(user.traits, content, slip, other)))
        return written

    def _throw(self, split: str, index: int, stream: int, dice: Sequence[int], rows: int) -> list[list[int]]:
        """`rows` throws of `dice`, each face from 0 to sides - 1. More rows begin with the same rows."""
        if split not in SPLITS:
            raise InvalidOptionError(f"a split of the world must be one of {', '.join(SPLITS)}, was: {split!r}")
        key = np.array([self.seed, SPLITS.index(split)], dtype=np.uint64)
        # Philox counts up its first two words, so distinct third and fourth words are streams that never meet.
        counter = np.array([0, 0, stream, index], dtype=np.uint64)
        uniform = np.random.Generator(np.random.Philox(key=key, counter=counter)).random((rows, len(dice)))
        faces: list[list[int]] = (uniform * np.array(dice)).astype(np.int64).tolist()
        return faces


@lru_cache(maxsize=2**14)
def _check_task(task: str) -> None:
    if task not in WORLD_TASKS:
        raise InvalidOptionError(f"a task of the world must be one of {', '.join(WORLD_TASKS)}, was: {task!r}")


def _iso_date(day: int) -> str:
    return date.fromordinal(day).isoformat()


def _answer(traits: Traits, content: Content, slip: int, other: int) -> str:
    if isinstance(content, RatingContent):
        return str(slipped_score(traits.rating.score(content), slip))
    if isinstance(content, TagContent):
        return MOVIE_TAGS[traits.tag.tag(content, slip, other)]
    assert isinstance(content, HeadlineContent)
    return traits.headline.headline(content, slip, other)
