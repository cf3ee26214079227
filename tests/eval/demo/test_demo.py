"""The demonstration: real users of the world, the embedded LLM, exact bounds, and a page that stands alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from persona.eval.bootstrap import Interval
from persona.eval.controls import EMPTY_HISTORY, OTHER_USER
from persona.eval.demo.page import demo_page
from persona.eval.demo.run import KS, DemoReport, DemoRow, demo_tables, run_demo
from persona.eval.world.world import WORLD_TASKS
from persona.llm.load import load_llm

pytestmark = pytest.mark.slow

METHODS = ("none", "bm25", "dense")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    stages: list[str] = []
    out = tmp_path_factory.mktemp("demo")
    made = run_demo(
        load_llm("tiny"),
        users=8,
        seed=3,
        out=out,
        encoder="hashing",
        methods=METHODS,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert {f"{task} {stage}" for task in WORLD_TASKS for stage in ("embed users", "answers")} == set(stages)
    return made


def test_every_method_has_a_row_and_a_control(report: DemoReport) -> None:
    assert [task.task for task in report.tasks] == list(WORLD_TASKS)
    for task in report.tasks:
        names = [row.name for row in task.rows]
        for method in METHODS[1:]:
            for k in KS:
                assert f"{method} k={k}" in names
                assert f"{method} k={k}, other user" in names
        assert names[0] == "none"


def test_shares_lie_between_the_exact_bounds(report: DemoReport) -> None:
    for task in report.tasks:
        assert (task.oracle > task.no_user) == task.higher_is_better
        for row in task.rows:
            share = (row.score.value - task.no_user) / (task.oracle - task.no_user)
            assert row.share.value == pytest.approx(share)
            assert row.share.low <= row.share.value <= row.share.high


def test_the_page_stands_alone_and_shows_every_row(report: DemoReport) -> None:
    page = demo_page(report)
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    shown = _Text(page)
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
        ("none", 0, None, 0.0, "nothing"),
        ("bm25 k=1", 1, None, 30.0, "own"),
        ("bm25 k=1, other user", 1, OTHER_USER, 30.0, "other"),
        ("user-embedder", 0, None, 20.0, "own"),
        ("user-embedder, other user", 0, OTHER_USER, 20.0, "other"),
        ("user-embedder, empty history", 0, EMPTY_HISTORY, 20.0, "nothing"),
        ("user-embedder + bm25 k=1, empty history", 1, EMPTY_HISTORY, 50.0, "own"),  # the records are the user's
        ("median score", 0, None, 0.0, "nothing"),
    ],
)
def test_a_bar_has_the_colour_of_what_the_llm_got(
    report: DemoReport, name: str, k: int, control: str | None, tokens: float, colour: str
) -> None:
    interval = Interval(0.2, 0.1, 0.3, users=8)
    row = DemoRow(name, k, control, interval, interval, tokens)
    page = demo_page(replace(report, tasks=(replace(report.tasks[0], rows=(row,)),)))
    assert re.findall(r'class="track (\w+)"', page) == [colour]
    assert f".{colour} {{ --colour: var(--{colour}); }}" in page


def test_an_example_shows_the_soft_prompt_where_there_is_one(report: DemoReport) -> None:
    assert "soft prompt of the whole history" not in _Text(demo_page(report)).text
    example = replace(report.examples[0], soft_prompted="as the soft prompt says")
    text = _Text(demo_page(replace(report, examples=(example,)))).text
    assert "soft prompt of the whole historyas the soft prompt says" in text


def test_json_and_tables_hold_the_same(report: DemoReport) -> None:
    again = json.loads(json.dumps(report.as_dict()))
    assert [len(task["rows"]) for task in again["tasks"]] == [len(task.rows) for task in report.tasks]
    assert len(list(demo_tables(report))) == len(report.tasks) + len(report.examples)


class _Text(HTMLParser):
    """The words of a page, and the tags that were left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
