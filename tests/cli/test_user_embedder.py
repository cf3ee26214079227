"""`persona train user-embedder`, and the commands that read what it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from examples.world.world import World
from persona.cli.app import app
from persona.lamp.tasks import LampSplit
from persona.readers import read_split
from persona.records import Record
from persona.soft_prompts.copying import FEATURES
from persona.store.profile_store import ProfileStore


def write_parquet(path: Path, vectors: dict[str, Any]) -> Path:
    pq.write_table(pa.table({"user_id": list(vectors), "vector": [list(each) for each in vectors.values()]}), path)
    return path


def score_shares(split: LampSplit) -> dict[str, NDArray[np.float32]]:
    """What a recommender may know of each user: the shares of the scores in the history."""
    vectors = {}
    for question in split.questions:
        counts = np.bincount([int(record.target or 0) for record in question.profile], minlength=6)[1:]
        vectors[question.user_id] = (counts / counts.sum()).astype(np.float32)
    return vectors


def test_the_command_line_copies_by_default(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return done.stdout

    def settings(*texts: str) -> list[str]:
        return [word for text in texts for word in ("--set", text)]

    World(0).write_lamp(tmp_path / "data", "LaMP_4", {"train": 12}, 6)
    start = [
        *("train", "user-embedder", str(tmp_path / "data"), "--llm", "tiny", "--encoder", "hashing"),
        *settings("steps=1", "ks=0", "leave_one_out=2"),
    ]
    quick = settings("warm_up=0", "n_tokens=2", "new_user_steps=0")
    assert "copy_loss" in run(*start, *quick, "--out", str(tmp_path / "copies"))
    copies = json.loads(run("show", "--trained", str(tmp_path / "copies"), "--json"))["copies"]
    assert set(copies) == set(FEATURES)
    assert any(copies.values())
    for name, options in (("not", [*quick, "--set", "copies=false"]), ("paper", ["--set", "mode=persona-plug"])):
        run(*start, *options, "--out", str(tmp_path / name))
        assert json.loads(run("show", "--trained", str(tmp_path / name), "--json"))["copies"] is None
    run(*start, *settings("mode=persona-plug", "copies=true"), "--out", str(tmp_path / "both"))
    assert json.loads(run("show", "--trained", str(tmp_path / "both"), "--json"))["copies"] is not None


def test_train_ask_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONA_ENCODER", "no/such")  # none is loaded
    World(0).write_lamp("data", "LaMP_3", {"train": 6, "dev": 4}, 4)
    vectors = {**score_shares(read_split("data", "train")), **score_shares(read_split("data", "dev"))}
    write_parquet(tmp_path / "users.parquet", vectors)
    write_parquet(tmp_path / "longer.parquet", {name: [*each, 0.0] for name, each in vectors.items()})
    asked = next(iter(read_split("data", "dev").questions))
    with ProfileStore("sqlite:///persona.db") as store:
        store.upsert((asked.user_id, record) for record in asked.profile)

    run: Callable[..., Any] = lambda *arguments: CliRunner().invoke(app, list(arguments))  # noqa: E731
    trained = (
        *("train", "user-embedder", "data", "--llm", "tiny", "--out", "embedder", "--json"),
        *("--set", "steps=4", "--set", "ks=0"),
    )
    given = ("--set", "user_vectors=users.parquet")
    paper = ("--set", "mode=persona-plug")
    result = run(*trained, *given)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "embedder" / "config.json").read_text())["mode"] == "vectors"
    with_vectors = ("--llm", "tiny", "--user-embedder", "embedder", *given)
    result = run("ask", asked.user_id, asked.input, *with_vectors, "--k", "0", "--max-new-tokens", "2", "--json")
    assert json.loads(result.stdout)["channels"] == ["soft_prompt"]
    result = run("eval", "lamp", "data", *with_vectors, "--methods", "none,user-embedder", "--k", "1", "--json")
    assert result.exit_code == 0, result.output
    rows = {(row["method"], row["control"]) for row in json.loads(result.stdout)["rows"]}
    assert rows >= {
        ("none", None),
        ("user-embedder", None),
        ("user-embedder", "other user"),
        ("user-embedder + bm25-lamp", None),
    }

    result = run("ask", "ana", "x", "--llm", "tiny", "--user-embedder", "embedder", "--k", "0", "--new-user")
    assert "reads a file of user vectors" in str(result.exception) + result.output
    monkeypatch.setenv("PERSONA_ENCODER", "hashing")
    for arguments, message in (
        (("ask", "ana", "x", "--llm", "tiny", *given), "user vectors are read by a user embedder: name it too"),
        (
            ("eval", "lamp", "data", "--llm", "tiny", "--methods", "user-embedder", "--user-embedder", "embedder"),
            "user vectors",
        ),
        (("eval", "lamp", "data", "--llm", "tiny", *given), "go with user embedders: name some"),
        ((*trained, *given, *paper), "leave `mode` out"),
        ((*trained, *given, "--encoder", "hashing"), "--encoder is for what compares"),
        ((*trained, *given, "--set", "heads=2"), "with `user_vectors` nothing reads `heads`"),
        ((*trained, *paper, "--set", "width=8", "--set", "warm_up=9"), "nothing reads `width`, `warm_up`"),
        ((*trained, *paper, "--set", "n_tokens=3"), "nothing reads `n_tokens`"),
        ((*trained, *paper, "--set", "warm_up=0"), "nothing reads `warm_up`"),
        ((*trained, *paper, "--set", "with_question=true"), "nothing reads `with_question`"),
        ((*trained, "--set", "user_vectors=none.parquet"), "there is no such file of user vectors"),
        (("ask", "ana", "x", *with_vectors[:-1], "user_vectors=longer.parquet", "--k", "0"), "'user-vectors:5'"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, arguments
        assert message in str(result.exception) + result.output


def test_a_user_as_concepts(tmp_path: Path) -> None:
    """Row 6: what a user is for an embedder with explicit concepts, and the weights of its views."""

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, list(words))

    World(0).write_lamp(tmp_path / "data", "LaMP_2", {"train": 12}, 6)
    (tmp_path / "bench.toml").write_text(
        "[embedder]\nviews = \"concepts(names=['comedy', 'film'])\"\npooling = 'heads + concepts'\nn_tokens = 2\n"
        "[training]\nsteps = 1\nwarm_up = 1\nks = [0]\nleave_one_out = 1\nnew_user_steps = 0\n"
    )
    out, store = str(tmp_path / "out"), f"sqlite:///{tmp_path / 'users.db'}"
    start = ("train", "user-embedder", str(tmp_path / "data"), "--llm", "tiny", "--encoder", "hashing", "--out")
    done = run(*start, out, "--config", str(tmp_path / "bench.toml"))
    assert re.search(r"gates +text [\d.]+, target [\d.]+, style [\d.]+, concepts [\d.]+", done.output)
    gates = json.loads(run("show", "--trained", out, "--json").stdout)["training"]["report"]["gates"]
    assert list(gates) == ["text", "target", "style", "concepts"]
    with ProfileStore(store) as users:
        users.upsert(
            ("ana", record) for record in (Record("A film.", target="comedy"), Record("A comedy."), Record("No."))
        )
    shown = run("show", "ana", "--explain", out, "--store", store)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["comedy", "film"]
    assert "2 records" in shown.stdout
    for words in (["show", "--explain", out], ["show", "ana", "--adapters", "--explain", out]):
        assert "--explain FOLDER is about a user" in str(run(*words, "--store", store).exception)
