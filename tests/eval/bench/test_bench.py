"""The bench: ideas side by side, with their controls and their costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from examples.world.world import World
from persona.encoders.load import load_encoder
from persona.errors import InvalidOptionError
from persona.eval.bench.ideas import BenchOptions, Idea, IdeaOptions
from persona.eval.bench.report import BenchReport
from persona.eval.bench.run import Bench
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.store.profile_store import ProfileStore

TRAINING = UserEmbedderTraining(warm_up=4, steps=2, batch=4, leave_one_out=1, evaluate_every=2, new_user_steps=0)
SMALL = UserEmbedderShape(width=16, heads=2, n_tokens=2, copies=False)
IDEAS = [
    Idea("default", shape=SMALL, training=TRAINING),
    Idea(
        "pruned",
        IdeaOptions(query_free=True, source="DNIS"),
        UserEmbedderShape(width=16, heads=2, n_tokens=2, copies=False, state="pruned(keep=4)"),
        TRAINING,
    ),
    Idea("bm25", IdeaOptions("bm25", k=2)),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    World(0).write_lamp(folder, "LaMP_2", {"train": 10, "dev": 6}, 5)
    return folder


@pytest.fixture(scope="module")
def bench(data: Path) -> Bench:
    llm = load_llm("tiny", overlong="truncate")
    assert isinstance(llm, TransformersLM)
    return Bench(data, llm, load_encoder("hashing"), BenchOptions(users=8, records=3))


@pytest.fixture(scope="module")
def done(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, Path]:
    out = tmp_path_factory.mktemp("out")
    return bench.run(IDEAS, out), out


def test_each_idea_stands_beside_its_controls(done: tuple[BenchReport, Path]) -> None:
    report, out = done
    names = [row.name for row in report.report.rows]
    for idea in ("default", "pruned"):
        assert {idea, f"{idea}, other user", f"{idea}, trained without user"} <= set(names)
    assert {"none", "bm25 k=2", "bm25 k=2, other user"} <= set(names)
    assert (report.baseline, report.metric) == ("default", "accuracy")
    default, pruned, bm25 = report.rows
    assert default.to_baseline is None
    assert pruned.to_baseline is not None
    assert pruned.row.gain is not None
    assert bm25.cost is None
    assert pruned.cost is not None
    assert pruned.cost.stored == 8  # four numbers in float16
    assert default.cost is not None
    assert default.cost.stored == 2 * 128 * 2
    assert pruned.cost.parameters == default.cost.parameters + 16
    cells = report.cells()
    assert [row[0] for row in cells] == ["idea", "none", "default", "pruned", "bm25"]
    assert {len(row) for row in cells} == {10}
    assert (out / "bench.md").read_text().count("\n") == 6


def test_two_ideas_of_one_name_are_refused_before_anything_is_trained(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="a name of its own, were: bm25, bm25"):
        bench.run([IDEAS[2], IDEAS[2]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_newest_records_are_shown(bench: Bench) -> None:
    assert {len(question.profile) for question in bench._benchmark.questions} == {3}


def test_a_run_goes_on_and_refuses_other_settings(
    bench: Bench, done: tuple[BenchReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, out = done
    monkeypatch.setattr("persona.eval.bench.run.train_user_embedder", None)  # would be called
    assert [row.row.scores for row in bench.run(IDEAS, out).rows] == [row.row.scores for row in report.rows]
    with pytest.raises(InvalidOptionError, match=r"default/0 holds a user embedder of other settings"):
        bench.run([Idea("default", shape=SMALL)], out)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IdeaOptions("bm52"), "`method` must be user-embedder, bm25"),
        (lambda: IdeaOptions("bm25"), "`k` must be at least 0, of a retriever at least 1, was: 0"),
        (lambda: Idea("none"), "an idea needs a name other than 'none'"),
        (lambda: BenchOptions(seeds=(0, 0)), "`seeds` must be different numbers"),
        (lambda: BenchOptions(users=1), "`users` must be at least 2, was: 1"),
    ],
)
def test_what_is_none(make: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        make()


def test_ideas_of_other_objectives_share_the_control(
    bench: Bench, done: tuple[BenchReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persona.eval.bench.run.train_user_embedder", None)  # would be called
    other, nowhere = replace(IDEAS[0], training=replace(TRAINING, objectives="noise")), cast(ProfileStore, None)
    shared = bench._without(other, 0, done[1], nowhere)
    assert shared is bench._without(IDEAS[0], 0, done[1], nowhere)
