"""The LaMP runner: rows and controls, resumption, the same numbers for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona.errors import EvaluationError, InvalidOptionError, UnsupportedChannelError
from persona.eval.answers import Answers
from persona.eval.lamp import LampReport, run_lamp
from persona.eval.lamp_config import NO_USER, OTHER_USER, LampConfig
from persona.eval.plans import other_histories
from persona.eval.report import lamp_markdown, lamp_table
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions, LanguageModel, Request, Retriever
from persona.readers import read_golds
from persona.records import Profile, Record
from persona.retrievers.registry import make_retriever, make_retrievers

TASK = lamp_task("LaMP_3")
USERS = 6
CONFIG = LampConfig(methods=(NO_USER, "bm25-lamp", "recency"), ks=(1, 2), resamples=200)


def make_split() -> LampSplit:
    """Each user gives every film the same score: 1 + the user's number modulo 5."""
    questions, golds = [], {}
    for user in range(USERS):
        score = str(1 + user % 5)
        for number in range(2):
            records = tuple(
                Record(f"film {number} {i} of user{user}", target=score, time=f"20{10 + i}") for i in range(3)
            )
            question = Question(
                f"{user}{number}", f"u{user}", TASK.make_input(f"film {number}"), Profile(f"u{user}", records)
            )
            questions.append(question)
            golds[question.id] = score
    return LampSplit(TASK, tuple(questions), golds, TASK.labels)


def copy_the_first_score(prompt: str) -> str:
    """An LLM that answers with the score of the first record in the prompt, and 3 where there is none."""
    return prompt[0] if prompt[0].isdigit() else "3"


def rows_of(report: LampReport) -> dict[str, float]:
    return {row.name: row.scores["MAE"].value for row in report.rows if row.scores}


def test_the_right_history_helps_and_that_of_another_user_does_not(tmp_path: Path) -> None:
    report = run_lamp(make_split(), load_llm(copy_the_first_score), CONFIG, out=tmp_path)
    scores = rows_of(report)
    assert scores["bm25-lamp k=1"] == scores["recency k=2"] == 0
    assert scores["none"] == pytest.approx(sum(abs(1 + user % 5 - 3) for user in range(USERS)) / USERS)
    assert scores["bm25-lamp k=1, other user"] > 0
    assert (report.questions, report.users) == (2 * USERS, USERS)
    best = next(row for row in report.rows if row.name == "bm25-lamp k=1")
    assert best.difference is not None
    assert best.difference.high < 0
    assert best.tokens_added > 0


def test_yardsticks_stand_beside_the_methods() -> None:
    report = run_lamp(make_split(), load_llm(copy_the_first_score), CONFIG)
    yardsticks = [row for row in report.rows if row.k == 0 and row.method != NO_USER]
    assert yardsticks
    assert all(row.scores["MAE"].value == 0 for row in yardsticks)


def test_a_stopped_run_goes_on_and_gives_the_same_numbers(tmp_path: Path) -> None:
    whole = run_lamp(make_split(), load_llm(copy_the_first_score), CONFIG, out=tmp_path / "whole")
    lines = (tmp_path / "whole" / "answers.jsonl").read_text().splitlines()
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "answers.jsonl").write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])

    asked: list[str] = []

    def count(prompt: str) -> str:
        asked.append(prompt)
        return copy_the_first_score(prompt)

    llm = load_llm(copy_the_first_score)
    again = run_lamp(make_split(), _with_fingerprint_of(llm, count), CONFIG, out=resumed)
    assert rows_of(again) == rows_of(whole)
    known = sum(bool(line) for line in lines)
    assert len(asked) == known - sum(bool(line) for line in lines[:5])
    assert len(asked) == len(set(asked))


def test_answers_under_other_settings_are_asked_anew(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "3"

    llm: Any = load_llm(answer)
    for settings, expected in (({"system": "Be brief."}, 1), ({"system": "Be brief."}, 1), ({"system": None}, 2)):
        llm.settings = settings
        answers = Answers(tmp_path / "answers.jsonl", llm, GenerationOptions())
        answers.ask([Request("What is the score?")], lambda stage, done, total: None)
        assert len(asked) == expected


def test_settings_tell_what_decides_an_answer_besides_the_model() -> None:
    options: tuple[dict[str, Any], ...] = ({}, {"overlong": "truncate"}, {"max_prompt_tokens": 9})
    loaded: list[Any] = [load_llm("tiny", **one) for one in options]
    assert len({one.fingerprint for one in loaded}) == 1
    assert len({repr(one.settings) for one in loaded}) == 3


def _with_fingerprint_of(llm: LanguageModel, function: Callable[[str], str]) -> LanguageModel:
    """A callable LLM that counts, under the fingerprint of `llm`."""
    counting = load_llm(function)

    class Counting:
        channels = counting.channels
        tokenizer = counting.tokenizer
        fingerprint = llm.fingerprint
        generate = staticmethod(counting.generate)

    return Counting()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_lamp(make_split(), load_llm(copy_the_first_score), CONFIG, out=tmp_path / name)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("a", "b")]
    for result in results:
        for row in result["rows"]:
            row.pop("seconds")
    assert results[0] == results[1]
    assert results[0]["config"]["seed"] == 0
    predictions = sorted((tmp_path / "a" / "predictions").glob("*.json"))
    assert [file.name for file in predictions if "bm25-lamp" in file.name and "other" not in file.name] == [
        "bm25-lamp_k1.json",
        "bm25-lamp_k2.json",
    ]
    for file in predictions:
        assert file.read_bytes() == (tmp_path / "b" / "predictions" / file.name).read_bytes()
        named, answers = read_golds(file)
        assert named == "LaMP_3"
        assert set(answers) == {question.id for question in make_split().questions}


def test_results_say_which_data_they_are_of(tmp_path: Path) -> None:
    split, config, llm = make_split(), replace(CONFIG, methods=(NO_USER,)), load_llm(copy_the_first_score)
    other_gold = replace(split, golds={**(split.golds or {}), "00": "2"})
    first = split.questions[0]
    shorter = replace(first, profile=Profile(first.user_id, first.profile.records[:-1]))
    other_profile = replace(split, questions=(shorter, *split.questions[1:]))
    said = [run_lamp(one, llm, config).data for one in (split, make_split(), other_gold, other_profile)]
    assert said[0] == said[1]
    assert len({said[0], *said[2:]}) == 3
    run_lamp(split, llm, config, summarizer=load_llm(str.upper, name="writer"), out=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["data"], results["parts"]) == (said[0], {"summarizer": ["callable:writer"]})


def test_without_golds_there_are_predictions_and_no_scores(tmp_path: Path) -> None:
    split = make_split()
    unscored = LampSplit(split.task, split.questions, None, split.labels)
    report = run_lamp(unscored, load_llm(copy_the_first_score), CONFIG, out=tmp_path)
    assert all(not row.scores for row in report.rows)
    assert len(next(iter(report.rows)).predictions) == 2 * USERS
    assert "bm25-lamp k=1" in lamp_markdown(report)


def test_tables_name_every_row() -> None:
    report = run_lamp(make_split(), load_llm(copy_the_first_score), CONFIG)
    markdown = lamp_markdown(report)
    for row in report.rows:
        assert f"| {row.name} |" in markdown
    assert lamp_table(report, title="films").row_count == len(report.rows)


@pytest.mark.parametrize("seed", range(5))
def test_another_users_history_is_never_ones_own(seed: int) -> None:
    questions = make_split().questions
    others = other_histories(questions, seed)
    assert all(profile.user_id != question.user_id for profile, question in zip(others, questions, strict=True))
    assert others == other_histories(questions, seed)
    assert {profile.user_id for profile in others} == {question.user_id for question in questions}


def test_the_control_needs_two_users() -> None:
    questions = make_split().questions[:2]
    with pytest.raises(EvaluationError, match="at least 2 users"):
        other_histories(questions, 0)
    split = LampSplit(TASK, questions, make_split().golds, TASK.labels)
    report = run_lamp(
        split, load_llm(copy_the_first_score), LampConfig(methods=("bm25-lamp",), ks=(1,), controls=False)
    )
    assert all(row.control != OTHER_USER for row in report.rows)


def test_bad_options_are_refused() -> None:
    with pytest.raises(
        InvalidOptionError,
        match=r"a method must be one of none, user-embedder, stats, summary, stats\+summary, vocabulary, user-embedder\+vocabulary, lora",
    ):
        LampConfig(methods=("bm52",))
    with pytest.raises(InvalidOptionError, match="`ks`"):
        LampConfig(ks=(0,))
    empty = LampSplit(TASK, (), {}, TASK.labels)
    with pytest.raises(EvaluationError, match="no questions"):
        run_lamp(empty, load_llm(copy_the_first_score), CONFIG)


def test_retrievers_run_with_what_is_wanted_over_them() -> None:
    """Only records of 2010 are seen, by every retriever and by the one beside the statistics."""
    seen: list[str] = []

    def note(prompt: str) -> str:
        seen.append(prompt)
        return "3"

    config = LampConfig(
        methods=("bm25-lamp", "rerank", "stats"),
        ks=(3,),
        base="bm25-lamp",
        where="time=2010",
        controls=False,
        resamples=50,
    )
    from persona.eval import plans

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "make_retrievers", without_cross_encoder)
        run_lamp(make_split(), load_llm(note), config)
    shown = [prompt for prompt in seen if " is the score for " in prompt]
    assert shown
    assert all(f"film {number} {later} of" not in prompt for prompt in shown for number in (0, 1) for later in (1, 2))
    assert {prompt.count("of user") for prompt in shown} == {0, 1}
    with pytest.raises(InvalidOptionError, match="a base is for diverse and rerank, was: 'bm25-lamp' for recency"):
        run_lamp(make_split(), load_llm(note), LampConfig(methods=("recency",), base="bm25-lamp", controls=False))
    with pytest.raises(InvalidOptionError, match="a model is for late_interaction and rerank"):
        run_lamp(make_split(), load_llm(note), LampConfig(methods=("bm25-lamp",), retriever_model="x", controls=False))
    with pytest.raises(InvalidOptionError, match="neighbours are for multi_interest, was: 3 for bm25-lamp"):
        run_lamp(
            make_split(), load_llm(note), LampConfig(methods=("bm25-lamp",), interest_neighbours=3, controls=False)
        )


def without_cross_encoder(names: tuple[str, ...], **options: Any) -> dict[str, Retriever]:
    """`make_retrievers` where `rerank` is its base."""
    made = make_retrievers([name for name in names if name != "rerank"], **{**options, "base": None})
    return {**made, "rerank": make_retriever(options["base"], where=options["where"])}


def test_lifted_words_are_those_of_the_right_user(llama_folder: Path) -> None:
    task = lamp_task("LaMP_5")
    letters = "zqxj"
    questions = tuple(
        Question(f"q{place}", f"u{place}", task.make_input("x"), Profile(f"u{place}", (Record("x", target=letter),)))
        for place, letter in enumerate(letters)
    )
    split = LampSplit(task, questions, {one.id: letters[place] * 4 for place, one in enumerate(questions)}, None)
    config = LampConfig(methods=(NO_USER, "vocabulary"), ks=(1,), vocabulary=500.0, max_new_tokens=4, resamples=50)
    report = run_lamp(split, load_llm(llama_folder), config)
    rows = {row.name: row for row in report.rows}
    for name in ("vocabulary", "vocabulary + bm25-lamp k=1"):
        assert [rows[name].predictions[one.id] for one in questions] == [letter * 4 for letter in letters]
        others = rows[f"{name}, {OTHER_USER}"]
        assert all(others.predictions[one.id] in {x * 4 for x in letters} for one in questions)
        assert others.scores["rouge-1"].value == 0
    assert rows["vocabulary"].tokens_added == 0 < rows["vocabulary + bm25-lamp k=1"].tokens_added
    assert "z" * 4 not in rows["none"].predictions.values()
    # What everybody writes elsewhere is nobody's own word, whatever stands in this split.
    common = tuple(replace(one, profile=Profile(one.user_id, (Record("x", target="z"),))) for one in questions)
    report = run_lamp(split, load_llm(llama_folder), config, background=replace(split, questions=common))
    words = next(row for row in report.rows if row.name == "vocabulary").predictions
    assert [words[one.id] == letter * 4 for one, letter in zip(questions, letters, strict=True)] == [
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(InvalidOptionError, match="needs a finite weight above 0"):
        LampConfig(methods=("vocabulary",))
    with pytest.raises(UnsupportedChannelError, match="lifted tokens need"):
        run_lamp(split, load_llm(lambda prompt: "x"), config)
