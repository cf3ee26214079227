"""LaMP's questions: as a split, and as the records of all profiles."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, UnknownTaskError
from persona.lamp.questions import read_lamp, read_split
from persona.lamp.tasks import NEWS_CATEGORIES, TASKS
from persona.readers import read_records
from persona.records import Record

ASK = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
ASK += "further explanation. review: "

PROFILES: list[list[dict[str, Any]]] = [
    [
        {"id": "1000", "text": "Dull.", "score": "1", "date": "2011"},
        {"id": "1001", "text": "Great 🎬.", "score": 5, "date": "2011-02-03"},
        {"id": "1002", "text": "Dull.", "score": "1", "date": 2011},
    ],
    [
        {"id": "1010", "text": "Great 🎬.", "score": "5", "date": "2011-02-03"},
        {"id": "1011", "text": "So so.", "score": "3", "date": "2012"},
    ],
    [],
    [{"id": "1030", "text": "Dull.", "score": "1", "date": "2011"}],
]
REVIEWS: list[dict[str, Any]] = [
    {"id": "100", "user_id": "ada", "input": ASK + "Moody.", "date": "2012-11-9", "profile": PROFILES[0]},
    {"id": "101", "user_id": "ada", "input": ASK + "Loud.", "date": "2013", "profile": PROFILES[1]},
    {"id": "102", "user_id": "bob", "input": ASK + "Long.", "profile": PROFILES[2]},
    {"id": "103", "user_id": 7, "input": ASK + "Short.", "profile": PROFILES[3]},
]
GOLDS = {"task": "LaMP_3", "golds": [{"id": question["id"], "output": "4"} for question in REVIEWS]}

DULL = Record("Dull.", target="1", time="2011")
GREAT = Record("Great 🎬.", target="5", time="2011-02-03")
SO_SO = Record("So so.", target="3", time="2012")


def write_json(path: Path, value: object, **options: Any) -> Path:
    path.write_text(json.dumps(value, **options), encoding="utf-8")
    return path


def question(profile: object = (), **fields: Any) -> dict[str, Any]:
    return {"id": "1", "user_id": "ada", "input": ASK + "Moody.", "profile": profile, **fields}


# As records


@pytest.mark.parametrize("indent", [None, 1])
def test_a_lamp_profile_is_the_union_over_the_users_questions(tmp_path: Path, indent: int | None) -> None:
    reader = read_records(write_json(tmp_path / "q.json", REVIEWS, indent=indent))
    assert list(reader) == [("ada", DULL), ("ada", GREAT), ("ada", SO_SO), ("7", DULL)]
    assert (reader.format, reader.skipped) == ("lamp", 0)


def test_a_lamp_folder_gives_the_records_of_all_its_splits(tmp_path: Path) -> None:
    write_json(tmp_path / "train_questions.json", REVIEWS)
    write_json(tmp_path / "train_outputs.json", GOLDS)
    later = [question([{"text": "Dull.", "score": "1", "date": "2011"}, {"text": "New.", "score": "2"}])]
    with gzip.open(tmp_path / "test_questions.json.gz", "wt", encoding="utf-8") as file:
        json.dump(later, file)
    new = Record("New.", target="2")
    expected = [("ada", DULL), ("ada", GREAT), ("ada", SO_SO), ("7", DULL), ("ada", new)]
    assert list(read_records(tmp_path)) == expected
    assert list(read_records(str(tmp_path), format="lamp")) == expected


def test_a_folder_without_questions_is_an_error_that_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"must have one of train_questions\.json"):
        list(read_records(tmp_path))


def test_in_the_user_split_each_question_is_a_user(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "q.json",
        [{"id": id, "input": "Paraphrase it: x", "profile": [{"text": "hi"}]} for id in ("600", "601")],
    )
    assert list(read_records(path)) == [("600", Record("hi")), ("601", Record("hi"))]
    assert [asked.user_id for asked in read_lamp(path).questions] == ["600", "601"]


def test_records_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    profile = [{"text": text, "score": "1"} for text in ("", " \n", None, "x")]
    path = write_json(tmp_path / "q.json", [question(profile)])
    reader = read_records(path)
    assert list(reader) == [("ada", Record("x", target="1"))]
    assert reader.skipped == 3
    split = read_lamp(path)
    assert (split.skipped, len(split.questions[0].profile)) == (3, 1)


def test_records_tell_apart_users_whose_fields_run_together(tmp_path: Path) -> None:
    asked = [
        question([{"text": "b\x1fc"}], id="1", user_id="a", input="Paraphrase the following tweet: x"),
        question([{"text": "c"}], id="2", user_id="a\x1fb", input="Paraphrase the following tweet: x"),
        question([{"text": "c', 'd"}], id="3", user_id="a', 'b", input="Paraphrase the following tweet: x"),
    ]
    read = list(read_records(write_json(tmp_path / "q.json", asked)))
    assert read == [("a", Record("b\x1fc")), ("a\x1fb", Record("c")), ("a', 'b", Record("c', 'd"))]


# As a split


def test_a_split_holds_the_file(tmp_path: Path) -> None:
    split = read_lamp(write_json(tmp_path / "q.json", REVIEWS), write_json(tmp_path / "o.json", GOLDS))
    assert split.task is TASKS["LaMP_3"]
    assert split.labels == ("1", "2", "3", "4", "5")
    assert split.golds == {"100": "4", "101": "4", "102": "4", "103": "4"}
    assert [asked.id for asked in split.questions] == ["100", "101", "102", "103"]
    assert [asked.user_id for asked in split.questions] == ["ada", "ada", "bob", "7"]
    assert [asked.time for asked in split.questions] == ["2012-11-09", "2013", None, None]
    assert split.questions[0].input == ASK + "Moody."
    assert split.questions[0].profile.records == (DULL, GREAT, DULL)  # the file's order, repeated ones kept
    assert split.questions[0].profile.user_id == "ada"
    assert split.questions[2].profile.records == ()


def test_questions_share_their_equal_records(tmp_path: Path) -> None:
    first, second, _, third = read_lamp(write_json(tmp_path / "q.json", REVIEWS)).questions
    assert first.profile[0] is third.profile[0]
    assert first.profile[1] == second.profile[0]


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    write_json(tmp_path / "dev_questions.json", REVIEWS)
    write_json(tmp_path / "test_questions.json", REVIEWS[:1])
    elsewhere = write_json(tmp_path / "kept.json", [{"id": "100", "output": "4"}])
    write_json(tmp_path / "dev_outputs.json", GOLDS)
    assert read_split(tmp_path).golds == dict.fromkeys(("100", "101", "102", "103"), "4")
    assert read_split(tmp_path, "test").golds is None
    assert read_split(tmp_path, "test", golds=elsewhere).golds == {"100": "4"}
    with pytest.raises(DataFormatError, match=r"have train_questions.json, has: dev_questions.json, test_questions"):
        read_split(tmp_path, "train")
    with pytest.raises(DataFormatError, match="has: no questions"):
        read_split(tmp_path / "nowhere", "dev")


def test_the_old_news_task_is_known_by_its_fields(tmp_path: Path) -> None:
    ask = "Which category does this article relate to among the following categories? Just answer. categories: "
    profile = [{"id": "0", "text": "A goal.", "title": "T", "category": "sport"}]
    asked = [
        question(profile, id="1", input=ask + "[sport, tech] article: x"),
        question(profile, id="2", input=ask + "[tech, art & life] article: y"),
    ]
    path = write_json(tmp_path / "q.json", asked)
    declared = write_json(
        tmp_path / "o.json", {"task": "LaMP_2", "golds": [{"id": id, "output": "tech"} for id in "12"]}
    )
    for split in (read_lamp(path, declared), read_lamp(path), read_lamp(path, task="LaMP_2")):
        assert split.task is TASKS["LaMP_2N"]
        assert split.labels == ("sport", "tech", "art & life")
        assert split.questions[0].profile[0] == Record("A goal.", target="sport", metadata={"title": "T"})
    foreign = write_json(tmp_path / "f.json", [question(profile, input="Which one? A goal.")])
    assert read_lamp(foreign, task="LaMP_2").task is TASKS["LaMP_2N"]
    assert read_lamp(foreign).labels == NEWS_CATEGORIES
    assert [record.target for _, record in read_records(path)] == ["sport"]


def test_fields_alone_tell_most_tasks(tmp_path: Path) -> None:
    for name, entry in {
        "LaMP_2": {"description": "x", "tag": "y"},
        "LaMP_2N": {"text": "x", "title": "t", "category": "y"},
        "LaMP_3": {"text": "x", "score": "1"},
        "LaMP_7": {"text": "x"},
    }.items():
        path = write_json(tmp_path / "q.json", [question(input="?"), question([entry], id="2", input="?")])
        assert read_lamp(path).task.name == name
        assert [asked.id for asked in read_lamp(path).questions] == ["1", "2"]


def test_where_nothing_tells_the_task_it_must_be_named(tmp_path: Path) -> None:
    papers = write_json(tmp_path / "q.json", [question([{"title": "T", "abstract": "x"}], input="?")])
    with pytest.raises(DataFormatError, match=r"from abstract, title: name it \(task=, --task\)"):
        read_lamp(papers)
    assert read_lamp(papers, task="5").task is TASKS["LaMP_5"]
    # As records both tasks are the same.
    assert list(read_records(papers)) == [("ada", Record("x", target="T"))]
    odd = write_json(tmp_path / "odd.json", [question([{"body": "x"}], input="?")])
    with pytest.raises(DataFormatError, match=r"from body: name it \(task=, --task\)"):
        list(read_records(odd))
    with pytest.raises(DataFormatError, match=r"record 0: a record of LaMP_7 must have `text`, has: body"):
        list(read_records(odd, task="LaMP_7"))
    empty = write_json(tmp_path / "empty.json", [question(input="?")])
    with pytest.raises(DataFormatError, match="empty profiles: name it"):
        read_lamp(empty)
    assert read_lamp(empty, task="LaMP_3").task is TASKS["LaMP_3"]
    assert list(read_records(empty)) == []
    with pytest.raises(UnknownTaskError):
        read_lamp(empty, task="LaMP_9")
    with pytest.raises(UnknownTaskError):
        list(read_records(empty, task="LaMP_9"))


def test_outputs_must_belong_to_the_questions(tmp_path: Path) -> None:
    questions = write_json(tmp_path / "q.json", REVIEWS)
    other = write_json(tmp_path / "o.json", {**GOLDS, "task": "LaMP_4"})
    with pytest.raises(DataFormatError, match="question is of LaMP_3, the outputs are of LaMP_4"):
        read_lamp(questions, other)
    unknown = write_json(tmp_path / "u.json", {**GOLDS, "task": "MyTask"})
    with pytest.raises(DataFormatError, match=r"u\.json: a LaMP task must be one of"):
        read_lamp(questions, unknown)
    ids = [str(number) for number in range(102, 110)]
    shifted = write_json(tmp_path / "s.json", {"golds": [{"id": id, "output": "1"} for id in ids]})
    with pytest.raises(
        DataFormatError,
        match=r"s\.json: .*q\.json: 2 missing \('100', '101'\) and 6 surplus \('104', .*'108', \.\.\.\)",
    ):
        read_lamp(questions, shifted)


def test_lamps_own_object_form_of_questions_is_read(tmp_path: Path) -> None:
    path = write_json(tmp_path / "q.json", {"task": "LaMP_6", "golds": REVIEWS, "note": [1, {"a": None}]})
    assert len(read_lamp(path).questions) == 4
    assert len(list(read_records(path))) == 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([question(), question()], r"question 1: the ids of questions must differ, '1' repeats"),
        ([question(), 5], r"question 1: a question must be an object, was: 5 \(int\)"),
        ([{"id": "1", "input": ASK}], "a question must have `profile`, has: id, input"),
        ([{"user_id": "ada", "text": "x"}], "a question must have `id`, has: user_id, text"),
        ([question({"text": "x"})], "`profile` must be a list, was: {'text'"),
        ([question(None)], "`profile` must be a list, was: null"),
        ([question(["x"])], "record 0 of `profile` must be an object, was: 'x'"),
        ([question([{"text": "x"}])], r"question 0, record 0: .* must have `score`, has: text"),
        ([question([{"text": "x", "score": "1"}, {"text": 1, "score": "1"}])], r"record 1: `text` must be a string"),
        ([question([{"text": "x", "score": "1", "date": "2013-13-01"}])], r"record 0: a time must be .*'2013-13-01'"),
        ([question(id=None)], "`id` must be a string or an integer, was: null"),
        ([question(id=1.5)], "`id` must be a string or an integer, was: 1.5"),
        ([question(id=True)], "`id` must be a string or an integer, was: True"),
        ([question(user_id="")], "question 0: a user id must not be empty"),
        ([question(user_id=None)], "`user_id` must be a string or an integer, was: null"),
        ([question(user_id="x" * 600)], "at most 512 characters, was: 600"),
        ([question(user_id="a\x00")], "`user_id` must not hold NUL"),
        ([question(input=None)], "`input` must be a string, was: null"),
        ([question(input=ASK + "\ud800")], "`input` must not hold a lone surrogate"),
        ([question(date="soon")], "question 0: a time must be like"),
        ([], "the file must hold questions, its list is empty"),
        ({"task": "LaMP_3", "golds": []}, "the file must hold questions, its list is empty"),
        ({"task": "LaMP_3", "questions": []}, "a JSON list or an object with a list `golds`, begins with .*questions"),
        ({"golds": {"id": 1}}, "an object with a list `golds`, begins with"),
        ("text", "a JSON list or an object with a list `golds`, begins with '\"text"),
        (5, "begins with '5'"),
        (None, "begins with 'null'"),
    ],
)
def test_bad_questions_are_refused_with_their_place(tmp_path: Path, asked: object, message: str) -> None:
    path = write_json(tmp_path / "q.json", asked)
    with pytest.raises(DataFormatError, match=message) as caught:
        read_lamp(path)
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)
    if "repeats" not in message:
        with pytest.raises(DataFormatError, match=message):
            list(read_records(path, format="lamp"))


SETS = {
    # questions and users of train, dev and test; different records of all users
    "LaMP_2_news": ("LaMP_2N", {"train": (472, 55), "dev": (105, 11), "test": (81, 10)}, 3169),
    "LaMP_3_film": ("LaMP_3", {"train": (1245, 415), "dev": (156, 52), "test": (363, 121)}, 23222),
    "LaMP_4_gov": ("LaMP_4", {"train": (186, 41), "dev": (17, 4), "test": (97, 21)}, 1327),
    "LaMP_4_news": ("LaMP_4", {"train": (472, 55), "dev": (105, 11), "test": (83, 10)}, 3191),
    "LaMP_5_acl": ("LaMP_5", {"train": (1212, 606), "dev": (162, 81), "test": (354, 177)}, 7034),
}


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_the_real_sets_are_read(shared: Path, name: str) -> None:
    task, counts, records = SETS[name]
    folder = shared / "data" / "lampstyle" / name
    union: set[tuple[str, Record]] = set()
    for split_name, (questions, users) in counts.items():
        split = read_split(folder, split_name)
        assert split.task.name == task
        assert len(split.questions) == questions
        assert len({asked.user_id for asked in split.questions}) == users
        assert split.skipped == 0
        assert (split.golds is None) == (split_name == "test")
        raw = json.loads((folder / f"{split_name}_questions.json").read_text(encoding="utf-8"))
        assert [asked.input for asked in split.questions] == [asked["input"] for asked in raw]
        for asked, original in zip(split.questions, raw, strict=True):
            union.update((asked.user_id, record) for record in asked.profile)
            for record, entry in zip(asked.profile, original["profile"], strict=True):
                expected = {**entry, "date": None if entry["date"] == "None" else entry["date"]}
                written = {"date": None, **split.task.entry(record, entry["id"])}
                assert written == expected
        if split.golds is not None and split.labels is not None:
            assert set(split.golds.values()) <= set(split.labels)
            assert len(split.labels) == (15 if task == "LaMP_2N" else 5)
    reader = read_records(folder)
    streamed = list(reader)
    assert len(streamed) == records
    assert set(streamed) == union
    assert reader.skipped == 0
