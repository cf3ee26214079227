"""Filters by hand: their maps, their files, and what a retriever makes of their judgement."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from persona.encoders.style import STYLE_DIM
from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.records import Profile, Record
from persona.retrievers import RecencyRetriever, RelevanceRetriever
from persona.retrievers.relevance.filters import TrainedFilter, UntrainedFilter, load_filter
from tests.retrievers.cases import ids
from tests.retrievers.relevance.cases import ENCODER, SHAPES, Plane, embedded, hand_made, read_query


def test_the_map_by_hand() -> None:
    for query in ("0", "30", "90", "30.0"):
        degrees = float(query)
        t = math.tanh(math.sin(math.radians(degrees)) + ("." in query))
        slope, offset = hand_made().line(read_query(query))
        assert slope == pytest.approx(math.log1p(math.exp(2 + t)), abs=1e-5)
        assert offset == pytest.approx(-1 + 3 * t, abs=1e-5)
        (score,) = hand_made().scores(embedded(query, str(degrees + 60)))
        assert score == pytest.approx(1 / (1 + math.exp(-(slope * 0.5 + offset))), abs=1e-3)


def test_relevance_rises_with_similarity_for_any_weights() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        weights = {name: draw.normal(scale=2, size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        scores = TrainedFilter(weights, 0.5, "plane|view=text").scores(embedded("0", *map(str, range(0, 180, 10))))
        assert (np.diff(scores) <= 0).all()  # the angle grows, the cosine falls


def test_the_order_of_the_base_stays_and_what_does_not_pass_goes() -> None:
    """Row 54 of docs/papers.md: the map rises with the cosine, so the order stays, and no record at all may pass."""
    profile = Profile("ana", tuple(Record(str(angle), id=str(angle)) for angle in (0, 170, 20, 160, 40)))
    filtered = RelevanceRetriever(RecencyRetriever(), hand_made(0.5), Plane(), judge="record")
    assert ids(filtered.retrieve(profile, "0", 5)) == ["40", "20", "0"]
    assert ids(filtered.retrieve(profile, "0", 2)) == ["40"]
    # Another query has another line: at 90 degrees b is high, and all pass that are not behind it.
    assert len(filtered.retrieve(profile, "90", 5)) == 5
    batch = filtered.retrieve_batch([profile, Profile("ben"), profile], ["0", "0", "90"], 5)
    assert [len(found) for found in batch] == [3, 0, 5]
    # The same vector, written another way.
    aside = Profile("ana", (Record("90", id="90"),))
    assert [len(found) for found in filtered.retrieve_batch([aside] * 2, ["0", "0.0"], 5)] == [0, 1]
    nothing = RelevanceRetriever(RecencyRetriever(), hand_made(0.9999), Plane(), judge="record")
    assert nothing.retrieve(profile, "0", 5) == ()
    base = RecencyRetriever().retrieve(profile, "0", 5)
    assert set(filtered.retrieve(profile, "0", 5)) <= set(base)
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1"):
        filtered.retrieve(profile, "0", 0)


def test_a_question_is_judged_by_the_nearest_of_all_records() -> None:
    """What the base finds stays whole, or goes whole; the record that decides need not be among it."""
    profile = Profile("ana", tuple(Record(str(angle), id=str(angle)) for angle in (0, 170, 160)))
    filtered = RelevanceRetriever(RecencyRetriever(), hand_made(0.5), Plane())
    assert ids(filtered.retrieve(profile, "0", 2)) == ["160", "170"]
    assert filtered.retrieve(profile, "0", 2) == RecencyRetriever().retrieve(profile, "0", 2)
    far = Profile("ben", profile.records[1:])
    batch = filtered.retrieve_batch([profile, far, Profile("cy")], ["0", "0", "0"], 5)
    assert [len(found) for found in batch] == [3, 0, 0]
    with pytest.raises(InvalidOptionError, match="`judge` must be one of question, record, was: 'answer'"):
        RelevanceRetriever(RecencyRetriever(), hand_made(), Plane(), judge="answer")


def test_untrained_by_hand() -> None:
    """Background at 0, 60 and 90 degrees: its pairs have the cosines .5, 0 and .866."""
    judge = UntrainedFilter(Plane(), background=("0", "60", "90"))
    cosines = [0.5, 0.0, math.cos(math.radians(30))]
    expected = [(math.cos(math.radians(angle)) - np.mean(cosines)) / np.std(cosines) for angle in (0, 45, 90)]
    assert judge.scores(embedded("0", "0", "45", "90")).tolist() == pytest.approx(expected, abs=5e-3)
    with pytest.raises(InvalidOptionError, match="at least 3 texts, was: 2"):
        UntrainedFilter(Plane(), background=("60", "90"))
    alike = UntrainedFilter(Plane(), background=("60", "60", "60"))
    assert np.isfinite(alike.scores(embedded("0", "0", "90"))).all()


def test_save_and_load(tmp_path: Path) -> None:
    made = hand_made()
    made.save(tmp_path / "filter")
    loaded = load_filter(tmp_path / "filter", Plane())
    assert isinstance(loaded, TrainedFilter)
    assert (loaded.threshold, loaded.notes) == (made.threshold, made.notes)
    profile = embedded("30.0", "0", "45", "90")
    assert loaded.scores(profile).tolist() == made.scores(profile).tolist()
    assert load_filter(tmp_path / "filter", Plane(), threshold=0.25).threshold == 0.25
    assert load_filter("untrained", ENCODER, threshold=1.0).threshold == 1.0
    with pytest.raises(FingerprintMismatchError, match="was made for plane"):
        load_filter(tmp_path / "filter", ENCODER)
    with pytest.raises(FingerprintMismatchError):
        RelevanceRetriever(RecencyRetriever(), made, ENCODER)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no relevance filter: make one"):
        load_filter(tmp_path, ENCODER)
    hand_made().save(tmp_path)
    config = json.loads((tmp_path / "relevance.json").read_text())
    for broken in ("{", "[]", json.dumps({**config, "threshold": "high"}), json.dumps({"format": 2})):
        (tmp_path / "relevance.json").write_text(broken)
        with pytest.raises(ModelLoadError, match="holds no relevance filter"):
            load_filter(tmp_path, ENCODER)
    (tmp_path / "relevance.json").write_text(json.dumps({**config, "format": 1}))
    with pytest.raises(ModelLoadError, match="is of format 1, this persona reads 2"):
        load_filter(tmp_path, ENCODER)
    (tmp_path / "relevance.json").write_text(json.dumps(config))
    (tmp_path / "relevance.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelLoadError, match="holds no relevance filter"):
        load_filter(tmp_path, ENCODER)


def test_weights_must_fit_together() -> None:
    good = hand_made().weights
    with pytest.raises(InvalidOptionError, match="must fit together"):
        TrainedFilter({**good, "out.bias": np.zeros(3, np.float32)}, 0.5, "f")
    with pytest.raises(InvalidOptionError, match="must fit together"):
        TrainedFilter({"hidden.bias": np.zeros(1, np.float32)}, 0.5, "f")
    with pytest.raises(InvalidOptionError, match=f"more than {STYLE_DIM} numbers, was: 2"):
        TrainedFilter({**good, "hidden.weight": np.zeros((1, 2), np.float32)}, 0.5, "f")
    with pytest.raises(InvalidOptionError, match="must be finite"):
        TrainedFilter({**good, "out.bias": np.array([np.nan, 0], np.float32)}, 0.5, "f")
