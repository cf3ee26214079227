"""The choice that scores decide for, against the definition; and the choice that an answer names."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from persona.errors import GenerationError, InvalidOptionError
from persona.llm.answers.choices import chosen, margin, named_choice
from persona.protocols import Choices

STARS = Choices(("1", "2", "3", "4", "5"), ordered=True)
TAGS = Choices(("comedy", "dark comedy", "sci-fi", "true story", "C++"))


@pytest.mark.parametrize("seed", range(20))
def test_the_median_has_the_least_expected_error(seed: int) -> None:
    draw = random.Random(seed)
    p = np.array([draw.random() ** 4 for _ in STARS.texts])
    risks = [sum(weight * abs(a - b) for b, weight in enumerate(p)) for a in range(5)]
    assert risks[STARS.texts.index(chosen(np.log(p).tolist(), STARS))] == min(risks)
    borders = [abs(math.log(p[:n].sum() / p[n:].sum())) for n in range(1, 5)]
    assert margin(np.log(p).tolist(), STARS) == pytest.approx(min(borders))


def test_the_likeliest_is_chosen_and_the_prior_is_taken_off() -> None:
    scores = [-1.0, -1.5, -9.0, -4.0, -8.0]
    assert chosen(scores, TAGS) == "comedy"
    assert margin(scores, TAGS) == pytest.approx(0.5)
    calibrated = replace(TAGS, prior=(-0.2, -3.0, -9.0, -2.0, -2.0))
    assert chosen(scores, calibrated) == "dark comedy"  # 1.5 above its prior; "sci-fi" is as likely as always
    assert margin(scores, calibrated) == pytest.approx(1.5)
    # The prior moves the median, too.
    even = [math.log(0.2)] * 5
    assert chosen(even, STARS) == "3"
    assert chosen(even, replace(STARS, prior=(0.0, 0.0, 0.0, -5.0, -5.0))) == "4"


def test_one_choice_is_no_decision_and_broken_scores_are_none_either() -> None:
    assert chosen([-7.0], Choices(("yes",))) == "yes"
    assert margin([-7.0], Choices(("yes",))) == float("inf")
    with pytest.raises(GenerationError, match="are not numbers"):
        chosen([-1.0, float("nan")], Choices(("yes", "no")))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("comedy", "comedy"),
        ("  **Comedy**. ", "comedy"),
        ("The tag is: dark  comedy", "dark comedy"),  # and not the comedy within it
        ("It is a true story, I think", "true story"),
        ("I would say `C++`!", "C++"),
        ("comedy or sci-fi", None),
        ("comedy, a dark comedy", None),
        ("tragicomedy", None),
        ("", None),
    ],
)
def test_an_answer_names_one_choice_or_none(text: str, named: str | None) -> None:
    assert named_choice(text, TAGS) == named


@pytest.mark.parametrize("texts", [(), ("a", "a"), ("a", " ")])
def test_choices_are_different_texts(texts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidOptionError, match="choices must be different texts"):
        Choices(texts)


def test_choices_are_made_of_texts_or_of_choices() -> None:
    assert Choices.of(["a", "b"]) == Choices(("a", "b"))
    assert Choices.of(STARS) is STARS
    assert Choices.of(None) is None
    with pytest.raises(InvalidOptionError, match="must be a list of texts"):
        Choices.of("ab")
    with pytest.raises(InvalidOptionError, match="one number for each of 2 choices, was: 1"):
        Choices(("a", "b"), prior=(0.0,))
