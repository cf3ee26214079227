"""The training of a filter: its thresholds by hand, what it does for users it has not seen, and the docs."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from persona.encoders.style import style_vector
from persona.errors import EvaluationError, InvalidOptionError
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import Profile, Record
from persona.retrievers import BM25Retriever, RelevanceRetriever
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.relevance.filters import TrainedFilter, load_filter
from persona.retrievers.relevance.general import GENERAL, GENERAL_QUESTIONS, LONG_REQUESTS
from persona.retrievers.relevance.pairs import records_as_questions
from persona.retrievers.relevance.training import RelevanceTraining, _for_recall, _for_restraint, _mean, train_relevance
from persona.retrievers.vectors.record_vectors import EmbeddedProfile
from persona.store.profile_store import ProfileStore
from tests.retrievers.relevance.cases import ENCODER, SHAPES, read_query, review, split_of


def test_the_threshold_for_a_wanted_recall_is_the_highest_that_has_it() -> None:
    mine = np.array([0.4, 0.9, 0.7, 0.8, 0.5])
    assert _for_recall(mine, 0.6) == 0.7  # three of five
    assert _for_recall(mine, 0.61) == 0.5
    assert _for_recall(mine, 0.99) == 0.4
    assert _for_recall(mine, 0.01) == 0.9
    assert _for_recall(np.array([0.2, 0.6, 0.6, 0.6]), 0.75) == 0.6


def test_the_threshold_for_a_wanted_restraint_is_the_lowest_that_has_it() -> None:
    """Two kinds, both counted alike, however many questions they have."""
    others = [np.array([0.5] * 10 + [0.1] * 10), np.array([0.7, 0.2])]
    assert _for_restraint(others, 0.99) == pytest.approx(0.7)
    assert _for_restraint(others, 0.99) > 0.7  # what stands at the threshold passes
    assert _for_restraint(others, 0.75) == pytest.approx(0.5)  # 0/20 and 1/2
    assert _for_restraint(others, 0.5) == pytest.approx(0.2)  # 10/20 and 1/2
    assert _for_restraint(others, 0.25) == pytest.approx(0.1)


def test_restraint_goes_before_recall() -> None:
    """Reviews by nobody among the general questions keep records as own ones do, until restraint takes both."""
    draw = np.random.default_rng(2)
    general = [*GENERAL["questions"], *(review(draw) for _ in range(20))]
    options = RelevanceTraining(recall=0.999, restraint=0.01, epochs=5, folds=2, members=1)
    _, lax = train_relevance(split_of(30), ENCODER, options, general=general)
    _, strict = train_relevance(split_of(30), ENCODER, replace(options, restraint=0.97), general=general)
    assert lax.recall == 1 > strict.recall
    assert strict.general_kept["general"] <= 0.03 < lax.general_kept["general"]
    assert strict.threshold > lax.threshold


def test_general_questions_like_the_users_own_leave_no_threshold() -> None:
    split = split_of(30)
    own = [split.task.query(question.input) for question in split.questions]
    options = RelevanceTraining(restraint=0.999, epochs=2, folds=2, members=1)
    with pytest.raises(EvaluationError, match="or a lower `restraint`"):
        train_relevance(split, ENCODER, options, general=[*own, *(question.input for question in split.questions)])


def test_the_mean_of_networks_is_one_network() -> None:
    draw = np.random.default_rng(0)
    members = [{name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(3)]
    query = read_query("30")

    def outputs(weights: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        hidden = np.tanh(weights["hidden.weight"] @ query + weights["hidden.bias"])
        return np.asarray(weights["out.weight"] @ hidden + weights["out.bias"])

    assert outputs(_mean(members)).tolist() == pytest.approx(
        np.mean([outputs(member) for member in members], axis=0), 1e-5
    )
    slope, offset = TrainedFilter(_mean(members), 0.5, "plane|view=text").line(query)
    assert slope == pytest.approx(math.log1p(math.exp(np.mean([outputs(member)[0] for member in members]))), 1e-5)
    assert offset == pytest.approx(np.mean([outputs(member)[1] for member in members]), 1e-5)


@pytest.fixture(scope="module")
def trained() -> TrainedFilter:
    made, report = train_relevance(split_of(60), ENCODER, general=GENERAL)
    assert report.recall >= 0.97
    assert report.general_kept.keys() == {"questions", "requests"}
    assert max(report.general_kept.values()) <= 0.1
    assert made.notes["report"]["threshold"] == made.threshold == report.threshold
    return made


def test_general_questions_get_nothing_and_own_ones_keep_records(trained: TrainedFilter) -> None:
    """On users, questions and general questions that the training has not seen."""
    unseen = split_of(40, seed=1)
    general = [f"how do I {verb} a {noun}?" for verb in ("mend", "buy", "paint", "clean") for noun in ("shed", "boat")]
    for judge, least in ((trained, 0.9), (load_filter("untrained", ENCODER), 0.8)):
        retriever = RelevanceRetriever(BM25Retriever(), judge, ENCODER)
        profiles = [question.profile for question in unseen.questions]
        own = retriever.retrieve_batch(
            profiles, [unseen.task.query(question.input) for question in unseen.questions], 4
        )
        assert np.mean([bool(found) for found in own]) >= least
        others = retriever.retrieve_batch(profiles, [general[number % 8] for number in range(40)], 4)
        assert np.mean([not found for found in others]) >= 0.9


def test_a_question_keeps_records_bare_and_in_the_words_of_its_task(trained: TrainedFilter) -> None:
    """An evaluation asks for what a question is about; a prompt brings the task's words along."""
    unseen = split_of(40, seed=1)
    retriever = RelevanceRetriever(BM25Retriever(), trained, ENCODER)
    profiles = [question.profile for question in unseen.questions]
    for texts in (
        [unseen.task.query(question.input) for question in unseen.questions],
        [question.input for question in unseen.questions],
    ):
        assert np.mean([bool(found) for found in retriever.retrieve_batch(profiles, texts, 1)]) >= 0.9


def test_a_record_is_not_its_own_neighbour_and_neither_are_its_copies() -> None:
    texts = ("a film with snow", "a film with snow", "snow at night", "a boat")
    vectors = ENCODER.encode(list(texts)).astype(np.float16)
    profile = Profile("ana", tuple(map(Record, texts)))
    alone = Profile("bob", profile.records[:1]), EmbeddedProfile(vectors[:1], vectors[0].astype(np.float32), texts[0])
    users = {"ana": (profile, EmbeddedProfile(vectors, vectors[3].astype(np.float32), texts[3])), "bob": alone}
    made = records_as_questions(users, "text", 100, np.random.default_rng(0))
    assert len(made) == 4  # a record without others is no question
    similarities = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    for row, question in enumerate(made):
        assert (question.user_id, question.embedded.text) == ("ana", texts[row])
        assert question.read.tolist() == [*vectors[row].astype(np.float32).tolist(), *style_vector(texts[row]).tolist()]
        others = [number for number in range(4) if texts[number] != texts[row]]
        assert question.nearest == pytest.approx(sorted(similarities[row, others], reverse=True), abs=1e-3)
    assert len(records_as_questions(users, "text", 2, np.random.default_rng(0))) == 2


def test_views_with_the_target_have_no_records_that_stand_as_questions() -> None:
    options = RelevanceTraining(questions=20, epochs=2, members=1, view="target+text")
    assert train_relevance(split_of(20), ENCODER, options)[1].records == 0


def test_the_same_seed_gives_the_same_filter() -> None:
    options = RelevanceTraining(questions=20, epochs=5, folds=2, members=1)
    first, _ = train_relevance(split_of(20), ENCODER, options)
    second, _ = train_relevance(split_of(20), ENCODER, options)
    assert all((first.weights[name] == second.weights[name]).all() for name in first.weights)
    assert first.threshold == second.threshold


def test_too_little_to_train_on() -> None:
    with pytest.raises(
        EvaluationError, match="at least 5 users with records and 10 general questions of each kind, was: 4"
    ):
        train_relevance(split_of(4), ENCODER)
    with pytest.raises(EvaluationError, match="was: 9 and 3"):
        train_relevance(split_of(9), ENCODER, general=["a", "b", "c"])
    with pytest.raises(EvaluationError, match="was: 9 and 3"):
        train_relevance(split_of(9), ENCODER, general={**GENERAL, "few": ["a", "b", "c"]})
    for option, value in (
        ("recall", 1.0),
        ("restraint", 0.0),
        ("epochs", 0),
        ("questions", 0),
        ("width", 0),
        ("folds", 1),
        ("members", 0),
        ("folds", 11),
        ("records", -1),
    ):
        with pytest.raises(InvalidOptionError, match=f"`{option}` must be"):
            RelevanceTraining(**{option: value})  # type: ignore[arg-type]


def test_general_questions_are_different() -> None:
    assert len(GENERAL_QUESTIONS) == len(set(GENERAL_QUESTIONS)) >= 120
    assert len(LONG_REQUESTS) == len(set(LONG_REQUESTS)) == 40


def test_an_answer_says_that_nothing_personal_was_put_in(tmp_path: Path, trained: TrainedFilter) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'p.db'}") as store:
        store.upsert(("ana", record) for record in split_of(1).questions[0].profile)
        retriever = RelevanceRetriever(BM25Retriever(), trained, ENCODER, store)
        llm = load_llm(lambda prompt: str(len(prompt)))
        personalizer = Personalizer(llm, store, [RecordsChannel(retriever, k=3)])
        own = personalizer.generate("ana", "the film has snow and a quiet plot, and music")
        assert not own.abstained
        assert own.records
        other = personalizer.generate("ana", "What is the capital of Australia?")
        assert other.abstained
        assert (other.records, other.tokens_added) == ((), 0)
        assert other.prompt == "What is the capital of Australia?"


def test_the_example_in_the_docs_runs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "relevance.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["retriever"], RelevanceRetriever)
