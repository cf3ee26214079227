"""What an answer can score at best in the seeded world, with the user known and unknown: computed, not fitted.

Let c be the content of a question, t the user's traits, y the answer and s(p, y) the score of a prediction p. Then

    oracle(c, t) = max over p of  E[s(p, y) | c, t]          only the user's slips are left to chance
    no user(c)   = max over p of  E[s(p, y) | c]             and the traits follow their prior

(min for MAE). Every law is discrete and small, so both are finite sums. For ROUGE, p runs over the headlines that some
user could write; casing and punctuation do not count there, so these are a few hundred. What a method closes of the
gap between the two means is what it won of all that personalization can win (`persona.eval.bootstrap.gap_share`).

>>> film = TagContent(family=0, candidates=(0, 1, 2))
>>> round(no_user_score(film), 4)
0.4297
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from examples.world.traits import (
    CASINGS,
    SCORES,
    TEMPLATES,
    Content,
    HeadlineContent,
    HeadlineHabit,
    RatingContent,
    TagContent,
    Traits,
    rating_prior,
    style_prior,
    tag_prior,
)
from examples.world.words import EVENTS, FAVOURITES
from persona.errors import InvalidOptionError
from persona.lamp.tasks import MOVIE_TAGS

BOUND_METRICS: Mapping[str, tuple[str, ...]] = {
    "LaMP_2": ("accuracy",),
    "LaMP_3": ("MAE", "accuracy"),
    "LaMP_4": ("rouge-1", "rouge-L"),
}
"""The metrics whose bounds are known, per task; the first is LaMP's own choice."""

_NO_WORD = -1
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")


def oracle_score(content: Content, traits: Traits, metric: str | None = None) -> float:
    """The best expected score of one question for who knows the user's traits.

    Args:
        content: what the question says (`WorldQuestion.content`).
        traits: the user's (`WorldQuestion.user.traits`).
        metric: one of the task's `BOUND_METRICS`; the first if None.

    Returns:
        0 to 1; for MAE 0 to 4, less is better.

    Raises:
        InvalidOptionError: if the metric has no bound for such content.
    """
    metric = _checked(content, metric)
    if isinstance(content, RatingContent):
        return _best_number(traits.rating.answers(content), metric)[1]
    if isinstance(content, TagContent):
        return max(traits.tag.answers(content).values())
    bare = _bare(traits.headline)
    styles = _styles()
    law = np.zeros(len(styles))
    for style, share in _slipped_styles(bare):
        law[styles[style]] += share
    return float((_style_scores(_anonymous(content), metric) @ law).max())


def no_user_score(content: Content, metric: str | None = None) -> float:
    """The best expected score of one question for who does not know the user; as `oracle_score` otherwise."""
    metric = _checked(content, metric)
    if isinstance(content, RatingContent):
        return _best_number(_rating_law(content), metric)[1]
    if isinstance(content, TagContent):
        return max(_tag_law(content).values())
    return _best_style(_anonymous(content), metric)[1]


def no_user_answer(content: Content, metric: str | None = None) -> str:
    """The answer that earns `no_user_score`: what to say of `content` to nobody in particular.

    Args:
        content: what the question says.
        metric: one of the task's `BOUND_METRICS`; the first if None. ROUGE leaves casing and punctuation open: the
            headline is written as a sentence, without a mark at its end.

    Raises:
        InvalidOptionError: if the metric has no bound for such content.
    """
    metric = _checked(content, metric)
    if isinstance(content, RatingContent):
        return str(_best_number(_rating_law(content), metric)[0])
    if isinstance(content, TagContent):
        law = _tag_law(content)
        return MOVIE_TAGS[max(law, key=law.__getitem__)]
    best = _best_style(_anonymous(content), metric)[0]
    sentence = CASINGS.index("sentence")
    return HeadlineHabit(best.template, best.favourite, best.register, best.length, sentence).headline(content)


def _rouge_words(text: str) -> list[str]:
    """The words that ROUGE compares, as ``rouge_score`` without a stemmer cuts them."""
    return _NOT_A_WORD.sub(" ", text.lower()).split()


# ------------------------------------------------------------------------------------------------------ ratings, tags


def _rating_law(content: RatingContent) -> dict[int, float]:
    """The probability of each score by nobody in particular."""
    law = dict.fromkeys(SCORES, 0.0)
    for habit, share in rating_prior(content):
        for score, chance in habit.answers(content).items():
            law[score] += share * chance
    return law


def _tag_law(content: TagContent) -> dict[int, float]:
    """The probability of each tag that fits, picked by nobody in particular."""
    law = dict.fromkeys(content.tags, 0.0)
    for habit, share in tag_prior(content):
        for tag, chance in habit.answers(content).items():
            law[tag] += share * chance
    return law


def _best_number(law: Mapping[int, float], metric: str) -> tuple[int, float]:
    """The best score to name, and what it is worth."""
    if metric == "accuracy":
        return max(law.items(), key=lambda named: named[1])
    # The median minimises the expected distance, and a median of whole scores is one of them.
    losses = {guess: sum(chance * abs(guess - score) for score, chance in law.items()) for guess in SCORES}
    return min(losses.items(), key=lambda named: named[1])


# ---------------------------------------------------------------------------------------------------------- headlines


def _bare(habit: HeadlineHabit) -> HeadlineHabit:
    return HeadlineHabit(habit.template, habit.favourite, habit.register, habit.length)


def _slipped_styles(habit: HeadlineHabit) -> list[tuple[HeadlineHabit, float]]:
    """The styles in which a user of style `habit` may write, slips of the favourite words included."""
    return [
        (HeadlineHabit(habit.template, favourite, habit.register, habit.length), chance)
        for favourite, chance in habit.favourites()
    ]


@cache
def _style_law() -> NDArray[np.float64]:
    """The probability that a headline by nobody in particular has each style of `style_prior`.  # (styles,)"""
    place = _styles()
    law = np.zeros(len(place))
    for habit, share in style_prior():
        for style, chance in _slipped_styles(habit):
            law[place[style]] += share * chance
    return law


@cache
def _styles() -> dict[HeadlineHabit, int]:
    return {habit: index for index, (habit, _) in enumerate(style_prior())}


@cache
def _style_words() -> frozenset[str]:
    """The words that a headline may hold whatever the article says."""
    return frozenset(
        _rouge_words(" ".join([*TEMPLATES, *FAVOURITES, "in on", *(verb for _, verbs in EVENTS for verb in verbs)]))
    )


def _anonymous(content: HeadlineContent) -> HeadlineContent:
    """`content` with its words numbered as they come, unless a style has the same word.

    ROUGE sees only which words are equal, so that nearly all articles on one event have the same scores.
    """
    seen: dict[str, str] = {}

    def renamed(text: str) -> str:
        words = _rouge_words(text)
        return " ".join(word if word in _style_words() else seen.setdefault(word, f"w{len(seen)}") for word in words)

    owner, thing = renamed(content.owner), renamed(content.thing)
    return HeadlineContent(owner, content.event, thing, renamed(content.place), renamed(content.day))


@lru_cache(maxsize=256)
def _style_scores(content: HeadlineContent, metric: str) -> NDArray[np.float64]:
    """ROUGE between the headlines in any two styles.  # (styles, styles)"""
    words = [_rouge_words(habit.headline(content)) for habit in _styles()]
    numbers: dict[str, int] = {}
    lengths = np.array([len(line) for line in words])
    lines = np.full((len(words), lengths.max()), _NO_WORD, dtype=np.int64)
    for row, line in enumerate(words):
        lines[row, : len(line)] = [numbers.setdefault(word, len(numbers)) for word in line]
    common = _pairwise_words(lines) if metric == "rouge-1" else _pairwise_subsequences(lines)
    scores: NDArray[np.float64] = 2 * common / (lengths[:, None] + lengths[None, :])
    return scores


@lru_cache(maxsize=256)
def _best_style(content: HeadlineContent, metric: str) -> tuple[HeadlineHabit, float]:
    """The style that does best with nobody in particular, and its expected score."""
    expected = _style_scores(content, metric) @ _style_law()
    best = int(expected.argmax())
    return list(_styles())[best], float(expected[best])


def _pairwise_words(lines: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many words any two lines share, repetitions counted.  # (lines, lines)"""
    counts = np.stack([(lines == word).sum(1) for word in range(lines.max() + 1)], axis=1)
    common = np.zeros((len(lines), len(lines)))
    for repeated in range(1, int(counts.max()) + 1):
        # min(a, b) is the number of r >= 1 with a >= r and b >= r.
        has = (counts >= repeated).astype(np.float64)
        common += has @ has.T
    return common


def _pairwise_subsequences(lines: NDArray[np.int64]) -> NDArray[np.float64]:
    """Length of the longest common subsequence of any two lines.  # (lines, lines)"""
    n, width = lines.shape
    ours, theirs = lines[:, None, :], np.where(lines == _NO_WORD, _NO_WORD - 1, lines)[None, :, :]
    above = np.zeros((width + 1, n, n), dtype=np.int8)
    for i in range(width):
        row = np.zeros_like(above)
        for j in range(width):
            equal = ours[:, :, i] == theirs[:, :, j]
            row[j + 1] = np.where(equal, above[j] + 1, np.maximum(above[j + 1], row[j]))
        above = row
    return above[width].astype(np.float64)


def _checked(content: Content, metric: str | None) -> str:
    task = "LaMP_3" if isinstance(content, RatingContent) else "LaMP_2" if isinstance(content, TagContent) else "LaMP_4"
    known = BOUND_METRICS[task]
    if metric is None:
        return known[0]
    if metric not in known:
        raise InvalidOptionError(
            f"a metric with a known bound for {task} must be one of {', '.join(known)}, was: {metric!r}"
        )
    return metric
