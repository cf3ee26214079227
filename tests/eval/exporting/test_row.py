"""Rows for other tools: the requests of `persona eval`, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persona.errors import EvaluationError, InvalidOptionError, UnsupportedChannelError
from persona.eval import MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.exporting.row import exported_row
from persona.llm.load import load_llm
from tests.eval.benchmarks.conversations.dialogues import LOCOMO, LONGMEMEVAL


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    return str(tmp_path / "locomo.json")


def test_requests_and_scores_are_those_of_persona_eval(data: str) -> None:
    options = {"limit": 5, "seed": 3, "categories": [1, 2, 4]}
    chosen = MethodOptions(ks=(1,), limit=5, seed=3, resamples=10)
    report = evaluate_benchmark(
        load_benchmark("locomo", data, categories=(1, 2, 4)), load_llm(lambda _: "quince"), chosen
    )
    for method, control in (("none", None), ("bm25", "other user"), ("full", None), ("full", "evidence alone")):
        row = exported_row("locomo", data, method, k=1, control=control, options=options)
        own = report[row.name]
        assert row.about["prompts"] == own.prompts
        assert row.about["data"] == report.data
        answers = [(id_, row.answer("<think>Jam?</think> **quince**")) for id_ in row.questions]
        assert row.values(answers) == {name: interval.value for name, interval in own.scores.items()}
    json.dumps(row.about)


def test_a_judge_grades_what_another_model_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(prompt: str) -> str:
        return f"VERDICT: {'yes' if '8' in prompt else 'no'}"

    monkeypatch.setattr("persona.eval.exporting.row.load_llm", lambda name: load_llm(verdict))
    (tmp_path / "s.json").write_text(json.dumps(LONGMEMEVAL))
    row = exported_row("longmemeval", str(tmp_path / "s.json"), "full", judge="rules")
    assert row.values([("q3", "It is 8.")])["correct by strict/1"] == 1.0
    assert row.values([("q1", "No idea.")])["correct by strict/1"] == 0.0


def test_what_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedChannelError, match=r"'user-embedder' needs: soft_prompt, .* text and nothing else"):
        exported_row("locomo", data, "user-embedder")
    with pytest.raises(InvalidOptionError, match="the controls of 'none' are: none here; was: 'other user'"):
        exported_row("locomo", data, "none", control="other user")
    with pytest.raises(InvalidOptionError, match=r"locomo has the options .* was given: 'limmit'"):
        exported_row("locomo", data, "none", options={"limmit": 3})
    (tmp_path / "s.json").write_text(json.dumps(LONGMEMEVAL))
    with pytest.raises(EvaluationError, match="cannot be scored without a judge"):
        exported_row("longmemeval", str(tmp_path / "s.json"), "none")
