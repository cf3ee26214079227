from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona.errors import DataFormatError, InvalidOptionError, PersonaError, UnknownTaskError
from persona.formats import json_text, text_source
from persona.lamp.labels import NEWS_CATEGORIES
from persona.lamp.tasks import TASKS
from persona.readers import read_golds, read_lamp, read_records, read_split, write_predictions
from persona.records import Record

ASK = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
ASK += "further explanation. review: "

REVIEWS: list[dict[str, Any]] = [
    {
        "id": "100",
        "user_id": "ada",
        "input": ASK + "Moody.",
        "date": "2012-11-9",
        "profile": [
            {"id": "1000", "text": "Dull.", "score": "1", "date": "2011"},
            {"id": "1001", "text": "Great 🎬.", "score": 5, "date": "2011-02-03"},
            {"id": "1002", "text": "Dull.", "score": "1", "date": 2011},
        ],
    },
    {
        "id": "101",
        "user_id": "ada",
        "input": ASK + "Loud.",
        "date": "2013",
        "profile": [
            {"id": "1010", "text": "Great 🎬.", "score": "5", "date": "2011-02-03"},
            {"id": "1011", "text": "So so.", "score": "3", "date": "2012"},
        ],
    },
    {"id": "102", "user_id": "bob", "input": ASK + "Long.", "profile": []},
    {
        "id": "103",
        "user_id": 7,
        "input": ASK + "Short.",
        "profile": [{"id": "1030", "text": "Dull.", "score": "1", "date": "2011"}],
    },
]
GOLDS = {"task": "LaMP_3", "golds": [{"id": question["id"], "output": "4"} for question in REVIEWS]}

DULL = Record("Dull.", target="1", time="2011")
GREAT = Record("Great 🎬.", target="5", time="2011-02-03")
SO_SO = Record("So so.", target="3", time="2012")

ROWS: list[dict[str, Any]] = [
    {"user_id": "ada", "text": "Dull.", "target": "1", "time": "2011"},
    {"user_id": "ada", "text": "Great 🎬.", "target": 5, "time": "2011-2-3", "id": "r2"},
    {"user_id": 7, "text": "Plain.", "target": None, "time": None, "id": None, "metadata": None},
    {
        "user_id": "bob",
        "text": "Noted.",
        "id": 8,
        "metadata": {"film": "Bullitt", "year": 1968, "note": None},
    },
    {"user_id": "bob", "text": "Said.", "role": "user", "speaker": "Bob", "expires": "2030-1"},
]
ROW_RECORDS = [
    ("ada", DULL),
    ("ada", Record("Great 🎬.", target="5", time="2011-02-03", id="r2")),
    ("7", Record("Plain.")),
    ("bob", Record("Noted.", id="8", metadata={"film": "Bullitt", "year": "1968"})),
    ("bob", Record("Said.", role="user", speaker="Bob", expires="2030-01")),
]


def write_json(path: Path, value: object, **options: Any) -> Path:
    path.write_text(json.dumps(value, **options), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def question(profile: object = (), **fields: Any) -> dict[str, Any]:
    return {"id": "1", "user_id": "ada", "input": ASK + "Moody.", "profile": profile, **fields}


# Questions, as records


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
    profile = [
        {"text": "", "score": "1"},
        {"text": " \n", "score": "1"},
        {"text": None, "score": "1"},
        {"text": "x", "score": "2"},
    ]
    path = write_json(tmp_path / "q.json", [question(profile)])
    reader = read_records(path)
    assert list(reader) == [("ada", Record("x", target="2"))]
    assert reader.skipped == 3
    split = read_lamp(path)
    assert (split.skipped, len(split.questions[0].profile)) == (3, 1)
    rows = write_lines(tmp_path / "r.jsonl", [{"user_id": "ada", "text": text} for text in ("", " ", None, "x")])
    lines = read_records(rows)
    assert list(lines) == [("ada", Record("x"))]
    assert lines.skipped == 3


def test_records_tell_apart_users_whose_fields_run_together(tmp_path: Path) -> None:
    asked = [
        question([{"text": "b\x1fc"}], id="1", user_id="a", input="Paraphrase the following tweet: x"),
        question([{"text": "c"}], id="2", user_id="a\x1fb", input="Paraphrase the following tweet: x"),
        question([{"text": "c', 'd"}], id="3", user_id="a', 'b", input="Paraphrase the following tweet: x"),
    ]
    read = list(read_records(write_json(tmp_path / "q.json", asked)))
    assert read == [("a", Record("b\x1fc")), ("a\x1fb", Record("c")), ("a', 'b", Record("c', 'd"))]


# Questions, as a split


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
        ([question(), question()], r"question 1 \(line 1\): the ids of questions must differ, '1' repeats"),
        ([question(), 5], r"question 1 \(line 1\): a question must be an object, was: 5 \(int\)"),
        ([{"id": "1", "input": ASK}], "a question must have `profile`, has: id, input"),
        ([{"user_id": "ada", "text": "x"}], "a question must have `id`, has: user_id, text"),
        ([question({"text": "x"})], "`profile` must be a list, was: {'text'"),
        ([question(None)], "`profile` must be a list, was: null"),
        ([question(["x"])], "record 0 of `profile` must be an object, was: 'x'"),
        ([question([{"text": "x"}])], r"question 0 \(line 1\), record 0: .* must have `score`, has: text"),
        (
            [question([{"text": "x", "score": "1"}, {"text": 1, "score": "1"}])],
            r"record 1: `text` must be a string",
        ),
        (
            [question([{"text": "x", "score": "1", "date": "2013-13-01"}])],
            r"record 0: a time must be .*'2013-13-01'",
        ),
        ([question(id=None)], "`id` must be a string or an integer, was: null"),
        ([question(id=1.5)], "`id` must be a string or an integer, was: 1.5"),
        ([question(id=True)], "`id` must be a string or an integer, was: True"),
        ([question(user_id="")], "question 0 .*: a user id must not be empty"),
        ([question(user_id=None)], "`user_id` must be a string or an integer, was: null"),
        ([question(user_id="x" * 600)], "at most 512 characters, was: 600"),
        ([question(user_id="a\x00")], "`user_id` must not hold NUL"),
        ([question(input=None)], "`input` must be a string, was: null"),
        ([question(input=ASK + "\ud800")], "`input` must not hold a lone surrogate"),
        ([question(date="soon")], "question 0 .*: a time must be like"),
        ([], "the file must hold questions, its list is empty"),
        ({"task": "LaMP_3", "golds": []}, "the file must hold questions, its list is empty"),
        ({"task": "LaMP_3", "questions": []}, "must be a list or have a list `golds`, has: task, questions"),
        ({"golds": {"id": 1}}, r"column \d+: broken JSON: Expecting '\['"),
        ("text", "the file must begin with .* begins with '\"'"),
        (5, "the file must begin with"),
        (None, "the file must begin with"),
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


def test_the_line_of_a_question_is_told(tmp_path: Path) -> None:
    asked = [question(id=str(number)) for number in range(3)]
    asked[2]["profile"] = 5
    path = write_json(tmp_path / "q.json", asked, indent=0)
    expected = path.read_text().splitlines().index('"id": "2",')  # the brace is on the line before, counted from 1
    with pytest.raises(DataFormatError, match=rf"question 2 \(line {expected}\): `profile`"):
        read_lamp(path)


# Outputs and predictions


def test_predictions_come_back_as_written(tmp_path: Path) -> None:
    predictions = {"100": "[1]", "é\n": "", "a\ud800b": "x"}
    for task, name in (("LaMP_2N", "LaMP_2"), (TASKS["LaMP_2N"], "LaMP_2"), ("lamp5", "LaMP_5")):
        path = tmp_path / "predictions.json"
        write_predictions(path, task, predictions)
        written = json.loads(path.read_text(encoding="utf-8"))
        assert written["task"] == name
        assert written["golds"] == [{"id": id, "output": output} for id, output in predictions.items()]
    write_predictions(path, "LaMP_5", {"100": "[1]", "é\n": ""})
    assert read_golds(path) == ("LaMP_5", {"100": "[1]", "é\n": ""})
    assert list(tmp_path.iterdir()) == [path]


def test_predictions_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    write_predictions(path, "LaMP_5", {"1": "old"})
    with pytest.raises(UnknownTaskError):
        write_predictions(path, "LaMP_9", {"1": "new"})
    with pytest.raises(TypeError):
        write_predictions(path, "LaMP_5", {"1": object()})  # type: ignore[dict-item]
    assert read_golds(path)[1] == {"1": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_may_be_a_bare_list_of_numbers(tmp_path: Path) -> None:
    path = write_json(tmp_path / "o.json", [{"id": 1, "output": 5}, {"id": "2", "output": 3.5, "more": 1}])
    assert read_golds(path) == (None, {"1": "5", "2": "3.5"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [{"id": "1", "output": "x"}, {"id": "1", "output": "x"}],
            r"output 1 \(line 1\): the ids .* '1' repeats",
        ),
        ([{"id": "1"}], r"output 0 \(line 1\): an output must have `output`, has: id"),
        (["x"], "an output must be an object, was: 'x'"),
        ([{"id": "1", "output": None}], "`output` must be a string or a number, was: null"),
        ([{"id": [], "output": "x"}], "`id` must be a string or an integer"),
        ([], "must hold outputs"),
        ({"task": 5, "golds": [{"id": "1", "output": "x"}]}, "`task` must be a string, was: 5"),
        ({"task": "LaMP_3"}, "must be a list or have a list `golds`, has: task"),
    ],
)
def test_bad_outputs_are_refused_with_their_place(tmp_path: Path, value: object, message: str) -> None:
    path = write_json(tmp_path / "o.json", value)
    with pytest.raises(DataFormatError, match=message) as caught:
        read_golds(path)
    assert caught.value.source == str(path)


# Rows


TEXTS = ("user_id", "text", "target", "time", "id", "role", "speaker", "expires")


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with strings for its numbers: a column of a table has one type."""
    metadata = row.get("metadata") or {}
    return {
        **{name: None if row.get(name) is None else str(row[name]) for name in TEXTS},
        "metadata": {name: None if value is None else str(value) for name, value in metadata.items()},
    }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([as_text(row) for row in rows])


def test_json_lines_become_records(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "h.jsonl", ROWS)
    reader = read_records(path)
    assert (reader.format, reader.source) == ("jsonl", str(path))
    assert list(reader) == ROW_RECORDS


@pytest.mark.parametrize("name", ["h.jsonl", "h.ndjson", "h.json", "h.txt", "h"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_bytes_tell_json_lines_and_gzip(tmp_path: Path, name: str, zipped: bool) -> None:
    data = write_lines(tmp_path / name, ROWS).read_bytes()
    path = tmp_path / (name + ".gz" if zipped and name.startswith("h.j") else name)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert list(read_records(path)) == ROW_RECORDS
    assert list(read_records(path, format="jsonl")) == ROW_RECORDS


def test_lines_end_in_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    rows = [{"user_id": "a", "text": "one\u2028two\x85three"}, {"user_id": "a", "text": "four"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(("\ufeff\r\n\n " + "\r\n".join(lines) + "\r\n\t\n").encode())
    assert [record.text for _, record in read_records(path)] == ["one\u2028two\x85three", "four"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "ada", "text": "x"', r"line 3, column 31: broken JSON: Expecting ',' delimiter"),
        ('{"user_id": "ada" "text": "x"}', r"line 3, column 19: broken JSON"),
        ('{"user_id": "ada", "text": NaN}', r"line 3: broken JSON: NaN is no JSON"),
        ('{"user_id": "ada", "user_id": "ben", "text": "x"}', r"line 3: broken JSON: the field 'user_id' comes twice"),
        (
            '{"user_id": "ada", "text": "x", "target": -Infinity}',
            r"line 3: broken JSON: -Infinity is no JSON",
        ),
        (
            '{"user_id": "ada", "text": "x", "target": 1e999}',
            r"line 3: broken JSON: the number 1e999 is too large",
        ),
        ('{"user_id": ' + "9" * 5000 + ', "text": "x"}', r"line 3: broken JSON: a number has 5000 digits"),
        ("[" * 100_000, r"line 3: the JSON is nested too deeply"),
        ('{"a":' * 100_000, r"line 3: the JSON is nested too deeply"),
        ('{"user_id": "ada", "text": "x"} {"a": 1}', r"line 3, column 33: broken JSON: Extra data"),
        ("[1]", r"line 3: a line must be a JSON object, was: \[1\] \(list\)"),
        ("null", r"line 3: a line must be a JSON object, was: null"),
        ("{}", "line 3: a row must have `user_id`, has: nothing"),
        ('{"user_id": "ada"}', "line 3: a row must have `text`, has: user_id"),
        ('{"text": "x"}', "line 3: a row must have `user_id`, has: text"),
        ('{"user_id": "ada", "text": "x", "date": "2011"}', "line 3: a row may have .* and has date: rename"),
        ('{"user_id": null, "text": "x"}', "line 3: `user_id` must be a string or an integer, was: null"),
        ('{"user_id": "", "text": "x"}', "line 3: a user id must not be empty"),
        ('{"user_id": 1.0, "text": "x"}', r"line 3: `user_id` must be a string or an integer, was: 1\.0"),
        ('{"user_id": true, "text": "x"}', "line 3: `user_id` must be a string or an integer, was: True"),
        ('{"user_id": "a\\u0000", "text": "x"}', r"line 3: `user_id` must not hold NUL"),
        ('{"user_id": "ada", "text": 5}', "line 3: `text` must be a string, was: 5"),
        ('{"user_id": "ada", "text": ["x"]}', "line 3: `text` must be a string, was: "),
        ('{"user_id": "ada", "text": "x\\ud800"}', "line 3: `text` must not hold a lone surrogate"),
        ('{"user_id": "ada", "text": "x\\u0000"}', "line 3: `text` must not hold NUL"),
        ('{"user_id": "ada", "text": "x", "target": {}}', "line 3: `target` must be a string or a number"),
        ('{"user_id": "ada", "text": "x", "time": "13 o\'clock"}', "line 3: a time must be like"),
        (
            '{"user_id": "ada", "text": "x", "id": "' + "i" * 600 + '"}',
            "line 3: .* at most 512 characters, was: 600",
        ),
        (
            '{"user_id": "ada", "text": "x", "metadata": "m"}',
            "line 3: `metadata` must be an object, was: 'm'",
        ),
        ('{"user_id": "ada", "text": "x", "metadata": [["a", "b"]]}', "line 3: `metadata` must be an object"),
        (
            '{"user_id": "ada", "text": "x", "metadata": {"m": [1]}}',
            r"line 3: `metadata\.m` must be a string",
        ),
        ('{"user_id": "ada", "text": "x", "metadata": {"\\ud800": "m"}}', "line 3: .* lone surrogate"),
        (
            '{"user_id": "ada", "text": "y", "id": "r2"}',
            "line 3: the ids of a user's records must differ, 'r2' is on line 2",
        ),
        ('{"user_id": "ada", "text": "x\x01"}', "line 3, column 30: broken JSON: Invalid control character"),
    ],
)
def test_bad_lines_are_refused_with_their_number(tmp_path: Path, line: str, message: str) -> None:
    path = write_lines(tmp_path / "h.jsonl", ROWS[:2])
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    reader = read_records(path)
    assert [next(reader), next(reader)] == ROW_RECORDS[:2]
    with pytest.raises(DataFormatError, match=message) as caught:
        next(reader)
    assert caught.value.source == str(path)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_an_id_given_twice_for_one_content_is_no_error(tmp_path: Path) -> None:
    other = {**ROWS[1], "user_id": "bob", "text": "Other."}
    path = write_lines(tmp_path / "h.jsonl", [ROWS[1], ROWS[1], other, {**other, "id": ""}])
    assert [record.id for _, record in read_records(path)][:3] == ["r2", "r2", "r2"]


# Files


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    for name, text, count in (
        ("h.jsonl", write_lines(tmp_path / "a", ROWS).read_text(), len(ROWS)),
        ("q.json", json.dumps(REVIEWS), 4),
    ):
        path = tmp_path / name
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert len(list(read_records(path))) == count


@pytest.mark.parametrize("format", ["auto", "lamp", "jsonl"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n ", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\n<!DOCTYPE html><html></html>", "an HTML page stands where JSON should"),
        (gzip.compress(b"<html></html>", mtime=0), "an HTML page stands where JSON should"),
        (json.dumps(REVIEWS).encode("utf-16"), "must be UTF-8 and is UTF-16: convert it"),
        (json.dumps(REVIEWS).encode("utf-32"), "must be UTF-8 and is UTF-32: convert it"),
        (json.dumps(REVIEWS).encode("utf-16-le"), "line 1: the file must be UTF-8 text and holds NUL bytes"),
        ("[\n\n{'café'".encode("latin-1"), "line 3: the file must be UTF-8, byte 0xe9 is not"),
        ('\n["caf\N{EURO SIGN}'.encode()[:-1], "line 2: the file must be UTF-8, byte 0xe2 is not"),
        (gzip.compress(json.dumps(REVIEWS).encode(), mtime=0)[:-9], "the gzip file ends early"),
        (gzip.compress(json.dumps(REVIEWS).encode(), mtime=0)[:5], "the gzip file ends early"),
        (
            gzip.compress(json.dumps(REVIEWS).encode(), mtime=0)[:-8] + bytes(8),
            "the gzip file is broken: CRC check failed",
        ),
        (
            gzip.compress(json.dumps(REVIEWS).encode(), mtime=0) + b"more",
            "the gzip file is broken: Not a gzipped file",
        ),
        (b"\x1f\x8b\x08\x00" + bytes(range(100)), "the gzip file is broken"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, format: str, data: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DataFormatError, match=message) as caught:
        list(read_records(path, format=format))
    assert str(caught.value).startswith(str(path))
    with pytest.raises(DataFormatError, match=message):
        read_lamp(path)
    with pytest.raises(DataFormatError, match=message):
        read_golds(path)


def test_a_gzip_that_ends_early_says_after_which_line(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{number}", "text": f"{number * 7919 % 10007} words"} for number in range(50_000)]
    path = tmp_path / "h.jsonl.gz"
    data = write_lines(tmp_path / "h.jsonl", rows).read_bytes()
    path.write_bytes(gzip.compress(data, compresslevel=1)[:-2000])
    reader = read_records(path)
    assert next(reader) == ("u0", Record("0 words"))
    with pytest.raises(DataFormatError, match=r"ends early \(after line [234]\d{4}\)"):
        list(reader)


@pytest.mark.parametrize("format", ["auto", "lamp", "jsonl", "parquet"])
def test_a_missing_file_is_a_clear_error(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataFormatError, match=r"nowhere.*cannot be read: .*No such file"):
        list(read_records(tmp_path / "nowhere", format=format))
    with pytest.raises(DataFormatError, match="cannot be read"):
        list(read_records("a\x00b", format=format))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_folder_is_no_file(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataFormatError, match=r"cannot be read: .*(directory|not a regular file)"):
        list(read_records(tmp_path, format=format))


def test_a_file_that_is_only_named_gz_says_so(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "h.jsonl.gz", ROWS)
    with pytest.raises(DataFormatError, match=r"named \.gz and is no gzip file: rename it"):
        read_records(path)


def test_a_file_of_another_kind_shows_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("user_id,text\nada,x\n")
    with pytest.raises(DataFormatError, match="JSON lines or Parquet, begins with: 'user_id,text"):
        read_records(path)


def test_options_are_checked_first(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "h.jsonl", ROWS)
    with pytest.raises(InvalidOptionError, match="one of auto, lamp, jsonl, parquet, datasets, was: 'csv'"):
        read_records(path, format="csv")
    with pytest.raises(InvalidOptionError, match=r"a task is for LaMP's files, and .* is of the form jsonl: leave it"):
        read_records(path, task="LaMP_3")
    with pytest.raises(UnknownTaskError, match="was: 'LaMP_99'"):
        read_records(path, task="LaMP_99")
    with pytest.raises(InvalidOptionError, match=r"is for a datasets\.Dataset"):
        read_records(path, format="datasets")
    with pytest.raises(InvalidOptionError, match=r"a path or a datasets\.Dataset, was: builtins\.list"):
        read_records(ROWS)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_source, "BLOCK", 100)
    monkeypatch.setattr(text_source, "MAX_LINE", 1000)
    path = write_lines(tmp_path / "h.jsonl", [{"user_id": "ada", "text": "x" * 800}])
    assert [record.text for _, record in read_records(path)] == ["x" * 800]
    with path.open("a") as file:
        file.write('{"user_id": "ada", "text": "' + "y" * 100_000)
    with pytest.raises(DataFormatError, match="line 2: a line must have at most 1000 characters"):
        list(read_records(path))
    path.write_text(" " * 100_000)
    with pytest.raises(DataFormatError, match="begins with 1000 blanks and more"):
        read_records(path)


# JSON in blocks


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    value=st.lists(
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(st.characters(exclude_categories=["Cs"])),
            ),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text('ab"\\\n'), inner)),
            max_leaves=8,
        )
    ),
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 1, 50]),
    ascii=st.booleans(),
    key=st.sampled_from([None, "golds"]),
)
def test_an_array_read_in_blocks_is_the_array(
    tmp_path: Path, value: list[Any], block: int, indent: int | None, ascii: bool, key: str | None
) -> None:
    whole = value if key is None else {"task": "x", key: value, "after": {"a": [1, 2]}}
    path = write_json(tmp_path / "a.json", whole, indent=indent, ensure_ascii=ascii)
    lines = path.read_text(encoding="utf-8").split("\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "BLOCK", block)
        with text_source.TextSource(path) as source:
            array = json_text.JsonArray(source, "golds")
            read = list(array)
    assert [element for _, element in read] == value
    for line, element in read:
        assert json.dumps(element, indent=indent, ensure_ascii=ascii).split("\n")[0] in lines[line - 1]
    assert array.header == ({} if key is None else {"task": "x", "after": {"a": [1, 2]}})


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    block=st.integers(1, 300),
    at=st.integers(1, 900),
    data=st.sampled_from(["", "}", '"', "\\", ",", "x", "[", "\n"]),
)
def test_a_flaw_is_found_wherever_the_blocks_end(tmp_path: Path, block: int, at: int, data: str) -> None:
    text = json.dumps(REVIEWS, indent=0)
    broken = text[:at] + data + text[at + 1 :]
    path = tmp_path / "a.json"
    path.write_text(broken, encoding="utf-8")

    def outcome() -> object:
        try:
            with text_source.TextSource(path) as source:
                return [element for _, element in json_text.JsonArray(source, "golds")]
        except DataFormatError as error:
            return str(error)

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "BLOCK", block)
        assert outcome() == whole
    try:
        right, place = json.loads(broken), ""
    except json.JSONDecodeError as error:
        right, place = None, f"line {error.lineno}, column {error.colno}: broken JSON: "
    # The place is the standard library's; the words differ for what stands between two elements.
    assert whole == right if right is not None else place in str(whole)


def test_one_element_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_source, "BLOCK", 100)
    monkeypatch.setattr(json_text, "MAX_ELEMENT", 1000)
    path = write_json(tmp_path / "a.json", [{"id": "1", "output": "x" * 500}])
    assert read_golds(path)[1] == {"1": "x" * 500}
    path = write_json(tmp_path / "a.json", [{"id": "1", "output": "x"}, {"id": "2", "output": "x" * 50_000}])
    with pytest.raises(DataFormatError, match="an element must have at most 1000 characters"):
        read_golds(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '[{"a":' * 100_000, '{"golds": ' + "[" * 100_000, '{"task": ' + "[" * 100_000]
)
def test_deep_nesting_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataFormatError, match="nested too deeply"):
        read_golds(path)


# Tables


def test_parquet_becomes_records(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pq.write_table(table(ROWS), path)
    reader = read_records(path)
    assert reader.format == "parquet"
    assert list(reader) == ROW_RECORDS
    unnamed = path.rename(tmp_path / "h")
    assert list(read_records(unnamed)) == ROW_RECORDS


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    columns = {
        "user_id": pa.array([1, 2, 2], pa.int64()),
        "text": pa.array(["a", "b", None], pa.large_string()),
        "target": pa.array([5.0, math.nan, None], pa.float64()),
        "time": pa.array([datetime(2011, 2, 3, 4, 5), None, None], pa.timestamp("us", tz="UTC")),
        "id": pa.array([0, 1, 2], pa.int32()),
        "metadata": pa.array([[("film", "Bullitt")], [], None], pa.map_(pa.string(), pa.string())),
        "__index_level_0__": pa.array([0, 1, 2]),  # what pandas adds
    }
    pq.write_table(pa.table(columns), path, row_group_size=2)
    reader = read_records(path)
    assert list(reader) == [
        (
            "1",
            Record("a", target="5", time="2011-02-03T04:05:00+00:00", id="0", metadata={"film": "Bullitt"}),
        ),
        ("2", Record("b", id="1")),
    ]
    assert reader.skipped == 1
    columns["time"] = pa.array([date(2011, 2, 3), None, None])
    pq.write_table(pa.table(columns), path)
    assert [record.time for _, record in read_records(path)] == ["2011-02-03", None]


def test_a_bad_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pq.write_table(table(ROWS), path)
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:100], b"PAR1", b"", whole[:4] + bytes(len(whole) - 8) + whole[-4:]):
        path.write_bytes(data)
        with pytest.raises(DataFormatError, match=r"h\.parquet: the Parquet file cannot be read"):
            list(read_records(path))
    pq.write_table(table(ROWS).drop_columns("text"), path)
    with pytest.raises(DataFormatError, match=r"h\.parquet: a row must have `text`, has: user_id, target"):
        list(read_records(path))
    pq.write_table(table(ROWS).append_column("stars", pa.array([1, 2, 3, 4, 5])), path)
    with pytest.raises(DataFormatError, match=r"h\.parquet: a row may have .* and has stars"):
        list(read_records(path))
    pq.write_table(table(ROWS).slice(0, 0), path)
    with pytest.raises(DataFormatError, match="there is not one row"):
        list(read_records(path))
    bad = pa.table({"user_id": ["a", "b"], "text": pa.array([b"x", b"y"], pa.binary())})
    pq.write_table(bad, path)
    with pytest.raises(DataFormatError, match=r"h\.parquet, row 0: `text` must be a string, was: b'x' \(bytes\)"):
        list(read_records(path))


def test_datasets_become_records() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(table(ROWS).to_pylist())
    for source in (data, data.to_iterable_dataset(), data.with_format("numpy")):
        reader = read_records(source)
        assert reader.format == "datasets"
        assert list(reader) == ROW_RECORDS
    generated = datasets.IterableDataset.from_generator(lambda: iter([{"user_id": "a", "text": "x", "stars": 1}]))
    with pytest.raises(DataFormatError, match=r"datasets\.IterableDataset: a row may have"):
        list(read_records(generated))
    with pytest.raises(DataFormatError, match=r"datasets\.Dataset: a row must have `text`"):
        read_records(data.remove_columns("text"))
    with pytest.raises(DataFormatError, match=r"datasets\.Dataset, row 2: a user id must not be empty"):
        list(read_records(datasets.Dataset.from_dict({"user_id": ["a", "b", ""], "text": ["x", "y", "z"]})))
    with pytest.raises(DataFormatError, match="there is not one row"):
        list(read_records(data.select([])))
    with pytest.raises(InvalidOptionError, match="must be one split, take one of: train"):
        read_records(datasets.DatasetDict({"train": data}))
    with pytest.raises(InvalidOptionError, match=r"the format of a datasets\.Dataset is 'datasets', was: 'lamp'"):
        read_records(data, format="lamp")


rows = st.fixed_dictionaries(
    {"user_id": st.text(min_size=1), "text": st.text()},
    optional={
        "target": st.one_of(st.none(), st.text(), st.integers(), st.floats()),
        "time": st.one_of(st.none(), st.dates().map(str), st.integers(1000, 9999), st.text()),
        "id": st.one_of(st.none(), st.text(), st.integers()),
        "metadata": st.one_of(st.none(), st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()))),
    },
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(rows, min_size=1, max_size=5))
def test_json_lines_and_parquet_say_the_same(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Random rows are read alike from both forms: the same records, or an error from both."""
    texts = [as_text(row) for row in rows]
    schema = pa.schema([*((name, pa.string()) for name in TEXTS), ("metadata", pa.map_(pa.string(), pa.string()))])
    try:
        arrow = pa.Table.from_pylist([{**row, "metadata": list(row["metadata"].items())} for row in texts], schema)
    except UnicodeEncodeError:  # Arrow has no lone surrogates
        arrow = None

    def outcome(path: Path) -> list[tuple[str, Record]] | None:
        try:
            return list(read_records(path))
        except PersonaError:
            return None

    lines = tmp_path / "r.jsonl"
    lines.write_text("\n".join(map(json.dumps, texts)))
    if arrow is None:
        assert outcome(lines) is None
        return
    pq.write_table(arrow, tmp_path / "r.parquet")
    assert outcome(lines) == outcome(tmp_path / "r.parquet")


# Real data

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


@pytest.mark.shared
def test_the_real_blogs_are_read(shared: Path) -> None:
    reader = read_records(shared / "data" / "histories" / "blogs.jsonl.gz")
    posts = list(reader)
    assert (len(posts), reader.skipped) == (28266, 0)
    assert len({user_id for user_id, _ in posts}) == 600
    assert len({(user_id, record.id) for user_id, record in posts}) == 28220
    assert all(record.time is not None and len(record.time) == 10 for _, record in posts)
    assert posts[0][1].time == "2004-08-08"
    assert Counter(str(record.time)[:4] for _, record in posts).most_common(1)[0][0] == "2004"
