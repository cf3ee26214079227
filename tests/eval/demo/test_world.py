"""The demonstration's world: real users of it, the embedded LLM, exact bounds, and their part of the page."""

from __future__ import annotations

import json

import pytest

from persona.eval.demo.page import world_section
from persona.eval.demo.world import KS, SHARE, WORLD_TASKS, WorldReport, run_world
from persona.llm.load import load_llm
from tests.eval.demo.html import Page

pytestmark = pytest.mark.slow

METHODS = ("none", "bm25", "dense")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> WorldReport:
    stages: list[str] = []
    out = tmp_path_factory.mktemp("demo")
    made = run_world(
        load_llm("tiny"),
        users=8,
        out=out,
        encoder="hashing",
        methods=METHODS,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert {f"{task} {stage}" for task in WORLD_TASKS for stage in ("embed users", "answers")} == set(stages)
    return made


def test_every_method_has_a_row_and_a_control(report: WorldReport) -> None:
    assert [task.report.benchmark for task in report.tasks] == list(WORLD_TASKS)
    for task in report.tasks:
        names = [row.name for row in task.report.rows]
        for method in METHODS[1:]:
            for k in KS:
                assert f"{method} k={k}" in names
                assert f"{method} k={k}, other user" in names
        assert names[0] == "none"


def test_shares_lie_between_the_exact_bounds(report: WorldReport) -> None:
    for task in report.tasks:
        assert (task.oracle > task.no_user) == task.higher_is_better
        for row in task.report.rows:
            score, share = next(iter(row.scores.values())), row.scores[SHARE]
            assert share.value == pytest.approx((score.value - task.no_user) / (task.oracle - task.no_user))
            assert share.low <= share.value <= share.high


def test_the_page_shows_every_row(report: WorldReport) -> None:
    shown = Page(world_section(report))
    for task in report.tasks:
        for row in task.report.rows:
            assert shown.text.count(row.name) >= 2
            assert f"{row.scores[SHARE].value:.3f}" in shown.text
    assert shown.open == []


def test_json_holds_every_row(report: WorldReport) -> None:
    again = json.loads(json.dumps(report.as_dict()))
    assert [len(task["rows"]) for task in again["tasks"]] == [len(task.report.rows) for task in report.tasks]
