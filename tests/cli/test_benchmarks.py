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
