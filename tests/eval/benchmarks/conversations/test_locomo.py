"""LoCoMo: turns in order, repaired evidence, both scorers by hand, and the published file's counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from persona.eval import load_benchmark
from persona.eval.benchmarks.conversations.locomo import Locomo, declines, f1, official_f1
from tests.eval.benchmarks.conversations.dialogues import LOCOMO


@pytest.fixture
def small(tmp_path: Path) -> Locomo:
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    return Locomo.read(tmp_path / "locomo.json")


def test_the_turns_of_both_speakers_are_records_in_order_with_speaker_and_time(small: Locomo) -> None:
    records = small.questions[0].profile.records
    assert [record.id for record in records] == ["D1:1", "D1:2", "D2:1", "D2:2"]
    assert [record.speaker for record in records] == ["Ines", "Olu", "Ines", "Olu"]
    assert [record.time for record in records[1:3]] == ["2022-05-08T13:56:00", "2022-06-03T09:05:00"]
    assert records[3].text == "[shares a picture: a jar on a table]"
    assert small.questions[5].profile[0].time == "2023-01-01T00:10:00"


def test_questions_have_kind_gold_and_repaired_evidence(small: Locomo) -> None:
    assert [question.kind for question in small.questions] == [
        *("multi-hop", "temporal", "open", "single-hop", "adversarial"),
        *("single-hop", "adversarial"),
    ]
    assert [question.gold for question in small.questions[3:]] == ["2", "not mentioned", "Cork", "No"]
    assert [question.evidence for question in small.questions] == [
        *(("D1:1",), ("D2:1",), ("D1:1", "D1:2"), (), ()),
        *(("D1:1",), ()),
    ]


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "score"),
    [
        ("single-hop", "The red boats, and a dog", "red boat", 2 * 2 / (2 + 3)),  # stems; articles and `and` gone
        ("single-hop", "so so good", "so good", 2 * 2 / 5),  # a word counts as often as it is in both
        ("single-hop", "Cork", "", 0.0),
        ("multi-hop", "quince, pears", "pears, plums", 0.5),  # each gold's best part: 0 and 1
        ("open", "Likely yes; she plants fruit", "likely yes", 1.0),  # the gold ends at the semicolon
        ("temporal", "2 June 2022", "June 2022", 2 * 2 / 5),
    ],
)
def test_f1_by_hand(kind: str, gold: str, answer: str, score: float) -> None:
    assert f1(kind, gold, answer) == pytest.approx(score)
    assert official_f1(kind, gold, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("gold", "answer", "fixed", "official"),
    [
        ("not mentioned", "Not mentioned in the conversation.", 1, 1),
        ("not mentioned", "No information available", 1, 1),
        ("not mentioned", "The conversation doesn’t say.", 1, 0),  # official: two phrases only
        ("not mentioned", "a quince", 0, 0),
        ("No", "No, he has none.", 1, 0),  # official: a right answer that does not decline is wrong
    ],
)
def test_declining_by_hand(gold: str, answer: str, fixed: int, official: int) -> None:
    assert (f1("adversarial", gold, answer), official_f1("adversarial", gold, answer)) == (fixed, official)


def test_an_answer_with_a_common_word_does_not_decline() -> None:
    assert not any(map(declines, ("It is not far.", "No", "He said he would not go.", "a known author")))


def test_the_official_score_leaves_category_5_out(small: Locomo) -> None:
    answers = ["quince, pears", "2 June 2022", "likely yes", "2", "not mentioned", "Cork", "No"]
    samples = small.score(small.questions, answers)
    assert {metric.name: metric.value(samples) for metric in small.metrics} == {
        "f1": 1.0,
        "official f1": pytest.approx(5 / 6),  # of the five others, and of the one with an answer, which it misjudges
    }
    assert small.baselines(small.questions)["nearest turn"][5] == "I moved to Cork."


def test_options(tmp_path: Path) -> None:
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    wrong = {"question": "Where did Tarek move?", "golden_answer": "Cork", "correct_answer": "Cobh"}
    (tmp_path / "audit.json").write_text(json.dumps([{**wrong, "correct_evidence": ["D7:7"]}]))
    options: dict[str, Any] = {"categories": (4,), "corrections": str(tmp_path / "audit.json")}
    questions = load_benchmark("locomo", tmp_path / "locomo.json", **options).questions
    assert [(each.gold, each.evidence) for each in questions] == [("2", ()), ("Cobh", ())]


@pytest.mark.shared
def test_the_published_file(shared: Path) -> None:
    folder = shared / "data/benchmarks/locomo"
    raw = json.loads((folder / "locomo10.json").read_text())
    without = [qa for sample in raw for qa in sample["qa"] if qa["category"] == 5 and "answer" not in qa]
    benchmark = load_benchmark("locomo", folder / "locomo10.json")
    kinds = Counter(question.kind for question in benchmark.questions)
    assert len({question.user_id for question in benchmark.questions}) == len(raw) == 7
    assert kinds == {"multi-hop": 192, "temporal": 214, "open": 66, "single-hop": 563, "adversarial": 312}
    assert len(without) == 310
    assert sum(question.gold == "not mentioned" for question in benchmark.questions) == 310
    assert sum(bool(question.evidence) for question in benchmark.questions) == 1033
    known = [{record.id for record in question.profile} for question in benchmark.questions]
    assert all(set(each.evidence) <= ids for each, ids in zip(benchmark.questions, known, strict=True))
