"""`persona eval NAME DATA` and `persona eval compare`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run, settings
from tests.eval.benchmarks.conversations.dialogues import LOCOMO


def test_a_benchmark_by_its_name_and_two_runs_compared(run: Run) -> None:
    Path("locomo.json").write_text(json.dumps(LOCOMO))
    chosen = ("--methods", "none,bm25", "--k", "1", *settings("max_new_tokens=2", "categories=4,5", "resamples=20"))
    shown = run("eval", "locomo", "locomo.json", *chosen, "--out", "a")
    assert shown.code == 0, shown.err
    assert "bm25 k=1, other user" in shown.out
    assert "f1 by kind" in shown.out
    assert "data: CC-BY-NC-4.0; no commercial use" in shown.out
    report = run("eval", "run", "locomo", "locomo.json", *chosen, "--out", "b", "--json").json
    assert (report["questions"], report["benchmark"]) == (4, "locomo")
    compared = run("eval", "compare", "a", "b/results.json", "--json").json
    assert {row["difference"]["difference"] for row in compared["rows"]} == {0.0}
    assert "4 questions of both" in run("eval", "compare", "a", "b").out
    found = run("eval", "locomo", "locomo.json", "--retrieval-only", "--k", "1,2", "--out", "c")
    assert "bm25" in found.out
    assert "recall@2 by kind" in found.out
    assert json.loads(Path("c/retrieval.json").read_text())["questions"] == 4


def test_a_judge_is_named_checked_and_allowed_for(run: Run) -> None:
    """`tiny` decides nothing: every verdict is undecided, which passes nothing."""
    aspects = [{"aspect": "water", "reason": "dry", "evidence": "away"}]
    row = {"id": "q", "question": "A balcony?", "narrative": "", "profile": [{"text": "North."}]}
    Path("qa.json").write_text(json.dumps([{**row, "rubric_aspects": aspects}]))
    few = settings("max_new_tokens=8", "resamples=20", "judge.max_new_tokens=2", "judge.tries=1")
    judged = ("eval", "lamp-qa", "qa.json", "--methods", "none", *few)
    shown = run(*judged, "--judge", "tiny", "--out", "a", "--json").json
    assert shown["rows"][0]["scores"]["undecided by strict/1"]["value"] == 1.0
    assert "would read the settings of `judge`: name one (--judge LLM)" in run(*judged, "--out", "b").err
    missing = run("eval", "lamp-qa", "qa.json", "--methods", "none", "--out", "b")
    assert "are judged: name a judge (--judge LLM)" in missing.err
    strict = ("--llm", "tiny", "--prompts", "strict/1", *settings("max_new_tokens=2", "tries=1"))
    checked = run("eval", "judge-check", "lamp-qa", "qa.json", *strict, "--out", "c")
    assert checked.code == 0, checked.err
    assert "golds failed (r)" in checked.out
    rates = json.loads(Path("c/results.json").read_text())["rates"]["strict/1"]
    assert (rates["passed"], rates["failed"], rates["golds"]) == (0, 1, 1)
    Path("locomo.json").write_text(json.dumps(LOCOMO))
    refused = run("eval", "judge-check", "locomo", "locomo.json", "--out", "d")
    assert "locomo has no answers of which it is known what a judge should say" in refused.err
