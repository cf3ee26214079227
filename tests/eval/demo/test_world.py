"""The demonstration's world: real users of it, the embedded LLM, exact bounds, and their part of the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from persona.eval.bootstrap import Interval
from persona.eval.controls import EMPTY_HISTORY, OTHER_USER
from persona.eval.demo.world import KS, WORLD_TASKS, WorldReport, WorldRow, run_world
from persona.eval.demo.world_page import world_section
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
    assert [task.task for task in report.tasks] == list(WORLD_TASKS)
    for task in report.tasks:
        names = [row.name for row in task.rows]
        for method in METHODS[1:]:
            for k in KS:
                assert f"{method} k={k}" in names
                assert f"{method} k={k}, other user" in names
        assert names[0] == "none"


def test_shares_lie_between_the_exact_bounds(report: WorldReport) -> None:
    for task in report.tasks:
        assert (task.oracle > task.no_user) == task.higher_is_better
        for row in task.rows:
            share = (row.score.value - task.no_user) / (task.oracle - task.no_user)
            assert row.share.value == pytest.approx(share)
            assert row.share.low <= row.share.value <= row.share.high


def test_the_page_shows_every_row(report: WorldReport) -> None:
    shown = Page(world_section(report))
    for task in report.tasks:
        for row in task.rows:
            assert shown.text.count(row.name) >= 2
            assert f"{row.share.value:.0%}" in shown.text
    for example in report.examples:
        assert example.question in shown.text
        assert example.gold in shown.text
    assert shown.open == []


@pytest.mark.parametrize(
    ("name", "k", "control", "tokens", "colour"),
    [
        ("none", 0, None, 0.0, "plain"),
        ("bm25 k=1", 1, None, 30.0, "own"),
        ("bm25 k=1, other user", 1, OTHER_USER, 30.0, "other"),
        ("user-embedder", 0, None, 20.0, "own"),
        ("user-embedder, other user", 0, OTHER_USER, 20.0, "other"),
        ("user-embedder, empty history", 0, EMPTY_HISTORY, 20.0, "plain"),
        ("user-embedder + bm25 k=1, empty history", 1, EMPTY_HISTORY, 50.0, "own"),  # the records are the user's
        ("median score", 0, None, 0.0, "plain"),
    ],
)
def test_a_bar_has_the_colour_of_what_the_llm_got(
    report: WorldReport, name: str, k: int, control: str | None, tokens: float, colour: str
) -> None:
    interval = Interval(0.2, 0.1, 0.3, users=8)
    row = WorldRow(name, k, control, interval, interval, tokens)
    page = world_section(replace(report, tasks=(replace(report.tasks[0], rows=(row,)),)))
    assert re.findall(r'class="track (\w+)"', page) == [colour]


def test_an_example_shows_the_soft_prompt_where_there_is_one(report: WorldReport) -> None:
    assert "soft prompt of the whole history" not in Page(world_section(report)).text
    example = replace(report.examples[0], soft_prompted="as the soft prompt says")
    text = Page(world_section(replace(report, examples=(example,)))).text
    assert "soft prompt of the whole historyas the soft prompt says" in text


def test_json_holds_every_row(report: WorldReport) -> None:
    again = json.loads(json.dumps(report.as_dict()))
    assert [len(task["rows"]) for task in again["tasks"]] == [len(task.rows) for task in report.tasks]
    assert len(again["examples"]) == len(report.examples)
