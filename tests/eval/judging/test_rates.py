"""Scores that allow for a judge's errors, and the check that measures them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from persona.errors import DataFormatError, EvaluationError, InvalidOptionError
from persona.eval.bootstrap import Bootstrap
from persona.eval.judging.check import CheckOptions, KnownItems, check_judge, vague_answer
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates, allowing_for
from persona.eval.metrics import ACCURACY
from persona.llm.load import load_llm

USERS, QUESTIONS, CHECKED = 40, 5, 100


def test_a_score_by_hand() -> None:
    # 20 % of wrong answers pass, 5 % of right ones fail: 0.4 right gives 0.4 * 0.95 + 0.6 * 0.2 = 0.5.
    rates = Rates(20, 100, 5, 100)
    assert (rates.a, rates.r) == (0.2, 0.05)
    assert rates.corrected(0.5) == pytest.approx(0.4)
    measured, corrected = allowing_for(ACCURACY, rates)
    samples = {each.name: np.array([[1.0], [0.0]] * 50) for each in (measured, corrected)}
    assert measured.value(samples) == 0.5
    assert corrected.value(samples) == pytest.approx(0.4)
    assert allowing_for(ACCURACY, None) == (ACCURACY,)
    as_bad_as_a_coin = Rates(60, 100, 40, 100)
    with pytest.raises(EvaluationError, match="60% of the wrong answers and 60% of the right ones: its scores say"):
        as_bad_as_a_coin.corrected(0.5)
    with pytest.raises(EvaluationError, match="counts of at least one answer"):
        Rates(1, 0, 0, 1)


def test_the_interval_carries_what_is_not_known_of_the_judge() -> None:
    """The same rates from fewer answers give a wider interval; from very many the one of the users alone."""
    users = [str(index // QUESTIONS) for index in range(USERS * QUESTIONS)]
    correct = np.random.default_rng(1).random(len(users))[:, None] < 0.5
    widths = []
    for checked in (20, 200, 10**7):
        (_, corrected) = allowing_for(ACCURACY, Rates(checked // 5, checked, checked // 10, checked))
        interval = Bootstrap(users).interval(corrected, {corrected.name: correct.astype(float)})
        widths.append(interval.high - interval.low)
    alone = Bootstrap(users).mean(correct[:, 0].astype(float).tolist())
    assert widths[0] > widths[1] > widths[2] == pytest.approx((alone.high - alone.low) / 0.7, rel=0.02)


@pytest.mark.parametrize(
    ("share", "a", "r", "persons"),
    [(0.3, 0.6, 0.1, USERS), (0.7, 0.25, 0.05, USERS), (0.9, 0.1, 0.05, USERS), (0.95, 0.1, 0.02, 2 * USERS)],
)
def test_the_interval_covers_the_truth(share: float, a: float, r: float, persons: int) -> None:
    """At 95 %, in at least 93 of 100 worlds whose users differ, whatever the judge; uncorrected in fewer."""
    generator = np.random.default_rng(7)
    users = [str(index // QUESTIONS) for index in range(persons * QUESTIONS)]
    covered = naive = 0
    worlds = 400
    for _ in range(worlds):
        skills = np.repeat(generator.beta(share * 8, (1 - share) * 8, persons), QUESTIONS)
        right = generator.random(len(users)) < skills
        passed = generator.random(len(users)) < np.where(right, 1 - r, a)
        errors = [int(generator.binomial(CHECKED, rate)) for rate in (a, r)]
        rates = Rates(errors[0], CHECKED, errors[1], CHECKED)
        measured, corrected = allowing_for(ACCURACY, rates)
        bootstrap = Bootstrap(users, resamples=400)
        samples = {each.name: passed[:, None].astype(float) for each in (measured, corrected)}
        interval, plain = bootstrap.interval(corrected, samples), bootstrap.interval(measured, samples)
        covered += interval.low <= share <= interval.high
        naive += plain.low <= share <= plain.high
    assert covered >= 0.93 * worlds
    assert naive < covered


class Towns:
    """A benchmark of six questions."""

    name = "towns"

    def known_items(self) -> KnownItems:
        towns = ("Turin", "Rome", "Bern", "Oslo", "Lima", "Cork")
        items = [JudgedItem(town, "correct", f"Which town did number {n} choose?", town, "") for n, town in
                 enumerate(towns)]  # fmt: skip
        return KnownItems.of_golds([*items, replace(items[0], gold="")])


def test_a_judge_is_checked_on_golds_and_vague_answers(tmp_path: Path) -> None:
    calls: list[str] = []

    def lenient(prompt: str) -> str:
        """Passes what repeats a word of the question when it may reason; a strict prompt fails it, and Oslo."""
        calls.append(prompt)
        answer = prompt.rpartition("\nAnswer:\n| ")[2].partition("\n")[0]
        gold = prompt.partition("Reference answer:\n| ")[2].partition("\n")[0]
        if "strict examiner" in prompt:
            return f"VERDICT: {'yes' if answer == gold != 'Oslo' else 'no'}"
        return f"VERDICT: {'yes' if answer == gold or 'town' in answer else 'no'}"

    check = check_judge(Towns(), load_llm(lenient), out=tmp_path / "check")
    reasoned, strict = check.prompts
    # Six vague answers take the forms 0, 1, 2, 3, 0, 1; those of the forms 1 and 3 name the town.
    assert (reasoned.rates.passed, reasoned.rates.wrong, reasoned.rates.failed, reasoned.rates.golds) == (3, 6, 0, 6)
    assert (strict.rates.passed, strict.rates.failed) == (0, 1)
    assert (reasoned.undecided, reasoned.between_runs) == (0, 1)
    assert check.between_prompts == {"reasoned/1, strict/1": pytest.approx(8 / 12)}
    assert check.table().row_count == 2
    assert len(calls) == 2 * 2 * 12
    check_judge(Towns(), load_llm(lenient), out=tmp_path / "check")
    assert len(calls) == 48
    path = tmp_path / "check" / "results.json"
    assert Rates.read(path, "reasoned/1") == reasoned.rates
    with pytest.raises(DataFormatError, match="`reasoned/2` must stand here, there is: reasoned/1, strict/1"):
        Rates.read(path, "reasoned/2")
    path.write_text(json.dumps({"rates": {"x": {"passed": "1"}}}))
    with pytest.raises(DataFormatError, match="a whole number must stand here"):
        Rates.read(path, "x")
    path.write_text("[]")
    with pytest.raises(DataFormatError, match=r"must be the results\.json of `persona eval judge-check`"):
        Rates.read(path, "x")


def test_runs_that_differ_and_verdicts_that_are_missing_are_seen() -> None:
    replies = iter(["VERDICT: yes"] * 12 + ["VERDICT: no"] * 4 + ["hm"] * 3 * 8)
    check = check_judge(Towns(), load_llm(lambda prompt: next(replies)), CheckOptions(prompts=("strict/1",)))
    (only,) = check.prompts
    assert only.undecided == pytest.approx(8 / 24)
    assert only.between_runs == 0
    with pytest.raises(InvalidOptionError, match="at least one prompt"):
        CheckOptions(prompts=())


def test_vague_answers_name_the_topic_and_nothing_else() -> None:
    question = "When did she plant the apricot tree?"
    assert len({vague_answer(question, number) for number in range(8)}) == 4
    assert vague_answer("Who?", 1) == "It had to do with the matter, as far as I remember."
