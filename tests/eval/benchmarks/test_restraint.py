"""Knowing when not to: general questions, what changes about them, and what restraint costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from persona.errors import DataFormatError, EvaluationError, InvalidOptionError
from persona.eval import EvaluationOptions, LampBenchmark, LampOptions, Report
from persona.eval.benchmarks.general_questions import GENERAL_QUESTIONS, GeneralQuestion, read_general
from persona.eval.benchmarks.restraint import evaluate_restraint, over_personalization, profile_terms
from persona.eval.lamp import evaluate_lamp_restraint
from persona.lamp.prompts import LampWording
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.protocols import Retriever
from persona.records import Profile, Record, ScoredRecord
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.registry import make_retriever
from persona.retrievers.relevance import general
from persona.store.profile_store import ProfileStore

TASK = lamp_task("LaMP_3")
OPTIONS = EvaluationOptions(resamples=50)


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
    golds = {each.id: str(user + 1) for user, each in enumerate(questions)}
    return LampSplit(TASK, questions, golds, TASK.labels)


class OnlyReviews:
    """A retriever that returns nothing unless the query speaks of a lighthouse."""

    def __init__(self, words: str = "lighthouse") -> None:
        self.words, self.retriever = words, make_retriever("bm25-lamp")

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        return self.retriever.retrieve(profile, query, k) if self.words in query else ()

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        return [self.retrieve(profile, query, k) for profile, query in zip(profiles, queries, strict=True)]


def first_word(prompt: str) -> str:
    """An LLM that says the score of a record before the prompt, and otherwise 3."""
    return f"{prompt[0]} lighthouse" if prompt[0].isdigit() and " is the score for " in prompt else "3"


def score_alone(prompt: str) -> str:
    return first_word(prompt)[0]


def run(
    function: Callable[[str], str],
    retrievers: dict[str, Retriever],
    questions: Sequence[GeneralQuestion] = GENERAL_QUESTIONS,
    split: LampSplit | None = None,
    out: Path | None = None,
) -> Report:
    llm = load_llm(function)
    builder = PromptBuilder(llm.tokenizer, wording=LampWording(TASK), mask=False, max_length=256)
    with ProfileStore("sqlite:///none.db") as store:
        methods = {
            name: Personalizer(llm, store, [RecordsChannel(retriever, 1)], builder=builder)
            for name, retriever in retrievers.items()
        }
        benchmark = LampBenchmark(split or make_split())
        return evaluate_restraint(benchmark, methods, questions, options=OPTIONS, out=out)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("restraint"))
        return run(score_alone, {"bm25-lamp": make_retriever("bm25-lamp"), "only reviews": OnlyReviews()})


def values(report: Report, measure: str) -> list[float]:
    return [row.scores[measure].value for row in report.rows]


def test_a_filter_that_knows_when_not_to_keeps_all(report: Report) -> None:
    none, always, filtered = report.rows
    assert [row.method for row in report.rows] == ["none", "bm25-lamp", "only reviews"]
    assert values(report, "nothing added") == [1, 0, 1]
    # Three in four users give another score than 3, which stands before the question now.
    for measure in ("unchanged", "token F1", "ROUGE-L"):
        assert values(report, measure) == pytest.approx([1, 0.25, 1])
    assert values(report, "MAE") == [1, 0, 0]
    assert (none.kept, always.kept, filtered.kept) == (None, None, None)  # nothing to divide by: no error at all
    assert values(report, "own: nothing added") == [1, 0, 0]
    assert values(report, "tokens")[1] > 0
    assert values(report, "tokens")[2] == 0
    assert filtered.tokens_added == always.tokens_added


def test_answers_that_were_none_are_counted_and_shown() -> None:
    silent = run(lambda prompt: "" if "lighthouse 0" in prompt else "3", {"bm25-lamp": OnlyReviews()})
    header, *rows = silent.cells()
    assert [row[header.index("of the answers")] for row in rows] == ["1 empty", "1 empty"]


def test_what_is_kept_is_a_ratio_of_scores() -> None:
    retrievers: dict[str, Retriever] = {"bm25-lamp": make_retriever("bm25-lamp"), "never": OnlyReviews("nothing")}
    found = run(lambda prompt: "1" if " is the score for " in prompt else "4", retrievers)
    # Golds 1, 2, 3, 4: an error of 1.5 with "1" everywhere, and of 1.5 with "4".
    assert values(found, "MAE")[1:] == [1.5, 1.5]
    assert [row.kept for row in found.rows] == [None, 1, 1]
    assert values(found, "own: nothing added")[2] == 1


def test_the_meter_counts_what_is_the_users_and_nobody_asked_for() -> None:
    terms = profile_terms(Profile("ana", (Record("A quiet film about lighthouses.", target="sea-side"),)))
    assert terms == {"quiet", "film", "lighthouses", "sea", "side"}
    question = "Which film is quiet?"
    assert over_personalization("The quiet film with lighthouses", terms, question, "none") == pytest.approx(1 / 3)
    assert over_personalization("The quiet film with lighthouses", terms, question, "Lighthouses!") == 0
    assert over_personalization("", terms, question, "") == 0
    assert over_personalization("lighthouses sea", terms, question, "") == 1


def test_over_personalized_answers_show(report: Report) -> None:
    wordy = run(first_word, {"bm25-lamp": make_retriever("bm25-lamp")})
    assert values(wordy, "over-personalized") == [0, 1]  # "lighthouse" is the only term in "3 lighthouse"
    assert values(report, "over-personalized")[1] == 0


def test_the_questions_are_many_and_different() -> None:
    assert len(GENERAL_QUESTIONS) >= 100
    assert len({one.question for one in GENERAL_QUESTIONS}) == len(GENERAL_QUESTIONS)
    assert all(one.question.strip() and one.answer.strip() for one in GENERAL_QUESTIONS)
    assert len({one.domain for one in GENERAL_QUESTIONS}) == 4


def test_questions_from_elsewhere_are_read_and_have_a_column(tmp_path: Path) -> None:
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
    found = run(score_alone, {"only reviews": OnlyReviews()}, [*GENERAL_QUESTIONS[:3], elsewhere])
    assert {domain: share.value for domain, share in found.rows[1].kinds.items()} == {"facts": 1.0, "other": 1.0}
    assert found.by_kind()[0] == ["nothing added", "facts", "other"]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_general_questions_are_not_those_that_filters_learn_from() -> None:
    assert not {one.question for one in GENERAL_QUESTIONS} & {*general.GENERAL_QUESTIONS, *general.LONG_REQUESTS}


def test_reports_can_be_printed_and_are_the_same_for_the_same_seed(report: Report, tmp_path: Path) -> None:
    header, *rows = report.cells()
    assert all(len(row) == len(header) for row in rows)
    assert report.table("t").row_count == 3
    retrievers: dict[str, Retriever] = {"bm25-lamp": make_retriever("bm25-lamp"), "only reviews": OnlyReviews()}
    assert run(score_alone, retrievers, out=tmp_path) == report
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["config"]["general"], results["rows"][1]["scores"]["nothing added"]["value"]) == (
        len(GENERAL_QUESTIONS),
        0,
    )
    answers = (tmp_path / "answers.jsonl").read_bytes()
    assert run(score_alone, retrievers, out=tmp_path) == report
    assert (tmp_path / "answers.jsonl").read_bytes() == answers


def test_retrievers_by_name_with_and_without_a_filter(tmp_path: Path) -> None:
    options = LampOptions(methods=("bm25-lamp", "recency"), ks=(1,), encoder="hashing", limit=3, resamples=50)
    found = evaluate_lamp_restraint(
        LampBenchmark(make_split()), load_llm(score_alone), options, ["untrained"], GENERAL_QUESTIONS[:9], out=tmp_path
    )
    assert [row.method for row in found.rows] == [
        "none",
        "bm25-lamp",
        "bm25-lamp + filter",
        "recency",
        "recency + filter",
    ]
    assert values(found, "nothing added")[:2] == [1, 0]
    assert values(found, "nothing added")[2] > 0.5
    assert (found.config["personal"], found.config["general"]) == (3, 9)
    assert list(found.config["filters"]) == ["untrained"]


def test_what_cannot_be_run_is_refused() -> None:
    bm25: dict[str, Retriever] = {"bm25-lamp": make_retriever("bm25-lamp")}
    with pytest.raises(InvalidOptionError, match="at least one method"):
        run(score_alone, {})
    with pytest.raises(EvaluationError, match="needs golds"):
        run(score_alone, bm25, split=replace(make_split(), golds=None))
    with pytest.raises(EvaluationError, match="no questions"):
        run(score_alone, bm25, ())
