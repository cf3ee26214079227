"""A filter that may return nothing: its maps by hand, its training, its files, and what an answer says of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from persona.encoders.hashing import HashingEncoder
from persona.encoders.style import STYLE_DIM, STYLE_NAMES, style_vector
from persona.errors import EvaluationError, FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import Profile, Record
from persona.retrievers import BM25Retriever, RecencyRetriever, RelevanceRetriever
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.relevance.filters import (
    CONFIG,
    WEIGHTS,
    TrainedFilter,
    UntrainedFilter,
    load_filter,
    read_queries,
)
from persona.retrievers.relevance.general import GENERAL, GENERAL_QUESTIONS, LONG_REQUESTS
from persona.retrievers.relevance.pairs import records_as_questions
from persona.retrievers.relevance.training import (
    RelevanceTraining,
    _for_recall,
    _for_restraint,
    _mean,
    train_relevance,
)
from persona.retrievers.vectors.record_vectors import EmbeddedProfile
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint

ENCODER = HashingEncoder(dim=256)
FINGERPRINT = vector_fingerprint(ENCODER, "text")

FILM = re.findall(r"\w+", "snow thriller comedy family quiet loud war love train city actor camera plot ending music")


def review(draw: np.random.Generator) -> str:
    return "the film has " + " and ".join(draw.choice(FILM, 5, replace=False).tolist())


def split_of(users: int, seed: int = 0) -> LampSplit:
    draw = np.random.default_rng(seed)
    task = lamp_task("LaMP_3")
    questions = []
    for user in range(users):
        records = tuple(Record(review(draw), target="3", id=str(place)) for place in range(8))
        user_id = f"u{seed}-{user}"
        text = task.make_input(review(draw))
        questions.append(Question(user_id, user_id, text, Profile(user_id, records)))
    return LampSplit(task, tuple(questions), None, None)


class Plane:
    """Vectors by hand: angles in degrees."""

    dim = 2
    fingerprint = "plane"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32).reshape(-1, 2)


SHAPES = {"hidden.weight": (3, 2 + STYLE_DIM), "hidden.bias": (3,), "out.weight": (2, 3), "out.bias": (2,)}


def adapter(threshold: float = 0.5, fingerprint: str = "plane|view=text") -> TrainedFilter:
    """tanh of the query's second number, and of its points, decides: a = softplus(2 + t), b = -1 + 3 t."""
    style = np.zeros(STYLE_DIM)
    style[STYLE_NAMES.index("marks .")] = 1
    weights = {
        "hidden.weight": np.array([[0, 1, *style]], np.float32),
        "hidden.bias": np.zeros(1, np.float32),
        "out.weight": np.array([[1], [3]], np.float32),
        "out.bias": np.array([2, -1], np.float32),
    }
    return TrainedFilter(weights, threshold, fingerprint)


def placed(query: str, *records: str) -> EmbeddedProfile:
    return EmbeddedProfile(Plane().encode(records).astype(np.float16), Plane().encode([query])[0], query)


def read(query: str) -> NDArray[np.float32]:
    (seen,) = read_queries(Plane().encode([query]), [query])
    return np.asarray(seen)


def test_the_map_by_hand() -> None:
    for query in ("0", "30", "90", "30.0"):
        degrees = float(query)
        t = math.tanh(math.sin(math.radians(degrees)) + ("." in query))
        slope, offset = adapter().line(read(query))
        assert slope == pytest.approx(math.log1p(math.exp(2 + t)), abs=1e-5)
        assert offset == pytest.approx(-1 + 3 * t, abs=1e-5)
        (score,) = adapter().scores(placed(query, str(degrees + 60)))
        assert score == pytest.approx(1 / (1 + math.exp(-(slope * 0.5 + offset))), abs=1e-3)


def test_relevance_rises_with_similarity_for_any_weights() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        weights = {name: draw.normal(scale=2, size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        scores = TrainedFilter(weights, 0.5, "plane|view=text").scores(placed("0", *map(str, range(0, 180, 10))))
        assert (np.diff(scores) <= 0).all()  # the angle grows, the cosine falls


def test_the_order_of_the_base_stays_and_what_does_not_pass_goes() -> None:
    profile = Profile("ana", tuple(Record(str(angle), id=str(angle)) for angle in (0, 170, 20, 160, 40)))
    filtered = RelevanceRetriever(RecencyRetriever(), adapter(0.5), Plane(), judge="record")
    assert [one.record.id for one in filtered.retrieve(profile, "0", 5)] == ["40", "20", "0"]
    assert [one.record.id for one in filtered.retrieve(profile, "0", 2)] == ["40"]
    # Another query has another line: at 90 degrees b is high, and all pass that are not behind it.
    assert len(filtered.retrieve(profile, "90", 5)) == 5
    batch = filtered.retrieve_batch([profile, Profile("ben"), profile], ["0", "0", "90"], 5)
    assert [len(found) for found in batch] == [3, 0, 5]
    # The same vector, written another way.
    aside = Profile("ana", (Record("90", id="90"),))
    assert [len(found) for found in filtered.retrieve_batch([aside] * 2, ["0", "0.0"], 5)] == [0, 1]
    nothing = RelevanceRetriever(RecencyRetriever(), adapter(0.9999), Plane(), judge="record")
    assert nothing.retrieve(profile, "0", 5) == ()
    base = RecencyRetriever().retrieve(profile, "0", 5)
    assert set(filtered.retrieve(profile, "0", 5)) <= set(base)
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1"):
        filtered.retrieve(profile, "0", 0)


def test_a_question_is_judged_by_the_nearest_of_all_records() -> None:
    """What the base finds stays whole, or goes whole; the record that decides need not be among it."""
    profile = Profile("ana", tuple(Record(str(angle), id=str(angle)) for angle in (0, 170, 160)))
    filtered = RelevanceRetriever(RecencyRetriever(), adapter(0.5), Plane())
    assert [one.record.id for one in filtered.retrieve(profile, "0", 2)] == ["160", "170"]
    assert filtered.retrieve(profile, "0", 2) == RecencyRetriever().retrieve(profile, "0", 2)
    far = Profile("ben", profile.records[1:])
    batch = filtered.retrieve_batch([profile, far, Profile("cy")], ["0", "0", "0"], 5)
    assert [len(found) for found in batch] == [3, 0, 0]
    with pytest.raises(InvalidOptionError, match="`judge` must be one of question, record, was: 'answer'"):
        RelevanceRetriever(RecencyRetriever(), adapter(), Plane(), judge="answer")


def test_untrained_by_hand() -> None:
    """Background at 0, 60 and 90 degrees: its pairs have the cosines .5, 0 and .866."""
    judge = UntrainedFilter(Plane(), background=("0", "60", "90"))
    cosines = [0.5, 0.0, math.cos(math.radians(30))]
    expected = [(math.cos(math.radians(angle)) - np.mean(cosines)) / np.std(cosines) for angle in (0, 45, 90)]
    assert judge.scores(placed("0", "0", "45", "90")).tolist() == pytest.approx(expected, abs=5e-3)
    with pytest.raises(InvalidOptionError, match="at least 3 texts, was: 2"):
        UntrainedFilter(Plane(), background=("60", "90"))
    alike = UntrainedFilter(Plane(), background=("60", "60", "60"))
    assert np.isfinite(alike.scores(placed("0", "0", "90"))).all()


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
        train_relevance(split, ENCODER, options, general=[*own, *(one.input for one in split.questions)])


def test_the_mean_of_networks_is_one_network() -> None:
    draw = np.random.default_rng(0)
    members = [{name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(3)]
    query = read("30")

    def outputs(weights: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        hidden = np.tanh(weights["hidden.weight"] @ query + weights["hidden.bias"])
        return np.asarray(weights["out.weight"] @ hidden + weights["out.bias"])

    assert outputs(_mean(members)).tolist() == pytest.approx(np.mean([outputs(one) for one in members], axis=0), 1e-5)
    slope, offset = TrainedFilter(_mean(members), 0.5, "plane|view=text").line(query)
    assert slope == pytest.approx(math.log1p(math.exp(np.mean([outputs(one)[0] for one in members]))), 1e-5)
    assert offset == pytest.approx(np.mean([outputs(one)[1] for one in members]), 1e-5)


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
        own = retriever.retrieve_batch(profiles, [unseen.task.query(one.input) for one in unseen.questions], 4)
        assert np.mean([bool(found) for found in own]) >= least
        others = retriever.retrieve_batch(profiles, [general[place % 8] for place in range(40)], 4)
        assert np.mean([not found for found in others]) >= 0.9


def test_a_question_keeps_records_bare_and_in_the_words_of_its_task(trained: TrainedFilter) -> None:
    """An evaluation asks for what a question is about; a prompt brings the task's words along."""
    unseen = split_of(40, seed=1)
    retriever = RelevanceRetriever(BM25Retriever(), trained, ENCODER)
    profiles = [question.profile for question in unseen.questions]
    for texts in ([unseen.task.query(one.input) for one in unseen.questions], [one.input for one in unseen.questions]):
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
    for row, one in enumerate(made):
        assert (one.user_id, one.embedded.text) == ("ana", texts[row])
        assert one.read.tolist() == [*vectors[row].astype(np.float32).tolist(), *style_vector(texts[row]).tolist()]
        others = [number for number in range(4) if texts[number] != texts[row]]
        assert one.nearest == pytest.approx(sorted(similarities[row, others], reverse=True), abs=1e-3)
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


def test_save_and_load(trained: TrainedFilter, tmp_path: Path) -> None:
    trained.save(tmp_path / "filter")
    loaded = load_filter(tmp_path / "filter", ENCODER)
    assert isinstance(loaded, TrainedFilter)
    assert loaded.threshold == trained.threshold
    assert loaded.notes == trained.notes
    text = "a film with snow"
    query = EmbeddedProfile(ENCODER.encode(["snow", "a boat"]).astype(np.float16), ENCODER.encode([text])[0], text)
    assert loaded.scores(query).tolist() == trained.scores(query).tolist()
    assert load_filter(tmp_path / "filter", ENCODER, threshold=0.25).threshold == 0.25
    assert load_filter("untrained", ENCODER, threshold=1.0).threshold == 1.0
    with pytest.raises(FingerprintMismatchError, match="reads vectors of hashing"):
        load_filter(tmp_path / "filter", HashingEncoder(dim=64))
    with pytest.raises(FingerprintMismatchError):
        RelevanceRetriever(RecencyRetriever(), trained, Plane())


def test_broken_files_are_refused(trained: TrainedFilter, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"holds no relevance filter \(relevance.json is missing\)"):
        load_filter(tmp_path, ENCODER)
    trained.save(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    for broken in ("{", "[]", json.dumps({**config, "threshold": "high"}), json.dumps({"format": 2})):
        (tmp_path / CONFIG).write_text(broken)
        with pytest.raises(ModelLoadError, match="cannot be read"):
            load_filter(tmp_path, ENCODER)
    (tmp_path / CONFIG).write_text(json.dumps({**config, "format": 1}))
    with pytest.raises(ModelLoadError, match="is of format 1, this persona reads 2: train it again"):
        load_filter(tmp_path, ENCODER)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    (tmp_path / WEIGHTS).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_filter(tmp_path, ENCODER)


def test_weights_must_fit_together() -> None:
    good = adapter().weights
    with pytest.raises(InvalidOptionError, match="must fit together"):
        TrainedFilter({**good, "out.bias": np.zeros(3, np.float32)}, 0.5, "f")
    with pytest.raises(InvalidOptionError, match="must fit together"):
        TrainedFilter({"hidden.bias": np.zeros(1, np.float32)}, 0.5, "f")
    with pytest.raises(InvalidOptionError, match=f"more than {STYLE_DIM} numbers, was: 2"):
        TrainedFilter({**good, "hidden.weight": np.zeros((1, 2), np.float32)}, 0.5, "f")
    with pytest.raises(InvalidOptionError, match="must be finite"):
        TrainedFilter({**good, "out.bias": np.array([np.nan, 0], np.float32)}, 0.5, "f")


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
