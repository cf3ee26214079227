"""Rows of user embedders in an evaluation, and their controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona.encoders.load import load_encoder
from persona.errors import InvalidOptionError
from persona.eval.lamp import run_lamp
from persona.eval.lamp_config import EMPTY_HISTORY, OTHER_USER, WITHOUT_USER, LampConfig
from persona.eval.soft_prompts import UserEmbedders
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.records import Profile, Record
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.training.options import UserEmbedderTraining
from tests.soft_prompts.splits import fresh, train, world_split

SMALL = UserEmbedderTraining(
    warm_up=4, steps=6, batch=4, ks=(0, 1), leave_one_out=2, evaluate_every=2, validation_users=0.25, new_user_steps=4
)


@pytest.fixture(scope="module")
def llm() -> Any:
    return load_llm("tiny", overlong="truncate")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("hashing")


def trained(
    llm: Any, encoder: Any, out: Path, options: UserEmbedderTraining, task: str = "LaMP_3", **shape: Any
) -> UserEmbedder:
    embedder = fresh(llm, encoder, **shape)
    train(embedder, world_split(task, 8), llm, encoder, options, out)
    return embedder


def test_rows_with_soft_prompts_stand_beside_their_controls(llm: Any, encoder: Any, tmp_path: Path) -> None:
    embedders = UserEmbedders(
        tuple(trained(llm, encoder, tmp_path / f"{seed}", replace(SMALL, seed=seed)) for seed in (0, 1)),
        tuple(
            trained(llm, encoder, tmp_path / f"w{seed}", replace(SMALL, seed=seed, without_user=True))
            for seed in (0, 1)
        ),
    )
    config = LampConfig(methods=("none", "user-embedder"), ks=(1,), encoder="hashing", resamples=50)
    split = world_split("LaMP_3", 5, "dev")
    report = run_lamp(split, llm, config, user_embedders=embedders, out=tmp_path / "out")
    rows = {row.name: row for row in report.rows}
    assert [name for name in rows if name.startswith("user-embedder")] == [
        "user-embedder",
        "user-embedder + bm25-lamp k=1",
        f"user-embedder, {OTHER_USER}",
        f"user-embedder + bm25-lamp k=1, {OTHER_USER}",
        f"user-embedder, {EMPTY_HISTORY}",
        f"user-embedder + bm25-lamp k=1, {EMPTY_HISTORY}",
        f"user-embedder, {WITHOUT_USER}",
        f"user-embedder + bm25-lamp k=1, {WITHOUT_USER}",
    ]
    assert len(rows["user-embedder"].runs) == 2
    assert len(rows["none"].runs) == 1
    assert rows["user-embedder"].gain is not None
    assert rows["user-embedder"].difference is not None
    assert rows[f"user-embedder, {WITHOUT_USER}"].gain is None
    assert rows["user-embedder"].tokens_added == 2
    assert 1 <= rows["user-embedder"].attention_perplexity <= 6
    values = [rows["user-embedder"].scores["MAE"].value, rows[f"user-embedder, {WITHOUT_USER}"].scores["MAE"].value]
    assert rows["user-embedder"].gain.difference == pytest.approx(values[0] - values[1])
    nobody = rows[f"user-embedder, {EMPTY_HISTORY}"]
    assert nobody.gain is not None
    assert nobody.attention_perplexity == 0
    other = rows[f"user-embedder, {OTHER_USER}"]
    assert other.to_other_user is None
    assert rows["user-embedder"].to_other_user is not None
    assert rows["user-embedder"].to_other_user.difference == pytest.approx(values[0] - other.scores["MAE"].value)
    assert sorted(file.name for file in (tmp_path / "out" / "predictions").glob("user-embedder_run*")) == [
        "user-embedder_run1.json",
        "user-embedder_run2.json",
    ]
    again = run_lamp(split, llm, config, user_embedders=embedders, out=tmp_path / "out")
    assert again.as_dict()["rows"] == report.as_dict()["rows"]


def test_a_soft_prompt_and_lifted_words_in_one_row(llama_folder: Path, encoder: Any) -> None:
    llm: Any = load_llm(llama_folder)
    embedders = UserEmbedders((fresh(llm, encoder),), (fresh(llm, encoder, seed=1),))
    task, letters = lamp_task("LaMP_5"), "zqxj"
    questions = tuple(
        Question(letter, letter, task.make_input("x"), Profile(letter, (Record("x", target=letter),)))
        for letter in letters
    )
    split = LampSplit(task, questions, {letter: letter * 4 for letter in letters}, None)
    config = LampConfig(
        methods=("user-embedder+vocabulary",),
        ks=(1,),
        vocabulary=500.0,
        encoder="hashing",
        max_new_tokens=4,
        resamples=50,
    )
    rows = {row.name: row for row in run_lamp(split, llm, config, user_embedders=embedders).rows}
    assert [name for name in rows if name.startswith("user-embedder")] == [
        "user-embedder+vocabulary",
        "user-embedder+vocabulary + bm25-lamp k=1",
        f"user-embedder+vocabulary, {OTHER_USER}",
        f"user-embedder+vocabulary + bm25-lamp k=1, {OTHER_USER}",
        f"user-embedder, {EMPTY_HISTORY}",
        f"user-embedder + bm25-lamp k=1, {EMPTY_HISTORY}",
        f"user-embedder, {WITHOUT_USER}",
        f"user-embedder + bm25-lamp k=1, {WITHOUT_USER}",
    ]
    row, other = rows["user-embedder+vocabulary"], rows[f"user-embedder+vocabulary, {OTHER_USER}"]
    assert dict(row.predictions) == {letter: letter * 4 for letter in letters}
    assert all(
        other.predictions[letter] != letter * 4 and other.predictions[letter][0] in letters for letter in letters
    )
    assert row.tokens_added == 2
    # Nobody's words are nobody's: what the pair wins over the training without user is all that the user adds.
    without = rows[f"user-embedder, {WITHOUT_USER}"].scores["rouge-1"].value
    assert row.gain is not None
    assert row.gain.difference == pytest.approx(1 - without)
    with pytest.raises(InvalidOptionError, match=r"method 'user-embedder\+vocabulary' needs a finite weight above 0"):
        LampConfig(methods=("user-embedder+vocabulary",))
    with pytest.raises(InvalidOptionError, match="needs a user embedder: name its folder"):
        run_lamp(split, llm, config)


def test_the_method_needs_an_embedder_and_a_model_that_takes_soft_prompts(llm: Any, encoder: Any) -> None:
    config = LampConfig(methods=("user-embedder",), encoder="hashing")
    with pytest.raises(InvalidOptionError, match="needs a user embedder: name its folder"):
        run_lamp(world_split("LaMP_3", 3, "dev"), llm, config)
    with pytest.raises(InvalidOptionError, match="needs an LLM that takes soft prompts"):
        run_lamp(
            world_split("LaMP_3", 3, "dev"),
            load_llm(str.upper),
            config,
            user_embedders=UserEmbedders((fresh(llm, encoder),)),
        )
    with pytest.raises(
        InvalidOptionError, match="as many user embedders trained without the user as with it, 1, were: 2"
    ):
        UserEmbedders((fresh(llm, encoder),), (fresh(llm, encoder), fresh(llm, encoder)))
    asking = fresh(llm, encoder, with_question=True)
    with pytest.raises(InvalidOptionError, match="and their controls, must differ in their seed only"):
        UserEmbedders((asking,), (fresh(llm, encoder),))


def test_rows_of_an_embedder_that_copies_and_their_controls(llm: Any, encoder: Any, tmp_path: Path) -> None:
    embedder, control = (
        trained(llm, encoder, tmp_path / f"{without}", replace(SMALL, without_user=without), copies=True, task="LaMP_4")
        for without in (False, True)
    )
    config = LampConfig(methods=("user-embedder",), ks=(1,), beside="bm25-lamp", encoder="hashing")
    report = run_lamp(
        world_split("LaMP_4", 5, "dev"),
        llm,
        config,
        user_embedders=UserEmbedders((embedder,), (control,)),
        out=tmp_path / "run",
    )
    rows = {(row.method, row.control) for row in report.rows}
    assert {
        ("user-embedder", None),
        ("user-embedder", OTHER_USER),
        ("user-embedder", EMPTY_HISTORY),
        ("user-embedder", WITHOUT_USER),
    } <= rows
    again = run_lamp(
        world_split("LaMP_4", 5, "dev"),
        llm,
        config,
        user_embedders=UserEmbedders((embedder,), (control,)),
        out=tmp_path / "run",
    )
    assert [row.scores for row in again.rows] == [row.scores for row in report.rows]
    plain = UserEmbedder.for_llm(llm, encoder, n_tokens=2)
    with pytest.raises(InvalidOptionError, match="whether they copy"):
        UserEmbedders((embedder,), (plain,))
    both = replace(config, methods=("user-embedder+vocabulary",), vocabulary=1.0)
    with pytest.raises(InvalidOptionError, match="leave that method out"):
        run_lamp(world_split("LaMP_4", 5, "dev"), llm, both, user_embedders=UserEmbedders((embedder,)))
