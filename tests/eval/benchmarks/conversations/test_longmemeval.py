"""LongMemEval: histories by date up to the question, evidence of both sides, and measures by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError
from persona.eval import MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.benchmark import Question
from persona.eval.benchmarks.conversations.longmemeval import LongMemEval
from persona.eval.judging.judge import Verdict
from persona.eval.judging.prompts import JudgedItem
from persona.llm.load import load_llm
from tests.eval.benchmarks.conversations.dialogues import LONGMEMEVAL


class Scripted:
    """A judge by rules, which says "no, yesterday" of an answer with "aged", and decides nothing on "?"."""

    name = "scripted rules/1"

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def verdicts(self, items: Sequence[JudgedItem]) -> list[Verdict]:
        self.kinds |= {item.id: item.kind for item in items}
        return [self._verdict(item) for item in items]

    def _verdict(self, item: JudgedItem) -> Verdict:
        if item.answer == "?":
            return Verdict(None, "hm")
        if "aged" in item.answer:
            return Verdict(0.0, "That was so yesterday. VERDICT: no")
        right = item.gold in item.answer or (item.kind == "correct/abstention" and "never told" in item.answer)
        return Verdict(float(right), "VERDICT: yes" if right else "VERDICT: no")


@pytest.fixture
def memories(tmp_path: Path) -> LongMemEval:
    (tmp_path / "s.json").write_text(json.dumps(LONGMEMEVAL))
    return LongMemEval.read(tmp_path / "s.json")


def test_sessions_stand_by_date_and_none_after_the_question(memories: LongMemEval) -> None:
    first, cannot, update = memories.questions
    assert [(record.id, record.time) for record in first.profile] == [
        ("s1:0", "2023-05-01T08:30:00"),
        ("s2:0", "2023-05-19T10:00:00"),
        ("s2:1", "2023-05-19T10:00:00"),
    ]
    assert [record.role for record in first.profile] == ["user", "user", "assistant"]
    assert first.prompt == "Today is 2023-05-20.\nWhich mountain did you name?"
    assert [each.evidence for each in memories.questions] == [("s2:1",), (), ("s1:0",)]
    assert [each.kind for each in memories.questions] == ["single-session-assistant", "abstention", "knowledge-update"]
    assert (update.gold, cannot.user_id) == ("8", "q2_abs")


def test_measures_by_hand(memories: LongMemEval) -> None:
    judge = Scripted()
    memories.judged_by([judge])

    def values(*answers: str) -> dict[str, float]:
        samples = memories.score(memories.questions, answers)
        return {metric.name: metric.value(samples) for metric in memories.metrics}

    assert values("Triglav", "You never told me.", "8") == {
        "correct": 1.0,
        "official correct": 1.0,
        "by type": 1.0,
        "undecided": 0.0,
    }
    assert judge.kinds == {"q1": "correct", "q2_abs": "correct/abstention", "q3": "correct/update"}
    # By type: assistant 1 of 1, knowledge-update (abstention included) 0 of 2. Official: "yesterday" has a yes in it,
    # and the missing answer is left out.
    found = values("Triglav", "It is aged.", "")
    assert found["correct"] == pytest.approx(1 / 3)
    assert found["by type"] == pytest.approx(1 / 2)
    assert found["official correct"] == 1.0
    assert values("?", "?", "8")["undecided"] == pytest.approx(2 / 3)
    assert values("?", "?", "8")["correct"] == pytest.approx(1 / 3)


def test_a_run_and_what_is_known_for_a_check(memories: LongMemEval) -> None:
    known = memories.known_items()
    assert [item.answer for item in known.right] == ["Triglav", "8"]
    assert len(known.wrong) == 2
    llm = load_llm(lambda prompt: "Triglav" if "Triglav" in prompt else "You never told me.")
    options = MethodOptions(methods=("none", "full", "bm25"), ks=(1,), resamples=20)
    report = evaluate_benchmark(memories.judged_by([Scripted()]), llm, options)
    assert report["none"].scores["correct"].value == pytest.approx(1 / 3)
    assert report["full history"].scores["correct"].value == pytest.approx(2 / 3)
    assert report["full history, evidence alone"].scores["correct"].value == pytest.approx(2 / 3)
    assert report["bm25 k=1"].evidence is not None


def test_options_and_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(LONGMEMEVAL))

    def read(**options: Any) -> Sequence[Question]:
        return load_benchmark("longmemeval", tmp_path / "s.json", **options).questions

    assert [each.id for each in read(kinds=("knowledge-update",))] == ["q2_abs", "q3"]
    assert [each.id for each in read(first=1)] == ["q1"]
    first: Any = LONGMEMEVAL[0]
    for key, value, said in (
        ("question_date", "20 May", "question 0, question_date: a time must be like '2023/05/20 (Sat) 02:21'"),
        ("question_date", "2023/13/20 (Sat) 02:21", "question_date: a time must be like"),
        ("question_type", "other", "question_type: a type must be one of single-session-user"),
        ("haystack_dates", [], "sessions, dates and ids must be as many, were: 3, 0, 3"),
        ("haystack_sessions", [[7], [], []], "haystack_sessions 0 0: an object must stand here, was: 7"),
    ):
        (tmp_path / "s.json").write_text(json.dumps([{**first, key: value}]))
        with pytest.raises(DataFormatError) as caught:
            read()
        assert said in str(caught.value)
