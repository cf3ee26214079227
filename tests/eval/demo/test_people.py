"""The demonstration's people: enough of everything, dates in order, legal golds, no text that gives a habit away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.controls import other_histories
from persona.eval.demo.people import Person, Trade, trades
from persona.protocols import Choices

EACH = pytest.mark.parametrize("trade", trades(), ids=lambda trade: trade.name)


def people(trade: Trade) -> tuple[Person, Person]:
    return trade.person, trade.other


def test_there_are_five_trades_with_five_tasks_and_one_opening() -> None:
    assert [trade.name for trade in trades()] == ["cook", "critic", "editor", "runner", "support"]
    assert len({trade.task.name for trade in trades()}) == 5
    assert sum(question.opening for trade in trades() for question in trade.questions) == 1


@EACH
def test_each_person_has_20_to_40_records_and_both_are_asked_the_same_six(trade: Trade) -> None:
    assert len(trade.questions) == 6
    for person in people(trade):
        assert 20 <= len(person.profile) <= 40
        assert len({record.text for record in person.profile}) == len(person.profile)


@EACH
def test_records_are_dated_and_questions_come_after_them(trade: Trade) -> None:
    for person in people(trade):
        dates = [record.time or "" for record in person.profile]
        assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", date) for date in dates)
        assert dates == sorted(dates)
        assert max(dates) < min(question.time for question in trade.questions)


@EACH
def test_golds_are_legal_and_nearly_all_differ_between_the_two(trade: Trade) -> None:
    legal = set(trade.labels or ())
    for question in trade.questions:
        assert set(question.golds) == {person.user_id for person in people(trade)}
        assert not legal or set(question.golds.values()) <= legal
    differ = [len(set(question.golds.values())) == 2 for question in trade.questions]
    assert sum(differ) >= 5
    if legal:
        assert all({record.target for record in person.profile} == legal for person in people(trade))


@EACH
def test_no_text_says_what_is_typical(trade: Trade) -> None:
    for person in people(trade):
        assert person.unsaid
        said = re.compile(rf"\b({'|'.join(map(re.escape, person.unsaid))})\b", re.IGNORECASE)
        texts = [each for record in person.profile for each in (record.text, *record.metadata.values())]
        texts += [question.text for question in trade.questions]
        assert [text for text in texts if said.search(text)] == []


@EACH
def test_no_text_is_in_two_histories_or_asked_again(trade: Trade) -> None:
    texts = [record.text for person in people(trade) for record in person.profile]
    texts += [question.text for question in trade.questions]
    assert len(set(texts)) == len(texts)


@EACH
def test_lamp_files_say_the_same(trade: Trade, tmp_path: Path) -> None:
    trade.write_lamp(tmp_path)
    read = LampBenchmark.read(tmp_path)
    assert read.task == trade.task
    asked = [(person, number) for person in people(trade) for number in range(len(trade.questions))]
    assert [question.id for question in read.questions] == [f"{person.user_id}-{n + 1}" for person, n in asked]
    for question, (person, number) in zip(read.questions, asked, strict=True):
        held_out = trade.questions[number]
        assert (question.user_id, question.query, question.time) == (person.user_id, held_out.text, held_out.time)
        assert question.gold == held_out.golds[person.user_id]
        choices = Choices.of(question.choices)
        assert (choices.texts if choices else None) == trade.labels
        assert [(each.text, each.target, each.time, each.metadata) for each in question.profile] == [
            (each.text, each.target, each.time, each.metadata) for each in person.profile
        ]
    # Somebody else is the other of the trade: the control compares like with like.
    stand_ins = [profile.user_id for profile in other_histories(read.questions, seed=0)]
    assert stand_ins == [trade.other.user_id] * 6 + [trade.person.user_id] * 6
