"""LaMP-QA, BESPOKE and RPEval's generation before a scripted judge: layouts, scores by hand, undecided verdicts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from persona.errors import DataFormatError, EvaluationError, InvalidOptionError
from persona.eval import Benchmark, MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.judging.benchmark import JudgeOptions
from persona.eval.judging.check import CheckOptions, check_judge
from persona.eval.judging.judge import LLMJudge
from persona.eval.judging.rates import Rates
from persona.llm.load import load_llm

QUESTION = {
    "id": "q1",
    "question": "How do I keep a balcony green?",
    "narrative": "I am away a lot.",
    "category": "Lifestyle",
    "profile": [{"id": "p1", "text": "My balcony faces north."}, {"id": "p2", "text": "Soup is good."}],
    "rubric_aspects": [
        {"aspect": "water", "reason": "Nobody is there to water.", "evidence": "I am away"},
        {"aspect": "shade", "reason": "There is little sun.", "evidence": "faces north"},
    ],
}
OTHER = {**QUESTION, "id": "q2", "rubric_aspects": [{"aspect": "cost", "reason": "", "evidence": ""}], "profile": []}


def judge(decide: Callable[[str, str], str], rates: Rates | None = None) -> LLMJudge:
    """A judge that decides by the prompt and the answer in it."""
    return LLMJudge(load_llm(judging(decide)), rates=rates)


def judging(decide: Callable[[str, str], str]) -> Callable[[str], str]:
    def reply(prompt: str) -> str:
        answer = prompt.rpartition("\nAnswer:\n| ")[2].partition("\n\nWhat to decide")[0]
        return decide(prompt, answer)

    return reply


def graded(prompt: str, answer: str) -> str:
    """2 for an aspect's word in the answer, 0 without, nothing where the answer is unclear."""
    aspect = re.search(r"\nAspect:\n\| (\w+)", prompt)
    assert aspect
    return "I cannot say." if "unclear" in answer else f"VERDICT: {2 if aspect[1] in answer else 0}"


def values(benchmark: Benchmark, answers: list[str]) -> dict[str, float]:
    samples = benchmark.score(benchmark.questions, answers)
    return {metric.name: metric.value(samples) for metric in benchmark.metrics}


@pytest.fixture
def lamp_qa(tmp_path: Path) -> Any:
    folder = tmp_path / "qa"
    folder.mkdir()
    (folder / "Art_and_Entertainment_test.json").write_text(json.dumps([QUESTION]))
    (folder / "Society_and_Culture_test.json").write_text(json.dumps([OTHER]))
    return load_benchmark("lamp-qa", folder)


def test_lamp_qa_by_hand(lamp_qa: Any) -> None:
    first, _ = lamp_qa.questions
    assert (first.user_id, first.kind, first.gold, len(first.profile)) == ("q1", "Lifestyle", "water; shade", 2)
    lamp_qa.judged_by([judge(graded)])
    # Of two aspects one is treated; the only one of the other question is not decided.
    assert values(lamp_qa, ["water it", "unclear"]) == {
        "rubric": 0.5,
        "full": pytest.approx(1 / 3),
        "undecided": pytest.approx(1 / 3),
        "official rubric": 0.25,
    }
    assert values(lamp_qa, ["", "cost"])["rubric"] == 0.5  # an empty answer is 0 and asks no judge
    lamp_qa.judged_by([judge(graded, Rates(1, 10, 1, 10))])
    assert values(lamp_qa, ["water it", "cost"])["full corrected"] == pytest.approx((2 / 3 - 0.1) / 0.8)
    assert lamp_qa.baselines(lamp_qa.questions) == {"nearest post": ["My balcony faces north.", ""]}


def test_a_judged_run_keeps_replies_and_needs_a_judge(lamp_qa: Any, tmp_path: Path) -> None:
    options = MethodOptions(methods=("none",), controls=False, resamples=10)
    llm = load_llm(lambda prompt: "water")
    with pytest.raises(InvalidOptionError, match="the answers of lamp-qa are judged: name a judge"):
        evaluate_benchmark(lamp_qa, llm, options)
    with pytest.raises(EvaluationError, match="name judges"):
        lamp_qa.score(lamp_qa.questions, ["", ""])
    asked: list[str] = []

    def strict_is_stricter(prompt: str) -> str:
        asked.append(prompt)
        return "VERDICT: 0" if "strict examiner" in prompt else judging(graded)(prompt)

    for _ in range(2):
        judges = JudgeOptions().judges(load_llm(strict_is_stricter), tmp_path)
        report = evaluate_benchmark(lamp_qa.judged_by(judges), llm, options, out=tmp_path)
        scores = report["none"].scores
        assert [scores[f"rubric by {prompt}"].value for prompt in ("reasoned/1", "strict/1")] == [0.25, 0]
        assert len(asked) == 2 * (3 + 2)  # of the baseline too, whose second answer is empty; the second run asks none
    assert [name.rpartition(" ")[2] for name in report.config["judges"]] == ["reasoned/1", "strict/1"]
    assert "official rubric by strict/1" in lamp_qa.defects
    assert (tmp_path / "judged.jsonl").read_text().count('"replies"') == 10


def test_a_judge_is_checked_on_aspects(lamp_qa: Any) -> None:
    (reasoned, _) = check_judge(lamp_qa, judge(graded).llm).prompts
    assert (reasoned.rates.passed, reasoned.rates.wrong, reasoned.rates.failed, reasoned.rates.golds) == (0, 3, 0, 3)


def test_lamp_qa_refuses(tmp_path: Path) -> None:
    for broken, message in (
        ({**QUESTION, "rubric_aspects": []}, "rubric_aspects: a question must have at least one aspect"),
        ({**QUESTION, "profile": [{"text": 7}]}, "profile 0, text: a string must stand here"),
        ({"id": "q1"}, "`question` must stand here"),
    ):
        (tmp_path / "x.json").write_text(json.dumps([broken]))
        with pytest.raises(DataFormatError, match=message):
            load_benchmark("lamp-qa", tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps([QUESTION, QUESTION]))
    with pytest.raises(DataFormatError, match="two questions have the id 'q1'"):
        load_benchmark("lamp-qa", tmp_path / "x.json")
    with pytest.raises(InvalidOptionError, match="`split` must be one of train, validation, test"):
        load_benchmark("lamp-qa", tmp_path / "x.json", split="dev")


def bespoke_tables(folder: Path) -> None:
    """Two queries of one person; the second has neither claims nor a rubric."""
    key = {"user": "user1", "query-id": "1"}
    shot = {"contents": "Try tea.", "need_alignment": {"score": 4, "feedback": "good"}, "tone": {"score": 2}}
    tables = {
        "queries/query_table": [
            {**key, "query": "What helps me sleep?", "gold_information_need": "something without pills"},
            {**key, "query-id": "2", "query": "And to wake?", "gold_information_need": "light"},
        ],
        "gold_information/gold_information": [
            {**key, "id": "g", "gold_information_value": json.dumps({"gold_information": ["tea helps", "dark helps"]})}
        ],
        "personalized_rubric/personalized_rubric": [
            {**key, "id": "r", "personalized_rubric_value": "Dislikes jargon."}
        ],
        "evaluation_shot/evaluation_shot": [
            {**key, "id": "s", "evaluation_shot_value": json.dumps({"response_list": [shot]})}
        ],
        "chat_history/chat_history": [{"user": "user1", "id": "c", "history": "user: I drink tea"}],
        "search_history/search_history": [{"user": "user1", "id": "h", "history": "sleep masks"}],
    }
    for name, rows in tables.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def personal(prompt: str, answer: str) -> str:
    """4 in every way but tone, which it leaves open; a claim is there where its first word is in the answer."""
    if claim := re.search(r"\nClaim:\n\| (\w+)", prompt):
        return f"VERDICT: {'yes' if claim[1] in answer else 'no'}"
    return "Hm." if "tone" in prompt.rpartition("What to decide")[2] else "VERDICT: 4"


def test_bespoke_by_hand(tmp_path: Path) -> None:
    bespoke_tables(tmp_path)
    benchmark: Any = load_benchmark("bespoke", tmp_path)
    first = benchmark.questions[0]
    assert [(each.id, each.metadata["kind"]) for each in first.profile] == [("c", "chat"), ("h", "search")]
    need, _, tone, _ = benchmark.scored_items(first, "x")
    assert need.rubric["How the person scores"] == "Dislikes jargon."
    assert need.rubric["An answer that the person scored, 1"] == "Try tea.\n\nScore: 4. good"
    assert tone.rubric["An answer that the person scored, 1"] == "Try tea.\n\nScore: 2"
    benchmark.judged_by([judge(personal, Rates(1, 10, 0, 10))])
    assert values(benchmark, ["tea", "light"]) == {
        **dict.fromkeys(("rubric", "need", "depth", "explanation"), 0.75),
        "tone": 0,
        "recall": 0.5,
        "recall corrected": pytest.approx((0.5 - 0.1) / 0.9),
        "undecided": pytest.approx(2 / 10),
        "official rubric": pytest.approx(4 / 5),
        "official recall": 0.25,  # the query without claims counts 0
    }
    check = check_judge(benchmark, judge(personal).llm, CheckOptions(prompts=("strict/1",))).prompts[0]
    assert (check.rates.passed, check.rates.wrong, check.rates.failed, check.rates.golds) == (0, 2, 0, 2)
    assert len(load_benchmark("bespoke", tmp_path, histories=("chat",)).questions[0].profile) == 1


def test_bespoke_refuses(tmp_path: Path) -> None:
    bespoke_tables(tmp_path)
    path = tmp_path / "gold_information/gold_information.parquet"
    row = {"user": "user1", "query-id": "1", "id": "g", "gold_information_value": "{"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    with pytest.raises(DataFormatError, match="row 0, gold_information_value: broken JSON"):
        load_benchmark("bespoke", tmp_path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataFormatError, match="the Parquet file cannot be read"):
        load_benchmark("bespoke", tmp_path)
    path.unlink()
    with pytest.raises(DataFormatError, match="must hold gold_information"):
        load_benchmark("bespoke", tmp_path)
