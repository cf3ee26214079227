"""PrefEval: histories of the three forms with filler, letters, and what judges' verdicts come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, InvalidOptionError
from persona.eval import MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.benchmarks.conversations.prefeval import PrefEval, outcome
from persona.eval.judging.judge import Verdict
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates
from persona.llm.load import load_llm
from tests.eval.benchmarks.conversations.dialogues import PREFEVAL

Read = Callable[..., PrefEval]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    for name, content in PREFEVAL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return lambda **options: PrefEval.read(tmp_path, **options)


class Scripted:
    """A judge by rules: an answer with "door" violates, an empty one helps nobody, and of "?" it knows nothing."""

    name = "scripted rules/1"
    rates: Any = None

    def verdicts(self, items: Sequence[JudgedItem]) -> list[Verdict]:
        return [self._verdict(item) for item in items]

    def _verdict(self, item: JudgedItem) -> Verdict:
        assert item.rubric["The person's preference"]
        if item.answer == "?":
            return Verdict(None, "well")
        yes = bool(item.answer) if item.kind == "helpful" else "door" in item.answer
        return Verdict(float(yes), "yes" if yes else "no")


def test_the_forms_and_the_filler(read: Read) -> None:
    meal, room = read(filler=3).questions
    assert [(record.role, record.text) for record in room.profile][:3] == [
        ("user", "I never stay on a ground floor."),
        ("assistant", "Understood. I will keep that in mind."),
        ("user", "2 + 2?"),
    ]
    assert [record.text for record in room.profile][2:] == ["2 + 2?", "4", "A pun?", "No.", "2 + 2?", "4"]
    assert len({record.id for record in room.profile}) == 8
    assert room.evidence == ("preference:0", "preference:1")
    assert (meal.kind, room.user_id) == ("meals", "rooms:0")
    (chosen,) = read(form="choice-based", topics=("rooms",)).questions
    assert [record.role for record in chosen.profile] == ["user", "assistant", "user", "assistant"]
    (shown,) = read(form="persona-driven").questions
    assert [record.text for record in shown.profile][2::2] == ["u2", "u10"]


@pytest.mark.parametrize("turns", [0, 2, 10])
def test_inject_then_turns_then_ask(read: Read, turns: int) -> None:
    """Row 53: the preference is stated, so many unrelated turns follow, and then the same question is asked."""
    stated, without = read(filler=turns).questions[1], read().questions[1]
    assert stated.profile.records[:2] == without.profile.records
    between = stated.profile.records[2:]
    assert len(between) == 2 * turns
    assert [record.role for record in between] == ["user", "assistant"] * turns
    assert (stated.prompt, stated.gold, stated.evidence) == (without.prompt, without.gold, without.evidence)


def test_options_are_shuffled_by_the_item_alone(read: Read) -> None:
    both, (one,) = read().questions, read(topics=("rooms",)).questions
    assert one.prompt == both[1].prompt
    assert f"({one.gold}) A room under the roof." in one.prompt
    golds = {read(shuffle=seed, topics=("rooms",)).questions[0].gold for seed in range(40)}
    assert golds == set("ABCD")


def test_a_letter_is_right_and_a_word_of_one_letter_is_not(read: Read) -> None:
    benchmark = read(topics=("rooms",))
    gold = benchmark.questions[0].gold
    assert gold is not None
    right = [f"({gold})", f"{gold}.", f"The answer is {gold.lower()}", gold]
    for answer, score in [*((each, 1.0) for each in right), ("a room, (Z)", 0.0), ("(A) or (B) or (C) or (D)", 0.0)]:
        assert benchmark.score(benchmark.questions, [answer])["accuracy"].tolist() == [[score]], answer


def test_what_can_be_chosen_without_an_llm(read: Read) -> None:
    benchmark = read(form="persona-driven")
    (question,) = benchmark.questions
    answers = benchmark.baselines(benchmark.questions)
    assert answers["first option"] == ["A"]
    (nearest,) = answers["option nearest to the history"]
    assert "cellar" in question.prompt.partition(f"({nearest})")[2].partition("\n")[0]
    assert read(task="generation").baselines(benchmark.questions) == {}


YES, NO, NOTHING = 1.0, 0.0, None


@pytest.mark.parametrize(
    ("violated", "helpful", "followed", "official", "undecided"),
    [
        (NO, YES, 1, 1, 0),
        (YES, YES, 0, 0, 0),
        (NO, NO, 0, 0, 0),
        (NOTHING, YES, 0, 1, 1),  # official: no verdict is no violation
        (NO, NOTHING, 0, 1, 1),
        (YES, NOTHING, 0, 0, 0),  # one verdict settles it
    ],
)
def test_what_verdicts_come_to(
    violated: float | None, helpful: float | None, followed: int, official: int, undecided: int
) -> None:
    found = outcome(violated, helpful)
    assert (found["followed"], found["official followed"], found["undecided"]) == (followed, official, undecided)


def test_generation_is_judged(read: Read) -> None:
    with pytest.raises(InvalidOptionError, match="the answers of prefeval are judged: name a judge"):
        evaluate_benchmark(read(task="generation"), load_llm(lambda prompt: "x"))
    with pytest.raises(InvalidOptionError, match="are not judged: leave the judges out"):
        read().judged_by([Scripted()])
    benchmark = read(task="generation").judged_by([Scripted()])
    llm = load_llm(lambda prompt: "Under the roof." if "ground floor" in prompt else "?")
    report = evaluate_benchmark(benchmark, llm, MethodOptions(methods=("none", "full"), resamples=20))
    scores = {row.name: [row.scores[name].value for name in ("followed", "official followed")] for row in report.rows}
    assert scores["none"] == [0.0, 1.0]
    assert scores["full history"] == [0.5, 1.0]
    assert scores["full history, other user"] == [0.5, 1.0]  # a preference of another
    assert any("does not decide on" in note for note in report.notes)


def test_two_judges_stand_side_by_side_and_known_errors_are_allowed_for(read: Read) -> None:
    second = Scripted()
    second.name, second.rates = "scripted strict/1", Rates(passed=1, wrong=4, failed=0, golds=4)
    benchmark = read(task="generation", topics=("rooms",)).judged_by([Scripted(), second])
    assert [metric.name for metric in benchmark.metrics][:4] == [
        *("followed by rules/1", "followed by strict/1"),
        *("official followed by rules/1", "official followed by strict/1"),
    ]
    report = evaluate_benchmark(benchmark, load_llm(lambda prompt: "By the roof."), MethodOptions(methods=("none",)))
    scores = report["none"].scores
    assert scores["violated corrected by strict/1"].value == pytest.approx((0 - 0.25) / 0.75)
    assert "violated corrected by rules/1" not in scores
    known = benchmark.known_items()
    assert [item.answer for item in (*known.right, *known.wrong)] == ["A room by the door.", "A room under the roof."]


def test_what_is_refused(read: Read, tmp_path: Path) -> None:
    for wrong, said in (
        ({"form": "implicit"}, "`form` must be one of explicit"),
        ({"topics": ("cars",)}, "a topic must be one of meals, rooms"),
        ({"filler": -1}, "`filler` must be at least 0"),
    ):
        with pytest.raises(InvalidOptionError, match=said):
            read(**wrong)
    other = [{"preference": "p", "question": "q", "classification_task_options": ["1", "2"]}]
    (tmp_path / "mcq_options/rooms.json").write_text(json.dumps(other))
    with pytest.raises(DataFormatError, match=r"rooms\.json, 0: the options must stand in the order of the items"):
        read()


@pytest.mark.shared
def test_the_published_folder(shared: Path) -> None:
    folder = shared / "data/benchmarks/prefeval/benchmark_dataset"
    for form in ("explicit", "choice-based", "persona-driven"):
        questions = load_benchmark("prefeval", folder, form=form, filler=10).questions
        assert len({question.kind for question in questions}) == 14
        assert len(questions) == 709
        assert all(len(each.profile) >= 2 + 20 for each in questions)
