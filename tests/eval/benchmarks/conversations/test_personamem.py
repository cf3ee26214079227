"""PersonaMem: what came before a question, options of both versions, and readings of answers by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, InvalidOptionError
from persona.eval import load_benchmark
from persona.eval.benchmarks.conversations.personamem import PersonaMem, official_first, official_second
from persona.eval.benchmarks.letters import chosen_letter
from tests.eval.benchmarks.conversations.dialogues import PERSONAMEM_1, PERSONAMEM_2


def written(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".csv"):
            with (folder / name).open("w", newline="") as file:
                csv.writer(file).writerows(content)
        else:
            (folder / name).write_text(json.dumps(content) + "\n")
    return folder


def test_a_question_sees_what_was_said_before_it(tmp_path: Path) -> None:
    folder = written(tmp_path, PERSONAMEM_1)
    first, second = load_benchmark("personamem", folder).questions
    assert [record.text for record in first.profile] == ["I walked in a fen.", "How wet!"]
    assert [record.role for record in second.profile] == ["user", "assistant", "user"]
    assert second.profile[2].id == "ctx:3"
    assert (first.gold, second.gold, second.kind, second.user_id) == ("A", "B", "update", "7")
    assert "(B) A moor, it's dry." in first.prompt
    assert load_benchmark("personamem", folder, system=True).questions[0].profile[0].role == "system"
    assert [each.id for each in load_benchmark("personamem", folder, kinds=("update",)).questions] == ["q-2"]


def test_version_2_is_shuffled_by_the_question(tmp_path: Path) -> None:
    benchmark = load_benchmark("personamem", written(tmp_path, PERSONAMEM_2))
    one, two = benchmark.questions
    assert (benchmark.licence, one.query, two.query) == ("CC-BY-4.0", "Where to?", "And then?")
    assert f"({one.gold}) A moor." in one.prompt
    assert f"({two.gold}) Home." in two.prompt
    golds = {PersonaMem.read(tmp_path, shuffle=seed).questions[0].gold for seed in range(40)}
    assert golds == set("ABCD")


@pytest.mark.parametrize(
    ("answer", "fixed", "first", "second"),
    [
        ("(b)", "B", "B", None),
        ("B", "B", "B", None),
        ("b) A moor", "B", None, None),  # version 1 reads the article as well
        ("The answer is B because it is dry", "B", "B", None),
        ("The answer is A, since", "A", "A", None),
        ("My choice is A because it fits.", "A", "A", None),
        ("Answer: A friend decides.", None, "A", "A"),
        ("My answer is b.", "B", "B", "B"),
        ("Answer: (c)", "C", "C", None),
        ("Final Answer: C", "C", "C", "C"),
        ("It would be a moor.", None, "A", None),  # version 1 reads the article
        ("I think a friend would go there.", None, "A", None),
        ("Answer: a friend decides.", None, "A", "A"),  # and version 2 any word's first letter
        ("The answer: beach", None, None, "B"),
        ("(a) or (b)", None, None, None),
        ("", None, None, None),
    ],
)
def test_readings_by_hand(answer: str, fixed: str | None, first: str | None, second: str | None) -> None:
    assert (chosen_letter(answer, "ABCD"), official_first(answer), official_second(answer)) == (fixed, first, second)


def test_both_accuracies(tmp_path: Path) -> None:
    benchmark = load_benchmark("personamem", written(tmp_path, PERSONAMEM_1))
    samples = benchmark.score(benchmark.questions, ["It was a fen.", "(b)"])
    values = {metric.name: metric.value(samples) for metric in benchmark.metrics}
    assert values == {"accuracy": 0.5, "official accuracy": 1.0}


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="`size` must be one of 32k, 128k, 1M"):
        PersonaMem.read(tmp_path, size="64k")
    rows: Any = PERSONAMEM_1["questions_32k.csv"]
    for column, value, said in (
        (4, "(f)", "correct_answer: it must name one of 4 options, was: 'F'"),
        (5, "['(a) x'", "all_options: broken JSON"),
        (6, "other", "there is no such context: 'other'"),
        (7, "-1", "a whole number must stand here, was: '-1'"),
    ):
        changed = [*rows[1][:column], value, *rows[1][column + 1 :]]
        written(tmp_path, {**PERSONAMEM_1, "questions_32k.csv": [rows[0], changed]})
        with pytest.raises(DataFormatError, match=r"questions_32k\.csv, line 2") as caught:
            PersonaMem.read(tmp_path)
        assert said in str(caught.value)
    head, second, *_ = list(PERSONAMEM_2["benchmark/text/benchmark.csv"])
    outside = [*second[:5], "../7.json"]
    written(tmp_path / "second", {**PERSONAMEM_2, "benchmark/text/benchmark.csv": [head, outside]})
    with pytest.raises(DataFormatError, match="a history must lie in the folder"):
        PersonaMem.read(tmp_path / "second")
