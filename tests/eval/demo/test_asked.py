"""The people are asked through the product, and each answer is compared with the plain one as the page says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.eval.demo.asked import Answer, K, PeopleReport, TradeBenchmark, ask_people, changed
from persona.eval.demo.people import LEAST_DIFFERENCE, trades
from persona.llm.load import load_llm
from tests.conftest import ROOT


def copycat(prompt: str) -> str:
    """The target of the first record in a prompt; without one, an answer that is never right."""
    found = re.search(r'-> "(.*?)"', prompt)
    return found[1] if found else "nonsense"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> PeopleReport:
    return ask_people(load_llm(copycat), out=tmp_path_factory.mktemp("people"))


def test_thirty_requests_of_five_people_and_as_many_of_the_others(report: PeopleReport) -> None:
    assert report.requests == 30
    assert [each.person for each in report.people] == [trade.person for trade in trades()]
    assert [each.person for each in report.others] == [trade.other for trade in trades()]
    assert all(len(each.asked) == 6 for each in (*report.people, *report.others))
    assert report.count("better") + report.count("worse") + report.count("same") == 30


def test_answers_are_those_with_no_history_the_own_and_the_other_persons(report: PeopleReport) -> None:
    for person, other in zip(report.people, report.others, strict=True):
        for asked, swapped in zip(person.asked, other.asked, strict=True):
            assert asked.plain.text == "nonsense"
            assert len(asked.records) == K
            assert {scored.record for scored in asked.records} <= set(person.person.profile)
            assert asked.own.text == asked.records[0].record.target
            assert asked.other.text == swapped.own.text == swapped.records[0].record.target
            assert (asked.gold, swapped.gold) == tuple(asked.question.golds.values())


def test_a_persons_score_is_the_metric_on_its_requests_alone(report: PeopleReport) -> None:
    for person in report.people:
        values = [asked.own.value for asked in person.asked]
        assert person.scores["own"] == pytest.approx(sum(values) / len(values))
        if person.metric == "accuracy":
            assert values == [float(asked.own.text == asked.gold) for asked in person.asked]
        if person.metric == "MAE":
            assert values == [abs(int(asked.own.text) - int(asked.gold)) for asked in person.asked]


@pytest.mark.parametrize(
    ("before", "after", "higher", "least", "change"),
    [
        (0.0, 1.0, True, 0.0, "better"),
        (1.0, 1.0, True, 0.0, "same"),
        (1.0, 0.0, True, 0.0, "worse"),
        (3.0, 1.0, False, 0.0, "better"),
        (0.20, 0.24, True, LEAST_DIFFERENCE, "same"),
        (0.20, 0.25, True, LEAST_DIFFERENCE, "better"),
        (0.25, 0.20, True, LEAST_DIFFERENCE, "worse"),
    ],
)
def test_better_and_worse(before: float, after: float, higher: bool, least: float, change: str) -> None:
    assert changed(Answer("a", before), Answer("b", after), higher, least) == change


def test_the_opening_request_is_the_one_that_the_files_name(report: PeopleReport) -> None:
    person, asked = report.opening
    assert (person.trade.name, asked.question.opening) == ("runner", True)


def test_a_stopped_run_goes_on_without_asking_again(tmp_path: Path) -> None:
    chosen = trades()[:1]
    asked: list[str] = []

    def counted(prompt: str) -> str:
        asked.append(prompt)
        return copycat(prompt)

    first = ask_people(load_llm(counted, name="one"), out=tmp_path, chosen=chosen)
    # Six plain requests, six with each history: the other's own answers are the person's control, and the reverse.
    assert len(asked) == 18
    again = ask_people(load_llm(counted, name="one"), out=tmp_path, chosen=chosen)
    assert len(asked) == 18
    assert [each.asked for each in again.people] == [each.asked for each in first.people]


def test_requests_are_in_plain_words_and_name_the_choices() -> None:
    prompts = {trade.name: TradeBenchmark(trade).questions[0].prompt for trade in trades()}
    assert prompts["support"].startswith("Which priority does this ticket get? Answer with urgent, normal or low.\n\n")
    assert prompts["runner"].startswith("Write the subject line of this mail.\n\nHi Jo, back on the towpath")


@pytest.mark.real
def test_the_opening_answers_are_those_of_the_readme(tmp_path: Path) -> None:
    try:
        llm = load_llm("smollm2")
    except PersonaError as error:
        pytest.skip(str(error))
    (runner,) = (trade for trade in trades() if trade.name == "runner")
    opening = replace(runner, questions=tuple(each for each in runner.questions if each.opening))
    _, asked = ask_people(llm, out=tmp_path, chosen=[opening]).opening
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^(?:without a history|with the runner's own|with another runner's) +(.+)$", readme, re.MULTILINE
    )
    assert [asked.plain.text, asked.own.text, asked.other.text] == shown


def test_json(report: PeopleReport) -> None:
    again = json.loads(json.dumps(report.as_dict()))
    assert again["better"] == report.count("better")
    assert [len(each["asked"]) for each in again["people"] + again["others"]] == [6] * 10
