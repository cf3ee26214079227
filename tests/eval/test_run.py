"""Evaluating methods of one's own: rows, controls, training splits, answers that are kept, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from persona.channels import Ask, Channel, Contribution
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval import Benchmark, EvaluationOptions, LampBenchmark, Method, Question, evaluate
from persona.eval.metrics import ACCURACY, MAE
from persona.lamp.prompts import LampWording
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.records import Profile, Record
from persona.retrievers import RecencyRetriever
from persona.retrievers.channel import RecordsChannel
from persona.store.profile_store import ProfileStore
from tests.eval.ratings import TASK, USERS, benchmark, copy_the_first_score, ratings

OPTIONS = EvaluationOptions(resamples=100)


class Signature(Channel):
    """A channel that a user of persona writes: the user's newest target as a note."""

    name = "signature"

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        targets = [[record.target or "" for record in ask.profile][-1:] for ask in asks]
        return [Contribution(notes=tuple(newest)) for newest in targets]


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(f"sqlite:///{tmp_path / 'none.db'}")


def personalizer(store: ProfileStore, *channels: Channel, llm: Any = None) -> Personalizer:
    llm = llm or load_llm(copy_the_first_score)
    builder = PromptBuilder(llm.tokenizer, wording=LampWording(TASK, "record"), mask=False, max_length=256)
    return Personalizer(llm, store, channels, builder=builder)


def test_a_channel_of_ones_own_beside_its_controls(store: ProfileStore, tmp_path: Path) -> None:
    methods = {"none": personalizer(store), "mine": personalizer(store, Signature())}
    report = evaluate(benchmark(), methods, options=OPTIONS, out=tmp_path / "out")
    assert [row.name for row in report.rows[:3]] == ["none", "mine", "mine, other user"]
    none, mine, other = report.rows[:3]
    without = sum(abs(1 + user % 5 - 3) for user in range(USERS)) / USERS
    assert [row.scores["MAE"].value for row in (none, mine)] == pytest.approx([without, 0])
    assert other.scores["MAE"].value > 0
    assert mine.difference is not None
    assert mine.difference.high < 0
    assert mine.to_other_user is not None
    assert (none.difference, other.to_other_user, mine.gain) == (None, None, None)
    assert (none.tokens_added, mine.tokens_added > 0) == (0, True)
    assert (report.questions, report.users, report.benchmark) == (2 * USERS, USERS, "LaMP_3")
    # Behind the methods stand what needs no LLM: these users always give the same score.
    assert {row.name: row.scores["MAE"].value for row in report.rows[3:]} == {
        "mean score": 0,
        "median score": 0,
        "nearest record": 0,
    }
    for row in report.rows:
        assert f"| {row.name} |" in report.markdown()
    assert report.table("films").row_count == len(report.rows)
    with pytest.raises(KeyError):
        report["yours"]


def test_a_method_may_learn_from_the_training_split(store: ProfileStore) -> None:
    class Everybody(Channel):
        name = "everybody"

        def __init__(self, training: Benchmark) -> None:
            self.newest = training.questions[-1].gold or ""

        def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
            return [Contribution(notes=(self.newest,), personal=False) for _ in asks]

    class WithTraining(LampBenchmark):
        training = benchmark(2)

    learning = Method("learned", (lambda training: personalizer(store, Everybody(training)),))
    report = evaluate(WithTraining(ratings()), [learning], [], options=OPTIONS)
    assert set(report["learned"].predictions.values()) == {"2"}
    with pytest.raises(EvaluationError, match="'learned' learns from a training split, and the benchmark has none"):
        evaluate(benchmark(), [learning], options=OPTIONS)


def test_a_benchmark_of_ones_own_whose_questions_know_more_and_more(store: ProfileStore) -> None:
    """Two questions of one user: the second one sees a record that the first one does not."""

    class Colours(Benchmark):
        name, metrics = "colours", (ACCURACY,)
        records = (Record("likes red", time="2020"), Record("likes blue", time="2021"))
        questions = (
            Question("0", "ana", Profile("ana", records[:1]), "Which colour?", "colour", "red", ("red", "blue")),
            Question("1", "ana", Profile("ana", records), "Which colour?", "colour", "blue", ("red", "blue")),
        )

    llm = load_llm(lambda prompt: "blue" if "blue" in prompt else "red")
    method = Personalizer(llm, store, [RecordsChannel(RecencyRetriever(), 1)])
    report = evaluate(Colours(), {"recency": method}, [], options=OPTIONS)
    assert (report["recency"].scores["accuracy"].value, report.users) == (1, 1)
    assert evaluate(Colours(), {"recency": method}, [], options=replace(OPTIONS, limit=1)).questions == 1


def test_several_seeds_count_together(store: ProfileStore, tmp_path: Path) -> None:
    wrong = load_llm(lambda prompt: "3", name="wrong")
    seeds = Method("mine", (personalizer(store, Signature()), personalizer(store, Signature(), llm=wrong)))
    plain = Method("none", (personalizer(store),))
    report = evaluate(benchmark(), [plain, seeds], [], options=OPTIONS, out=tmp_path)
    assert report["mine"].scores["MAE"].value == pytest.approx(report["none"].scores["MAE"].value / 2)
    assert report.llm == "callable:tests.eval.ratings.copy_the_first_score, callable:wrong"
    assert {path.name for path in (tmp_path / "predictions").glob("mine*")} == {"mine_run1.json", "mine_run2.json"}


def test_without_golds_there_are_predictions_and_no_scores(store: ProfileStore) -> None:
    unscored = LampBenchmark(replace(ratings(), golds=None))
    report = evaluate(unscored, {"mine": personalizer(store, Signature())}, options=OPTIONS)
    assert all(not row.scores for row in report.rows)
    assert len(report["mine"].predictions) == 2 * USERS
    assert "mine, other user" in report.markdown()


def test_a_killed_run_goes_on_and_asks_nothing_twice(store: ProfileStore, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) == 9:
            raise KeyboardInterrupt
        return copy_the_first_score(prompt)

    def run(function: Callable[[str], str]) -> Any:
        llm = load_llm(function, name="copier")
        methods = {"none": personalizer(store, llm=llm), "mine": personalizer(store, Signature(), llm=llm)}
        return evaluate(benchmark(), methods, options=OPTIONS, out=tmp_path / "out")

    with pytest.raises(KeyboardInterrupt):
        run(answer)
    answers = tmp_path / "out" / "answers.jsonl"
    lines = [line for line in answers.read_text().splitlines() if line]
    assert len(lines) == 8  # each was written when it arrived
    answers.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    report = run(answer)
    # The one that failed and the one that was half written are asked again, and equal requests of two rows once.
    assert len(asked) == len(set(asked)) + 2
    kept = answers.read_bytes()
    assert run(answer).as_dict() == report.as_dict()
    assert (answers.read_bytes(), len(asked)) == (kept, len(set(asked)) + 2)


def test_answers_under_other_settings_are_asked_anew(store: ProfileStore, tmp_path: Path) -> None:
    asked: list[str] = []
    llm: Any = load_llm(lambda prompt: asked.append(prompt) or "3", name="noting")  # type: ignore[func-returns-value]
    one = replace(OPTIONS, limit=1)
    for settings, expected in (({"system": "Be brief."}, 1), ({"system": "Be brief."}, 1), ({"system": None}, 2)):
        llm.settings = settings
        evaluate(benchmark(), {"none": personalizer(store, llm=llm)}, options=one, out=tmp_path)
        assert len(asked) == expected


def test_files_are_the_same_for_the_same_seed_and_say_which_data_they_are_of(
    store: ProfileStore, tmp_path: Path
) -> None:
    methods = {"none": personalizer(store), "mine": personalizer(store, Signature())}
    for name in ("a", "b"):
        evaluate(benchmark(), methods, options=OPTIONS, out=tmp_path / name, config={"why": "to compare"})
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("a", "b")]
    assert results[0] == results[1]
    assert results[0]["config"] == asdict(OPTIONS) | {"why": "to compare"}
    for file in (tmp_path / "a" / "predictions").glob("*.json"):
        assert file.read_bytes() == (tmp_path / "b" / "predictions" / file.name).read_bytes()
    split = ratings()
    first = split.questions[0]
    shorter = replace(first, profile=Profile(first.user_id, first.profile.records[:-1]))
    others = (
        replace(split, golds={**(split.golds or {}), "00": "2"}),
        replace(split, questions=(shorter, *split.questions[1:])),
    )
    hashes = [evaluate(LampBenchmark(each), {"none": methods["none"]}, options=OPTIONS).data for each in others]
    assert len({results[0]["data"], *hashes}) == 3


def test_what_cannot_be_run_is_refused(store: ProfileStore) -> None:
    mine = personalizer(store, Signature())
    with pytest.raises(EvaluationError, match="the benchmark is empty"):
        evaluate(LampBenchmark(replace(ratings(), questions=())), {"mine": mine})
    with pytest.raises(EvaluationError, match="at least one method"):
        evaluate(benchmark(), {})
    with pytest.raises(InvalidOptionError, match="two rows would be called 'mine'"):
        evaluate(benchmark(), [Method("mine", (mine,)), Method("mine", (mine,))])
    with pytest.raises(InvalidOptionError, match="must be personalizers, or functions"):
        Method("mine", (Signature(),))  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="`at_once` must be at least 1, was: 0"):
        EvaluationOptions(at_once=0)

    class Half(Benchmark):
        name, metrics = "half", (MAE,)
        questions = tuple(Question(gold, "u", Profile("u"), "q", "q", gold or None) for gold in ("", "1"))

    with pytest.raises(EvaluationError, match="a gold, or none: 1 of 2"):
        evaluate(Half(), {"mine": mine}, [])
