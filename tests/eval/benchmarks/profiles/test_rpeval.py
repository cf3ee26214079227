"""RPEval: spellings of labels, conversations, and both tasks by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, InvalidOptionError
from persona.eval import MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.judging.judge import LLMJudge
from persona.llm.load import load_llm

SINGLE = [
    {"persona": "likes fast music", "question": "Music for a nap?", "intent_type": "ignore", "reason": "r"},
    {"persona": "likes tea", "question": "A drink?", "intent_type": "支持性偏好", "reason": "r"},
    {"persona": "eats no nuts", "question": "A cake?", "intent_type": "dominate", "reason": "r"},
]
MULTI = [{"persona": ["likes tea", "eats no nuts"], "question": "A cake?", "intent_type": "AC"}]
TALK = "用户：我喜欢茶。\n\n助手：什么茶？\n\n用户：绿茶。"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for preference in ("explicit", "implicit"):
        (tmp_path / f"{preference}_preference").mkdir()
        for items, rows in (("single", SINGLE), ("multi", MULTI)):
            told = [{**row, "implicit_persona": TALK} for row in rows]
            (tmp_path / f"{preference}_preference/{items}_testset.json").write_text(json.dumps(told))
    return tmp_path


def test_labels_in_any_spelling_and_a_question_for_each_preference(folder: Path) -> None:
    single = load_benchmark("rpeval", folder).questions
    assert [(each.gold, each.profile[0].text) for each in single] == [
        *(("ignore", "likes fast music"), ("support", "likes tea"), ("dominate", "eats no nuts"))
    ]
    multi = load_benchmark("rpeval", folder, items="multi").questions
    assert [(each.id, each.gold, len(each.profile)) for each in multi] == [("0/0", "ignore", 2), ("0/1", "dominate", 2)]
    assert "eats no nuts" in multi[1].prompt
    assert "eats no nuts" not in single[2].prompt
    (talk, *_) = load_benchmark("rpeval", folder, preference="implicit").questions
    assert [(each.role, each.text) for each in talk.profile] == [
        *(("user", "我喜欢茶。"), ("assistant", "什么茶？"), ("user", "绿茶。"))
    ]


def test_discrimination_by_hand(folder: Path) -> None:
    benchmark = load_benchmark("rpeval", folder)
    samples = benchmark.score(benchmark.questions, ["ignore", "dominate", ""])
    assert {metric.name: metric.value(samples) for metric in benchmark.metrics} == {
        "accuracy": pytest.approx(1 / 3),
        "f1": pytest.approx(1 / 3),  # 1 for ignore, 0 for the others
        "restraint": pytest.approx(2 / 3),
        "official accuracy": 0.5,  # without the question that was not answered
    }
    report = evaluate_benchmark(
        benchmark, load_llm(lambda prompt: "dominate" if "nuts" in prompt else "ignore"), MethodOptions(resamples=10)
    )
    assert report["full history"].scores["accuracy"].value == pytest.approx(2 / 3)
    assert report["none"].scores["accuracy"].value == pytest.approx(1 / 3)
    assert report["always support"].scores["accuracy"].value == pytest.approx(1 / 3)
    assert any("CC-BY-NC-4.0; no commercial use" in note for note in report.notes)


def test_the_relevance_filter_has_a_row_of_its_own(folder: Path) -> None:
    benchmark: Any = load_benchmark("rpeval", folder, filter="untrained", encoder="hashing")
    said = benchmark.baselines(benchmark.questions)["relevance filter"]
    assert set(said) <= {"ignore", "support"}
    assert "relevance filter" not in load_benchmark("rpeval", folder).baselines(benchmark.questions)


def test_generation_by_hand(folder: Path) -> None:
    """An empty answer, which ignores every preference, is right about none."""

    def treats(prompt: str) -> str:
        answer = prompt.rpartition("\nAnswer:\n| ")[2].partition("\n")[0]
        return "Hm." if answer == "unclear" else f"VERDICT: {answer}"

    benchmark: Any = load_benchmark("rpeval", folder, asked="generation")
    benchmark.judged_by([LLMJudge(load_llm(treats))])

    def scored(answers: list[str]) -> dict[str, float]:
        samples = benchmark.score(benchmark.questions, answers)
        return {metric.name: round(metric.value(samples), 3) for metric in benchmark.metrics}

    assert scored(["used", "used", "unclear"]) == {
        "rational": 0.333,
        "over-personalized": 0.333,
        "under-personalized": 0,
        "undecided": 0.333,
        "official rational": 0.5,
    }
    assert scored(["", "", "ignored"]) == {
        "rational": 0,
        "over-personalized": 0,
        "under-personalized": 0.333,
        "undecided": 0,
        "official rational": 0,
    }


def test_what_is_wrong_is_named(folder: Path) -> None:
    path = folder / "x.json"
    for broken, message in (
        ({"intent_type": "perhaps"}, "0, intent_type: an intent type must be ignore, support, dominate"),
        ({"persona": ["a", "b"], "intent_type": "A"}, "for each of 2, was: 'A'"),
        ({"persona": []}, "0, persona: there must be at least one preference"),
        ({"question": " "}, "0, question: the text must not be empty"),
    ):
        path.write_text(json.dumps([{**SINGLE[0], **broken}]))
        with pytest.raises(DataFormatError, match=message):
            load_benchmark("rpeval", path)
    with pytest.raises(InvalidOptionError, match="`asked` must be one of discrimination, generation"):
        load_benchmark("rpeval", path, asked="both")


@pytest.mark.shared
def test_the_published_files(shared: Path) -> None:
    """50 of each label in both single sets, although one spells a label in Chinese; 641, 79, 83 in the other."""
    folder = shared / "data/benchmarks/rpeval/benchmark_dataset"
    for preference in ("explicit", "implicit"):
        questions = load_benchmark("rpeval", folder, preference=preference).questions
        assert Counter(each.gold for each in questions) == {"ignore": 50, "support": 50, "dominate": 50}
        assert all(len(each.profile) > 1 for each in questions) == (preference == "implicit")
    multi = load_benchmark("rpeval", folder, items="multi").questions
    assert Counter(each.gold for each in multi) == {"ignore": 641, "support": 79, "dominate": 83}
    spelled = json.loads((folder / "implicit_preference/single_testset.json").read_text())
    assert sum(not each["intent_type"].isascii() for each in spelled) == 50
