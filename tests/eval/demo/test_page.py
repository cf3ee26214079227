"""The demonstration's page: all that was found, safe to open, and nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from persona.eval.demo.asked import PeopleReport, ask_people
from persona.eval.demo.page import demo_page
from persona.eval.demo.run import DemoReport, demo_tables
from persona.eval.demo.world import WorldReport
from persona.llm.load import load_llm
from tests.eval.demo.html import Page
from tests.eval.demo.test_asked import copycat

WORLD = WorldReport(8, 24, "tiny@1", "hashing", 2.0, ())


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> PeopleReport:
    return ask_people(load_llm(copycat), out=tmp_path_factory.mktemp("people"))


def test_the_page_stands_alone(people: PeopleReport) -> None:
    page = demo_page(DemoReport(people, WORLD, 3.0))
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    assert "$" not in Page(page).text
    assert Page(page).open == []


def test_it_opens_with_one_request_its_answers_and_the_records_behind_it(people: PeopleReport) -> None:
    text = Page(demo_page(DemoReport(people, WORLD, 3.0))).text
    person, asked = people.opening
    opening = text[: text.index("Five people")]
    for shown in (asked.question.text, asked.plain.text, asked.own.text, asked.other.text, asked.gold):
        assert shown in opening
    for scored in asked.records:
        assert scored.record.text in opening
        assert f"→ {scored.record.target}" in opening
    assert person.person.habit in opening


def test_it_counts_and_shows_all_thirty(people: PeopleReport) -> None:
    text = " ".join(Page(demo_page(DemoReport(people, WORLD, 3.0))).text.split())
    better, worse, same = people.count("better"), people.count("worse"), people.count("same")
    assert f"Of {people.requests} requests {better} were answered better" in text
    assert f"{worse} worse" in text
    assert f"{same} neither" in text
    for person in people.people:
        for asked in person.asked:
            assert asked.question.text in text
            assert asked.own.text in text


def test_what_an_llm_writes_is_text(people: PeopleReport) -> None:
    person, asked = people.opening
    written = replace(asked, own=replace(asked.own, text="<script>alert(1)</script>"))
    first = replace(person, asked=(written, *person.asked[1:]))
    others = tuple(each for each in people.people if each is not person)
    page = demo_page(DemoReport(replace(people, people=(first, *others)), WORLD, 3.0))
    assert "<script" not in page
    assert "<script>alert(1)</script>" in Page(page).text


def test_the_terminal_shows_the_same(people: PeopleReport, tmp_path: Path) -> None:
    from rich.console import Console

    with (tmp_path / "shown").open("w+", encoding="utf-8") as file:
        console = Console(file=file, width=140)
        for part in demo_tables(DemoReport(people, WORLD, 3.0)):
            console.print(part)
        file.seek(0)
        shown = file.read()
    assert f"{people.count('better')} of 30 better, {people.count('worse')} worse" in shown
    assert people.opening[1].own.text in shown
