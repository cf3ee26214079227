"""Baselines: what a user's own records say without any LLM."""

from __future__ import annotations

import pytest

from persona.eval.benchmark import Question
from persona.eval.benchmarks.baselines import (
    lamp_baselines,
    mean_score,
    median_score,
    most_frequent_label,
    nearest_record_target,
)
from persona.eval.metrics import score_lamp
from persona.lamp.tasks import lamp_task
from persona.records import Profile, Record, ScoredRecord


def _records(*targets: str | None) -> list[Record]:
    """One record a year with these targets, oldest first."""
    return [Record(f"text {n}", target=target, time=str(2000 + n)) for n, target in enumerate(targets)]


def test_the_most_frequent_label() -> None:
    assert most_frequent_label(_records("crime", "travel", "crime"), "none") == "crime"
    assert most_frequent_label(_records("crime", "travel", " crime ", "travel"), "none") == "travel"
    assert most_frequent_label(_records("crime", "travel", "travel", "crime"), "none") == "crime"
    # What counts is the date, not the place in the profile; undated records are the oldest.
    assert most_frequent_label(_records("crime", "travel")[::-1], "none") == "travel"
    assert most_frequent_label([*_records("crime"), Record("undated", target="travel")], "none") == "crime"
    assert most_frequent_label(_records(None, None), "none") == "none"
    assert most_frequent_label([], "none") == "none"


@pytest.mark.parametrize(
    ("targets", "mean", "median"),
    [
        (["5"], "5", "5"),
        (["1", "5", "5"], "4", "5"),  # mean 3.67
        (["1", "1", "5"], "2", "1"),  # mean 2.33
        (["4", "5"], "5", "5"),  # half-way: towards the last
        (["5", "4"], "4", "4"),
        (["1", "4"], "3", "4"),  # mean 2.5; every score from 1 to 4 is a median
        (["4", "1"], "2", "1"),
        (["4.0", "excellent", "nan", "1e9"], "4", "4"),
        (["good", None], "3", "3"),
        ([], "3", "3"),
    ],
)
def test_mean_and_median_scores(targets: list[str | None], mean: str, median: str) -> None:
    assert mean_score(_records(*targets), "3") == mean
    assert median_score(_records(*targets), "3") == median


@pytest.mark.parametrize("targets", [["1", "2", "2", "5", "5", "5", "4"], ["3", "1", "1", "4"], ["2", "5"]])
def test_no_constant_score_is_better_on_the_users_own_records(targets: list[str]) -> None:
    golds = {str(n): target for n, target in enumerate(targets)}
    errors = {
        guess: score_lamp("LaMP_3", golds, dict.fromkeys(golds, guess)).values for guess in ["1", "2", "3", "4", "5"]
    }
    records = _records(*targets)
    assert errors[median_score(records, "")]["MAE"] == min(one["MAE"] for one in errors.values())
    assert errors[mean_score(records, "")]["RMSE"] == min(one["RMSE"] for one in errors.values())


def test_the_nearest_record() -> None:
    old, new, last = _records("old", "new", None)
    assert nearest_record_target([ScoredRecord(old, 2.0), ScoredRecord(new, 1.0)], "none") == "old"
    assert nearest_record_target([ScoredRecord(old, 1.0), ScoredRecord(new, 1.0)], "none") == "new"
    assert nearest_record_target([ScoredRecord(new, 1.0), ScoredRecord(old, 1.0)], "none") == "new"
    assert nearest_record_target([ScoredRecord(last, 3.0), ScoredRecord(old, 1.0)], "none") == "old"
    assert nearest_record_target([ScoredRecord(last, 3.0)], "none") == "none"
    assert nearest_record_target([], "none") == "none"


def _question(task: str, id: str, text: str, records: list[Record]) -> Question:
    profile = Profile(f"user {id}", tuple(records))
    return Question(id, f"user {id}", profile, lamp_task(task).make_input(text), text)


def test_baselines_of_ratings() -> None:
    dull = [Record("dull film", target="1"), Record("great film", target="5"), Record("great play", target="4")]
    questions = [_question("LaMP_3", "0", "a dull evening", dull), _question("LaMP_3", "1", "a film", [])]
    found = lamp_baselines(lamp_task("LaMP_3"), questions)
    # The user without records gets the median of all profiles.
    assert found == {"mean score": ["3", "4"], "median score": ["4", "4"], "nearest record": ["1", "4"]}
    declared = lamp_baselines(lamp_task("LaMP_3"), questions, default="2")
    assert {name: answers[1] for name, answers in declared.items()} == dict.fromkeys(found, "2")
    nobody = lamp_baselines(lamp_task("LaMP_3"), questions[1:])
    assert {name: answers[0] for name, answers in nobody.items()} == dict.fromkeys(found, "3")


def test_baselines_of_labels_and_texts() -> None:
    films = [Record("a war story", target="violence"), Record("a love story", target="romance")]
    questions = [_question("LaMP_2", "0", "love in war", [*films, Record("kisses", target="romance")])]
    questions.append(_question("LaMP_2", "1", "love", []))
    assert lamp_baselines(lamp_task("LaMP_2"), questions) == {
        "most frequent label": ["romance", "romance"],
        "nearest record": ["violence", "romance"],
    }
    papers = [Record("ranking of records", target="Learning to Rank"), Record("trees", target="Forests")]
    titles = [_question("LaMP_5", "0", "records of trees", papers), _question("LaMP_5", "1", "trees", [])]
    assert lamp_baselines(lamp_task("LaMP_5"), titles) == {"nearest record": ["Learning to Rank", ""]}


def test_baselines_where_records_have_no_answers() -> None:
    tweet = _question("LaMP_7", "0", "so tired today", [Record("awake again")])
    assert lamp_baselines(lamp_task("LaMP_7"), [tweet]) == {"question itself": ["so tired today"]}
    citation = Question("0", "u", Profile("u", (Record("abstract", target="title"),)), "which?", "which?")
    assert lamp_baselines(lamp_task("LaMP_1"), [citation]) == {}
