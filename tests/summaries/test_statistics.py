"""Profiles as exact statistics, against cases computed by hand."""

from __future__ import annotations

import random

import pytest

from persona.errors import UnknownTaskError
from persona.records import Profile, Record
from persona.summaries.statistics import KINDS, profile_stats


def profile(*targets: str | None) -> Profile:
    return Profile("ana", tuple(Record(f"text {place}", target=target) for place, target in enumerate(targets)))


def test_scores_are_counted() -> None:
    stats = profile_stats(profile("2", "4", "4", "3", "3"), "LaMP_3")
    assert (stats.kind, stats.records, stats.target) == ("scores", 5, "3")
    assert stats.text == (
        "This user gave 5 scores: 2 once, 3 twice, 4 twice; median 3, mean 3.2; last, newest first: 3, 3, 4, 4, 2."
    )


def test_a_median_between_two_scores_is_the_later_one() -> None:
    assert profile_stats(profile("2", "3"), "LaMP_3").target == "3"
    assert profile_stats(profile("3", "2"), "LaMP_3").target == "2"
    assert "median 2.5" in profile_stats(profile("3", "2"), "LaMP_3").text


def test_labels_are_ranked_and_equal_ones_by_the_last() -> None:
    stats = profile_stats(profile("comedy", "drama", "drama", "comedy", "action"), "LaMP_2")
    assert (stats.kind, stats.target) == ("labels", "comedy, drama, action")
    assert "comedy twice, drama twice, action once; last, newest first: action, comedy, drama" in stats.text


def test_the_newest_are_those_with_the_latest_time() -> None:
    records = (Record("a", target="5", time="2012"), Record("b", target="1", time="2010"), Record("c", target="2"))
    assert profile_stats(Profile("ana", records), "LaMP_3").text.endswith("last, newest first: 5, 1, 2.")


def test_titles_have_habits() -> None:
    stats = profile_stats(
        profile(
            "The Big Day of the Mayor!", "A Big Day for Bridges!", "Big Day, and No Rain at All?", "Harbour News Today!"
        ),
        "LaMP_4",
    )
    assert stats.kind == "titles"
    assert stats.text == (
        "This user wrote 4 titles: median length 5.5 words (3 to 7), in title case (100%), "
        'ending in "!" (75%); often with “big day”.'
    )
    # Two of its five words, big and day, stand in two other titles each: 4/5, as for the first one, which is older.
    assert stats.target == "A Big Day for Bridges!"


@pytest.mark.parametrize(
    ("title", "casing"),
    [
        ("all small words", "lower case"),
        ("SHOUTED WORDS", "capitals"),
        ("Mayor Opens the Bridge", "title case"),
        ("Mayor opens the bridge", "sentence case"),
    ],
)
def test_casing(title: str, casing: str) -> None:
    assert f"in {casing} (100%)" in profile_stats(profile(title), "LaMP_5").text


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        ((None, None), "texts"),
        (("1", "5", "3"), "scores"),
        (("a", "b", "a", "b"), "labels"),
        (("a", "b", "c"), "titles"),
        (("a", "b", "c c", "a"), "labels"),
        (("a", "b", "a longer one than that", "a"), "titles"),
        (("10.5", "x", "x", "x"), "labels"),
    ],
)
def test_a_free_history_is_classified_by_its_targets(targets: tuple[str | None, ...], kind: str) -> None:
    assert profile_stats(profile(*targets)).kind == kind


def test_nothing_to_count_is_an_empty_text() -> None:
    for task in ("free", "LaMP_1", "LaMP_2", "LaMP_3", "LaMP_4", "LaMP_7"):
        stats = profile_stats(Profile("nobody"), task)
        assert (stats.text, stats.target, stats.records) == ("", None, 0)
        assert stats.kind in KINDS
    assert profile_stats(profile("not a score"), "LaMP_3").text == ""
    assert profile_stats(profile("?!"), "LaMP_4").text == ""


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownTaskError):
        profile_stats(Profile("ana"), "LaMP_9")


def test_odd_texts_do_not_break_it_and_the_answer_is_always_the_same() -> None:
    chance = random.Random(0)
    alphabet = "aB ẞß'-.!?…\n\t7\u200f\U0001f600"
    for _ in range(200):
        targets = ["".join(chance.choices(alphabet, k=chance.randrange(1, 12))) for _ in range(chance.randrange(1, 9))]
        for task in ("free", "LaMP_2", "LaMP_3", "LaMP_4"):
            stats = profile_stats(profile(*targets), task)
            assert stats == profile_stats(profile(*targets), task)
            assert stats.target is None or stats.target in {target.strip() for target in targets} or task != "LaMP_4"
