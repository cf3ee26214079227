"""Knowing when not to: general questions, what changes about them, and what restraint costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from persona.errors import DataFormatError, EvaluationError, InvalidOptionError
from persona.eval.general_questions import GENERAL_QUESTIONS, GeneralQuestion, read_general
from persona.eval.report import restraint_cells, restraint_table
from persona.eval.restraint import (
    NO_USER,
    RestraintReport,
    over_personalization,
    profile_terms,
    run_restraint,
)
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.protocols import Retriever
from persona.records import Profile, Record, ScoredRecord
from persona.retrievers.registry import make_retriever
from persona.retrievers.relevance import general

TASK = lamp_task("LaMP_3")


def make_split(users: int = 4) -> LampSplit:
    """User n scores everything n + 1."""
    questions = tuple(
        Question(
            f"q{user}",
            f"u{user}",
            TASK.make_input(f"lighthouse {user}"),
            Profile(f"u{user}", (Record(f"lighthouse of user{user}", target=str(user + 1)),)),
        )
        for user in range(users)
    )
    return LampSplit(TASK, questions, {one.id: str(place + 1) for place, one in enumerate(questions)}, TASK.labels)


class OnlyReviews:
    """A retriever that returns nothing unless the query speaks of a lighthouse."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        return self.retriever.retrieve(profile, query, k) if "lighthouse" in query else ()

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        return [self.retrieve(profile, query, k) for profile, query in zip(profiles, queries, strict=True)]


def first_word(prompt: str) -> str:
    """An LLM that says the score of a record before the prompt, and otherwise 3."""
    return f"{prompt[0]} lighthouse" if prompt[0].isdigit() and " is the score for " in prompt else "3"


def score_alone(prompt: str) -> str:
    return first_word(prompt)[0]


@pytest.fixture(scope="module")
def report() -> RestraintReport:
    bm25 = make_retriever("bm25-lamp")
    return run_restraint(
        make_split(), load_llm(score_alone), {"bm25-lamp": bm25, "only reviews": OnlyReviews(bm25)}, resamples=50
    )


def test_a_filter_that_knows_when_not_to_keeps_all(report: RestraintReport) -> None:
    none, always, filtered = report.rows
    assert [row.method for row in report.rows] == [NO_USER, "bm25-lamp", "only reviews"]
    assert (none.restraint.value, always.restraint.value, filtered.restraint.value) == (1, 0, 1)
    assert (none.unchanged.value, filtered.unchanged.value) == (1, 1)
    # Three in four users give another score than 3, which stands before the question now.
    assert always.unchanged.value == pytest.approx(0.25)
    assert (always.token_f1.value, always.rouge_l.value) == (always.unchanged.value, always.unchanged.value)
    assert (always.score.value, filtered.score.value) == (0, 0)
    assert none.score.value == 1
    assert none.kept is None
    assert (always.kept, filtered.kept) == (None, None)  # nothing is left to divide by: no error at all
    assert (filtered.abstained.value, always.abstained.value, none.abstained.value) == (0, 0, 1)
    assert always.tokens_general > 0
    assert filtered.tokens_general == 0
    assert filtered.tokens_personal == always.tokens_personal


def test_what_is_kept_is_a_ratio_of_scores() -> None:
    split = make_split()
    wrong = load_llm(lambda prompt: "1" if " is the score for " in prompt else "4")
    never = OnlyReviews(make_retriever("bm25-lamp"))
    never.retrieve = lambda profile, query, k: ()  # type: ignore[method-assign]
    rows = run_restraint(split, wrong, {"bm25-lamp": make_retriever("bm25-lamp"), "never": never}, resamples=50).rows
    # Golds 1, 2, 3, 4: an error of 1.5 with "1" everywhere, and of 1.5 with "4".
    assert rows[1].score.value == rows[2].score.value == 1.5
    assert rows[2].kept == 1
    assert rows[2].abstained.value == 1


def test_the_meter_counts_what_is_the_users_and_nobody_asked_for() -> None:
    terms = profile_terms(Profile("ana", (Record("A quiet film about lighthouses.", target="sea-side"),)))
    assert terms == {"quiet", "film", "lighthouses", "sea", "side"}
    question = "Which film is quiet?"
    assert over_personalization("The quiet film with lighthouses", terms, question, "none") == pytest.approx(1 / 3)
    assert over_personalization("The quiet film with lighthouses", terms, question, "Lighthouses!") == 0
    assert over_personalization("", terms, question, "") == 0
    assert over_personalization("lighthouses sea", terms, question, "") == 1


def test_over_personalized_answers_show(report: RestraintReport) -> None:
    told = run_restraint(make_split(), load_llm(first_word), {"bm25-lamp": make_retriever("bm25-lamp")}, resamples=50)
    assert told.rows[0].over_general.value == 0
    assert told.rows[1].over_general.value == 1  # "lighthouse" is the only term in "3 lighthouse"
    assert report.rows[1].over_general.value == 0


def test_the_questions_are_many_and_different() -> None:
    assert len(GENERAL_QUESTIONS) >= 100
    assert len({one.question for one in GENERAL_QUESTIONS}) == len(GENERAL_QUESTIONS)
    assert all(one.question.strip() and one.answer.strip() for one in GENERAL_QUESTIONS)
    assert len({one.domain for one in GENERAL_QUESTIONS}) == 4


def test_questions_from_elsewhere_are_read_and_told_apart(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("one?\n\n two? \nthree?\nfour?\nfive?\n")
    assert [one.question for one in read_general(lines, 3)] == ["one?", "three?", "five?"]
    assert {one.domain for one in read_general(lines, 9)} == {"lines.txt"}
    folder = tmp_path / "other"
    folder.mkdir()
    other = lamp_task("LaMP_5")
    text = other.make_input("a proof")
    questions = [{"id": "1", "user_id": "u", "input": text, "profile": []}]
    (folder / "dev_questions.json").write_text(json.dumps(questions))
    golds = {"task": "LaMP_5", "golds": [{"id": "1", "output": "On proofs"}]}
    (folder / "dev_outputs.json").write_text(json.dumps(golds))
    assert read_general(folder, 5, "dev") == (GeneralQuestion("other", text, "On proofs", "a proof"),)
    with pytest.raises(DataFormatError, match="the file is empty"):
        read_general(write(tmp_path / "empty.txt", "\n"), 5)
    # What is looked for is the query, what is asked the question.
    elsewhere = GeneralQuestion("other", "A lighthouse?", "no", query="nothing of the kind")
    report = run_restraint(
        make_split(),
        load_llm(score_alone),
        {"only reviews": OnlyReviews(make_retriever("bm25-lamp"))},
        general=[*GENERAL_QUESTIONS[:3], elsewhere],
        resamples=50,
    )
    assert report.rows[1].by_domain == {"facts": 1.0, "other": 1.0}
    assert "other: nothing added" in restraint_cells(report)[0]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_general_questions_are_not_those_that_filters_learn_from() -> None:
    assert not {one.question for one in GENERAL_QUESTIONS} & {*general.GENERAL_QUESTIONS, *general.LONG_REQUESTS}


def test_reports_can_be_printed(report: RestraintReport) -> None:
    header, *rows = restraint_cells(report)
    assert all(len(row) == len(header) for row in rows)
    assert rows[1][0] == "bm25-lamp k=1"
    assert restraint_table(report, title="t").row_count == 3
    assert json.loads(json.dumps(report.as_dict()))["general"] == len(GENERAL_QUESTIONS)


def test_the_same_seed_gives_the_same_report(report: RestraintReport) -> None:
    bm25 = make_retriever("bm25-lamp")
    again = run_restraint(
        make_split(), load_llm(score_alone), {"bm25-lamp": bm25, "only reviews": OnlyReviews(bm25)}, resamples=50
    )
    assert again == report


def test_what_cannot_be_run_is_refused() -> None:
    split, llm, bm25 = make_split(), load_llm(score_alone), {"bm25-lamp": make_retriever("bm25-lamp")}
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1"):
        run_restraint(split, llm, bm25, k=0)
    with pytest.raises(InvalidOptionError, match="at least one retriever"):
        run_restraint(split, llm, {})
    with pytest.raises(EvaluationError, match="needs golds"):
        run_restraint(LampSplit(TASK, split.questions, None, TASK.labels), llm, bm25)
    with pytest.raises(EvaluationError, match="no questions"):
        run_restraint(split, llm, bm25, general=())
