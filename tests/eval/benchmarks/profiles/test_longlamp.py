"""LongLaMP: its layouts, and both scorers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from persona.errors import DataFormatError, InvalidOptionError
from persona.eval import load_benchmark
from persona.eval.benchmarks.profiles.longlamp import LongLamp, query_of
from persona.eval.benchmarks.profiles.meteor import meteor, official_meteor

ABSTRACT = {
    "name": "Ana",
    "input": 'Write an abstract for the title "Gardens" using the following items: 1. roof 2. rain',
    "output": "We plant gardens on roofs.",
    "profile": [
        {"id": "7", "title": "On rain", "abstract": "We measure rain.", "year": "2015"},
        {"id": "8", "title": "On roofs", "abstract": "We count roofs.", "year": "2011"},
        {"id": "9", "title": "Untold", "abstract": " ", "year": 2012},
    ],
}
REVIEW = {
    "reviewerId": "r1",
    "input": "Write a review of a ladder.",
    "output": "It stands.",
    "profile": [{"overall": 4.0, "summary": "Good", "description": "A bucket", "reviewText": "It holds water."}],
}
TOPIC = {
    "author": "t1",
    "input": "Write on ladders.",
    "output": "Ladders!",
    "profile": [{"content": "So.", "summary": "S"}],
}
EMAIL = {"input": "Write to Jo.", "output": "Hi Jo", "profile": [{"title": "Re: key", "text": "It is under the mat."}]}


def test_each_task_is_known_by_its_history(tmp_path: Path) -> None:
    found = {}
    for name, row in {"a": ABSTRACT, "r": REVIEW, "t": TOPIC, "e": EMAIL}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
        found[name] = LongLamp.read(tmp_path / f"{name}.json")
    assert [each.task.name for each in found.values()] == [
        *("abstract_generation", "product_review", "topic_writing", "email_completion")
    ]
    question = found["a"].questions[0]
    assert (question.user_id, question.query, question.gold) == ("Ana", "1. roof 2. rain", ABSTRACT["output"])
    assert [(each.text, each.target, each.time) for each in question.profile] == [
        ("On roofs", "We count roofs.", "2011"),
        ("On rain", "We measure rain.", "2015"),
    ]
    (record,) = found["r"].questions[0].profile
    assert (record.text, record.target, record.metadata) == ("A bucket", "It holds water.", {"overall": "4"})
    assert found["e"].questions[0].user_id == "0"
    assert found["a"].baselines(found["a"].questions) == {"nearest text": ["We measure rain."]}


def test_folders_settings_and_parquet_in_parts(tmp_path: Path) -> None:
    for setting, row in (("user", ABSTRACT), ("temporal", {**ABSTRACT, "name": "Ben"})):
        folder = tmp_path / f"abstract_generation_{setting}"
        folder.mkdir()
        rows = [{**row, "profile": row["profile"][:2]}] * 2
        for part, some in enumerate((rows[:1], rows[1:])):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), folder / f"test-0000{part}-of-00002.parquet")
    read = [
        load_benchmark("longlamp", tmp_path, task="abstract_generation", setting=name) for name in ("user", "temporal")
    ]
    users = [[each.user_id for each in benchmark.questions] for benchmark in read]
    assert users == [["Ana", "Ana"], ["Ben", "Ben"]]
    with pytest.raises(DataFormatError, match=r"must hold val\.json, \.jsonl or \.parquet, holds: test-00000"):
        load_benchmark("longlamp", tmp_path, task="abstract_generation", split="val")
    (tmp_path / "abstract_generation_user/test.json").write_text(json.dumps([ABSTRACT]))
    with pytest.raises(DataFormatError, match="must lie there in one form"):
        load_benchmark("longlamp", tmp_path, task="abstract_generation")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ABSTRACT, "output": None}], "0, output: a string must stand here"),
        ([{**ABSTRACT, "profile": [{"words": "x"}]}], "0, profile 0: an item of a history must have a text of"),
        ([{**ABSTRACT, "profile": []}], "no question has a history"),
        ([{**ABSTRACT, "input": ""}], "0, input: the text must not be empty"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, rows: object, message: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(DataFormatError, match=message):
        LongLamp.read(tmp_path / "x.json")


def test_options(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([ABSTRACT]))
    with pytest.raises(InvalidOptionError, match="`setting` must be one of user, temporal, was: 'new'"):
        LongLamp.read(tmp_path / "x.json", setting="new")
    with pytest.raises(DataFormatError, match="must be of topic_writing, is of abstract_generation"):
        LongLamp.read(tmp_path / "x.json", task="topic_writing")
    assert query_of("No list here") == "No list here"  # the published code ends with an error


def test_scores_by_hand(tmp_path: Path) -> None:
    """Gold of five words; the answer has three of them in order; the second answer is empty."""
    (tmp_path / "x.json").write_text(json.dumps([ABSTRACT, ABSTRACT]))
    benchmark = LongLamp.read(tmp_path / "x.json")
    samples = benchmark.score(benchmark.questions, ["We plant roofs", " "])
    values = {metric.name: metric.value(samples) for metric in benchmark.metrics}
    rouge = 2 * 3 / (5 + 3)
    # METEOR: three matches in two chunks, P = 1, R = 3/5.
    by_hand = 1 * 0.6 / (0.9 * 1 + 0.1 * 0.6) * (1 - 0.5 * (2 / 3) ** 3)
    assert values["rouge-1"] == pytest.approx(rouge / 2)
    assert values["official rouge-1"] == pytest.approx(rouge)  # the empty answer is gone
    assert values["rouge-L"] == pytest.approx(rouge / 2)
    assert values["meteor"] == pytest.approx(by_hand / 2)
    assert set(benchmark.defects) == {"official rouge-1", "official rouge-L", "official meteor"}
    assert "leaves out empty answers" in benchmark.defects["official rouge-1"]


def test_meteor_by_hand() -> None:
    assert meteor("a b c", "a b c") == pytest.approx(1 - 0.5 / 27)
    assert meteor("the dogs ran", "a dog runs fast") == pytest.approx(
        (1 / 4 * 1 / 3) / (0.9 / 4 + 0.1 / 3) * (1 - 0.5)
    )  # one match, by its stem
    assert meteor("a b", "") == meteor("", "a b") == meteor("x", "y") == 0
    assert meteor("шкаф стоит", "шкаф стоит") == pytest.approx(1 - 0.5 / 8)  # any script
    # Two chunks, "a c" and "a b"; matched from the end there are four.
    assert meteor("a b a c", "a c a b") == pytest.approx(1 - 0.5 * (2 / 4) ** 3)
    assert official_meteor("a b a c", "a c a b") == pytest.approx(1 - 0.5 * (4 / 4) ** 3)
    assert official_meteor("a b c", "a b c") == pytest.approx(meteor("a b c", "a b c"))
