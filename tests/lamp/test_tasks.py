from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import DataFormatError, InvalidOptionError, UnknownTaskError
from persona.lamp.tasks import MOVIE_TAGS, NEWS_CATEGORIES, TASKS, LampTask, lamp_task
from persona.records import Record

ENTRIES: dict[str, dict[str, object]] = {
    "LaMP_1": {"id": "00", "title": "A T", "abstract": "an a", "date": "2010"},
    "LaMP_2": {"id": "00", "description": "a film", "tag": "comedy", "date": "2010"},
    "LaMP_2N": {"id": "00", "text": "an article", "title": "A T", "category": "politics", "date": "2010-01-02"},
    "LaMP_3": {"id": "00", "text": "a review", "score": "4", "date": "2010-01-02"},
    "LaMP_4": {"id": "00", "text": "an article", "title": "A T", "date": "2010-01-02"},
    "LaMP_5": {"id": "00", "title": "A T", "abstract": "an a", "date": "2010"},
    "LaMP_6": {"id": "00", "text": "a mail", "title": "A T"},
    "LaMP_7": {"id": "00", "text": "a tweet"},
}

# What LaMP's retrievers index, from the official field names.
CORPUS = {
    "LaMP_1": "A T an a",
    "LaMP_2": "a film",
    "LaMP_2N": "A T an article",
    "LaMP_3": "a review",
    "LaMP_4": "A T an article",
    "LaMP_5": "A T an a",
    "LaMP_6": "a mail",
    "LaMP_7": "a tweet",
}

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
words = texts.filter(str.strip)
tasks = st.sampled_from(list(TASKS.values()))


def test_the_tasks_are_lamps() -> None:
    assert list(TASKS) == ["LaMP_1", "LaMP_2", "LaMP_2N", "LaMP_3", "LaMP_4", "LaMP_5", "LaMP_6", "LaMP_7"]
    assert all(task.name == name for name, task in TASKS.items())
    assert [task.official_name for task in TASKS.values()].count("LaMP_2") == 2


@pytest.mark.parametrize("name", TASKS)
def test_the_view_of_a_record_is_lamps_corpus_string(name: str) -> None:
    task = TASKS[name]
    assert task.record(ENTRIES[name]).view(task.view) == CORPUS[name]


@pytest.mark.parametrize("name", TASKS)
def test_a_record_goes_back_into_the_file_as_it_came(name: str) -> None:
    task, entry = TASKS[name], ENTRIES[name]
    assert task.entry(task.record(entry), "00") == entry


@settings(deadline=None)
@given(tasks, words, texts, texts, st.sampled_from([None, "2011", "2011-02-03"]))
def test_every_record_of_a_task_survives_the_file(
    task: LampTask, text: str, target: str, title: str, time: str | None
) -> None:
    record = Record(
        text,
        target=None if task.target_field is None else target,
        time=time,
        metadata={"title": title} if task.extra_fields else {},
    )
    entry = json.loads(json.dumps(task.entry(record, "7")))
    assert task.record(entry) == record


def test_the_id_in_a_file_is_local_to_its_question() -> None:
    task = TASKS["LaMP_3"]
    again = {**ENTRIES["LaMP_3"], "id": "999"}
    assert task.record(again).id == task.record(ENTRIES["LaMP_3"]).id


@pytest.mark.parametrize(
    ("score", "target"), [(4, "4"), (4.0, "4"), (3.5, "3.5"), (1e300, "1e+300"), ("4", "4"), (" 4 ", " 4 ")]
)
def test_numbers_are_taken_for_their_text(score: object, target: str) -> None:
    assert TASKS["LaMP_3"].record({"text": "good", "score": score}).target == target


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"text": "good"}, "must have `score`, has: text"),
        ({}, "must have `text`, has: nothing"),
        ({"text": 5, "score": "4"}, "`text` must be a string, was: 5"),
        ({"text": None, "score": "4"}, "`text` must be a string, was: null"),
        ({"text": " ", "score": "4"}, "`text` must not be empty"),
        ({"text": "good", "score": True}, "`score` must be a string or a number, was: True"),
        ({"text": "good", "score": None}, "`score` must be a string or a number, was: null"),
        ({"text": "good", "score": float("nan")}, "`score` must be a string or a number, was: nan"),
        ({"text": "good", "score": float("inf")}, "`score` must be a string or a number, was: inf"),
        ({"text": "good", "score": ["4"]}, "`score` must be a string or a number"),
        ({"text": "go\ud800od", "score": "4"}, "lone surrogate"),
        ({"text": "go\x00od", "score": "4"}, "NUL"),
        ({"text": "good", "score": "4", "date": "yesterday"}, "a time must be"),
    ],
)
def test_a_bad_entry_is_refused(entry: dict[str, object], message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        TASKS["LaMP_3"].record(entry)


def test_a_record_without_the_tasks_fields_cannot_be_written() -> None:
    with pytest.raises(DataFormatError, match="must have `score`"):
        TASKS["LaMP_3"].entry(Record("good"), "0")
    with pytest.raises(DataFormatError, match="must have `title`"):
        TASKS["LaMP_2N"].entry(Record("good", target="politics"), "0")


@pytest.mark.parametrize(
    ("name", "input", "query"),
    [
        ("LaMP_1", 'by the title "T", which? [1]: "Ref one" [2]: "Ref two"', "Ref one Ref two"),
        # A quote inside the paper's own title shifts the pieces, in LaMP as here.
        ("LaMP_1", 'by the title "A "hard" problem", which? [1]: "R1" [2]: "R2"', "problem R1"),
        ("LaMP_1", 'by the title "T", which? [1]: "R1" [2]: "R2', 'by the title "T", which? [1]: "R1" [2]: "R2'),
        ("LaMP_2", "tags: [a: b] description: A film. description: two ", "A film. description: two"),
        ("LaMP_2N", "categories: [a, b] article:  Some: news", "Some: news"),
        ("LaMP_3", "of the following review on a scale. review: Good: yes", "Good: yes"),
        ("LaMP_4", "Generate a headline for the following article: The article: x", "The article: x"),
        ("LaMP_5", "Generate a title for the following abstract of a paper: We show", "We show"),
        ("LaMP_6", "Generate a subject for the following email: Re: hello\n", "Re: hello"),
        ("LaMP_7", "Paraphrase the following tweet without x: @a: hi", "@a: hi"),
        ("LaMP_4", "no marker here ", "no marker here"),
    ],
)
def test_the_query_is_lamps(name: str, input: str, query: str) -> None:
    assert TASKS[name].query(input) == query


@settings(deadline=None)
@given(tasks, words)
def test_the_query_of_an_input_is_its_text(task: LampTask, text: str) -> None:
    if task.name == "LaMP_1":
        references = (text.replace('"', ""), "Second")
        assert task.query(task.make_input("Own", references=references)) == f"{references[0]} Second".strip()
    else:
        assert task.query(task.make_input(text)) == text.strip()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_an_input_opens_like_its_task_and_no_other(task: LampTask) -> None:
    input = task.make_input("x", references=("a", "b") if task.name == "LaMP_1" else None)
    assert [other.name for other in TASKS.values() if input.startswith(other.opening)] == [task.name]


def test_inputs_are_the_official_ones() -> None:
    assert TASKS["LaMP_1"].make_input("T {x}", references=("R1", "R2")) == (
        'For an author who has written the paper with the title "T {x}", which reference is related? '
        'Just answer with [1] or [2] without explanation. [1]: "R1" [2]: "R2"'
    )
    assert TASKS["LaMP_2N"].make_input("News.", labels=["tech", "food & drink"]) == (
        "Which category does this article relate to among the following categories? Just answer with the "
        "category name without further explanation. categories: [tech, food & drink] article: News."
    )
    with pytest.raises(InvalidOptionError, match="`references` must be given for LaMP_1"):
        TASKS["LaMP_1"].make_input("T")
    with pytest.raises(InvalidOptionError, match="and for no other task, this is LaMP_3"):
        TASKS["LaMP_3"].make_input("T", references=("R1", "R2"))


def test_labels_are_those_that_the_input_lists() -> None:
    task = TASKS["LaMP_2N"]
    assert len(set(MOVIE_TAGS)) == len(set(NEWS_CATEGORIES)) == 15
    assert task.labels_in(task.make_input("x")) == NEWS_CATEGORIES
    assert TASKS["LaMP_2"].labels_in(TASKS["LaMP_2"].make_input("x")) == MOVIE_TAGS
    assert task.labels_in("categories: [tech,  style & beauty , ] article: [x]") == ("tech", "style & beauty")
    assert task.labels_in("which category? article: x") == NEWS_CATEGORIES
    assert task.labels_in("categories: [] article: x") == NEWS_CATEGORIES
    assert TASKS["LaMP_3"].labels_in("tags: [a, b]") == ("1", "2", "3", "4", "5")
    assert TASKS["LaMP_1"].labels_in("x") == ("[1]", "[2]")
    assert TASKS["LaMP_4"].labels_in("categories: [a]") is None


def test_errors_are_better_when_lower() -> None:
    better = {metric: task.higher_is_better(metric) for task in TASKS.values() for metric in task.metrics}
    assert better == {"accuracy": True, "f1": True, "MAE": False, "RMSE": False, "rouge-1": True, "rouge-L": True}
    with pytest.raises(InvalidOptionError, match="one of MAE, RMSE, was: 'f1'"):
        TASKS["LaMP_3"].higher_is_better("f1")


@pytest.mark.parametrize("name", ["LaMP_3", "LaMP-3", "lamp3", "LAMP 3", "3"])
def test_a_task_has_many_spellings(name: str) -> None:
    assert lamp_task(name) is TASKS["LaMP_3"]
    assert lamp_task("lamp_2n") is TASKS["LaMP_2N"]


@pytest.mark.parametrize("name", ["LaMP_8", "", "lamp", "LaMP_2_news", "rating"])
def test_an_unknown_task_is_told_which_there_are(name: str) -> None:
    with pytest.raises(UnknownTaskError, match=r"LaMP_1, LaMP_2, LaMP_2N, .*, LaMP_7, was: ") as caught:
        lamp_task(name)
    assert repr(name) in str(caught.value)


@pytest.mark.shared
def test_real_inputs_are_made_and_taken_apart(shared: Path) -> None:
    seen = set()
    for line in (shared / "goldens" / "lamp_prompts.jsonl").read_text(encoding="utf-8").splitlines():
        golden = json.loads(line)
        task, input = TASKS[golden["task"]], golden["input"]
        seen.add(task.name)
        if task.name == "LaMP_1":
            own, first, second = input.split('"')[1::2]
            assert task.make_input(own, references=(first, second)) == input
        else:
            assert task.make_input(task.query(input), labels=task.labels_in(input)) == input.strip()
        for entry in golden["profile"]:
            assert task.entry(task.record(entry), entry["id"]) == entry
    assert seen == set(TASKS)
