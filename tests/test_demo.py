"""The demonstration: real users of the world, the embedded LLM, exact bounds, and a page that stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from persona.eval.demo import KS, DemoReport, run_demo
from persona.eval.html import demo_page
from persona.eval.report import demo_tables
from persona.models import load_llm
from persona.world import WORLD_TASKS

pytestmark = pytest.mark.slow

METHODS = ("none", "bm25+", "dense")


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
    assert {f"{task} {stage}" for task in WORLD_TASKS for stage in ("embed users", "retrieval", "answers")} == set(
        stages
    )
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
