"""Vectors of users that somebody already has: their files, what a user embedder makes of them, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from persona import Personalizer, ProfileStore, Record, UserEmbedder, load_llm
from persona.cli.app import app
from persona.encoders.embedding import embed_users
from persona.encoders.export import export_user_vectors
from persona.encoders.load import load_encoder
from persona.encoders.user_vectors import UserVectorFile
from persona.errors import DataFormatError, FingerprintMismatchError, InvalidOptionError
from persona.eval.world.world import World
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.readers import read_split
from persona.records import Profile
from persona.soft_prompts.channel import SoftPromptChannel, soft_prompts, store_soft_prompts
from persona.soft_prompts.examples import Examples, UserEmbedderTraining
from persona.soft_prompts.histories import HistoryBatch, UserVectorReader, history_reader
from persona.soft_prompts.training import train_user_embedder
from persona.store.vectors import vector_fingerprint


def write_npy(path: Path, vectors: dict[str, NDArray[Any]]) -> Path:
    np.save(path, np.stack(list(vectors.values())))
    path.with_suffix(".ids.jsonl").write_text("".join(json.dumps(name) + "\n" for name in vectors), encoding="utf-8")
    return path


def write_parquet(path: Path, vectors: dict[str, Any]) -> Path:
    pq.write_table(pa.table({"user_id": list(vectors), "vector": [list(each) for each in vectors.values()]}), path)
    return path


def taste(split: LampSplit) -> dict[str, NDArray[np.float32]]:
    """A recommender's idea of each user: the shares of the scores in the history, and nothing else."""
    vectors = {}
    for question in split.questions:
        counts = np.bincount([int(record.target or 0) for record in question.profile], minlength=6)[1:]
        vectors[question.user_id] = (counts / counts.sum()).astype(np.float32)
    return vectors


@pytest.fixture(scope="module")
def llm() -> Any:
    return load_llm("tiny", overlong="truncate")


# -------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_what_is_exported_can_be_read(ending: str, tmp_path: Path) -> None:
    names = ["ana", "../../x", "bën\n", "日本"]
    encoder = load_encoder("hashing")
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((name, Record(f"A text by {number}.")) for number, name in enumerate(names))
        embed_users(store, encoder)
        fingerprint = vector_fingerprint(encoder, "text")
        export_user_vectors(store, fingerprint, tmp_path / f"users{ending}")
        matrices = {name: store.vectors(name, fingerprint) for name in names}
    read = UserVectorFile(tmp_path / f"users{ending}")
    assert len(read) == len(names)
    assert read.dim == encoder.dim
    assert read.fingerprint == (fingerprint if ending == ".parquet" else f"user-vectors:{encoder.dim}")
    for name in names:
        found, held = read.of(name), matrices[name]
        assert found is not None
        assert held is not None
        np.testing.assert_allclose(found, held.matrix.astype(np.float32)[0], atol=2e-3)
    assert read.of("nobody") is None


def _bad(path: Path, kind: str) -> Path:
    good = {"ana": np.ones(3, np.float32), "ben": np.zeros(3, np.float32)}
    if kind == "ending":
        return path / "users.csv"
    if kind in ("nan", "large"):
        return write_npy(path / "u.npy", {**good, "c": np.array([1, np.nan if kind == "nan" else 1e6, 0], np.float32)})
    if kind == "no rows":
        np.save(path / "u.npy", np.zeros((0, 3), np.float32))
        (path / "u.ids.jsonl").touch()
    if kind == "integers":
        return write_npy(path / "u.npy", {"ana": np.ones(3, np.int64)})
    if kind == "pickle":
        np.save(path / "u.npy", np.array([object()], object), allow_pickle=True)
    if kind == "text":
        (path / "u.npy").write_text("<html>")
    if kind == "few ids":
        write_npy(path / "u.npy", good)
        (path / "u.ids.jsonl").write_text('"ana"\n')
    if kind == "twice":
        write_npy(path / "u.npy", good)
        (path / "u.ids.jsonl").write_text('"ana"\n"ana"\n')
    if kind == "no id":
        write_npy(path / "u.npy", good)
        (path / "u.ids.jsonl").write_text('"ana"\n""\n')
    if kind == "no JSON":
        write_npy(path / "u.npy", good)
        (path / "u.ids.jsonl").write_text('"ana"\nben\n')
    if kind == "lengths":
        return write_parquet(path / "u.parquet", {"ana": [1.0, 2.0], "ben": [1.0]})
    if kind == "strings":
        return write_parquet(path / "u.parquet", {"ana": ["1", "2"]})
    if kind == "columns":
        pq.write_table(pa.table({"user": ["ana"], "vector": [[1.0]]}), path / "u.parquet")
        return path / "u.parquet"
    if kind == "no parquet":
        (path / "u.parquet").write_text("{}")
        return path / "u.parquet"
    return path / "u.npy"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ending", r"from a \.parquet or \.npy file"),
        ("nan", "row 2: numbers must be finite"),
        ("large", "row 2: numbers must be finite and within 65504"),
        ("no rows", "at least one user"),
        ("integers", "must be floats in the shape"),
        ("pickle", "not a NumPy file of numbers"),
        ("text", "not a NumPy file of numbers"),
        ("few ids", r"u\.npy has 2 rows, its ids are 1"),
        ("twice", "row 1: each user may appear once: 'ana'"),
        ("no id", "row 1: a user id"),
        ("no JSON", "line 2: a line must be a user id as a JSON string"),
        ("lengths", "lists of one length, were: 1, 2"),
        ("strings", "vectors must be of numbers"),
        ("columns", "columns user_id and vector"),
        ("no parquet", "not a Parquet file"),
    ],
)
def test_bad_files_are_one_clear_error(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=message):
        UserVectorFile(_bad(tmp_path, kind))


# ---------------------------------------------------------------------------------------------- what is made of them


def test_one_linear_map_by_hand(llm: Any, tmp_path: Path) -> None:
    vectors = {"ana": np.arange(5, dtype=np.float32), "ben": np.ones(5, dtype=np.float32)}
    file = UserVectorFile(write_npy(tmp_path / "u.npy", vectors))
    embedder = UserEmbedder.from_vectors(llm, dim=5, vectors=file.fingerprint, n_tokens=3)
    torch.nn.init.normal_(embedder.pooling.map.weight)  # type: ignore[union-attr, arg-type]
    profiles = [Profile("ana", (Record("a"), Record("b"))), Profile("ben"), Profile("nobody", (Record("c"),))]
    histories = UserVectorReader(embedder.config, file).read(profiles)
    assert [len(each) for each in histories] == [2, 1, 0]  # without records a vector still is one
    batch = HistoryBatch.of(histories, embedder.config)
    found = embedder(batch.keys, batch.values, batch.mask)
    linear = embedder.pooling.map.weight @ torch.tensor(vectors["ana"])  # type: ignore[union-attr, operator]
    expected = embedder.config.embedding_scale * (embedder.instruction + linear.view(3, -1))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2], embedder.config.embedding_scale * embedder.instruction)


def test_records_and_vectors_are_not_mixed_up(llm: Any, tmp_path: Path) -> None:
    file = UserVectorFile(write_npy(tmp_path / "u.npy", {"ana": np.ones(5, np.float32)}))
    encoder = load_encoder("hashing")
    of_vectors = UserEmbedder.from_vectors(llm, dim=5, vectors=file.fingerprint)
    of_records = UserEmbedder.for_llm(llm, encoder_dim=encoder.dim, encoder=encoder.fingerprint)
    with pytest.raises(InvalidOptionError, match="mode 'vectors' reads a file of user vectors"):
        SoftPromptChannel(of_vectors, llm, encoder)
    with pytest.raises(InvalidOptionError, match="mode 'attention' reads records"):
        SoftPromptChannel(of_records, llm, file)
    with (
        ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store,
        pytest.raises(InvalidOptionError, match="reads a file of user vectors"),
    ):
        store_soft_prompts(store, of_vectors, encoder)
    longer = UserVectorFile(write_npy(tmp_path / "v.npy", {"ana": np.ones(6, np.float32)}))
    with pytest.raises(FingerprintMismatchError, match="user vectors it was trained with, 'user-vectors:5'"):
        SoftPromptChannel(of_vectors, llm, longer)


def test_every_user_is_seen_in_training_as_when_served(llm: Any, tmp_path: Path) -> None:
    questions = tuple(
        Question(name, name, "review: Fine.", Profile(name, records))
        for name, records in {
            "ana": (Record("One.", "1"), Record("Two.", "2")),
            "no records": (),
            "no vector": (Record("Three.", "3"),),
            "ben": (Record("Four.", "4"),),
        }.items()
    )
    split = LampSplit(lamp_task("LaMP_3"), questions, {question.id: "3" for question in questions}, None)
    file = UserVectorFile(write_npy(tmp_path / "u.npy", dict.fromkeys(("ana", "no records", "ben"), np.ones(5))))
    embedder = UserEmbedder.from_vectors(llm, dim=5, vectors=file.fingerprint)
    reader = UserVectorReader(embedder.config, file)
    options = UserEmbedderTraining(steps=2, ks=(0,), leave_one_out=2, dev_users=0.25)
    shown: dict[str, set[bool]] = {}
    for seed in (0, 1):  # another user is kept aside
        options = replace(options, seed=seed)
        examples = Examples(split, reader, options)
        for example in (*examples.train, *examples.dev):
            shown.setdefault(example.user_id, set()).add(len(examples.shown(example, options)) > 0)
        train_user_embedder(embedder, split, llm, reader, options, out=tmp_path / f"out {seed}")
    assert shown == {"ana": {True}, "no records": {True}, "no vector": {False}, "ben": {True}}


def test_a_vector_without_records_is_personal_all_the_same(llm: Any, tmp_path: Path) -> None:
    file = UserVectorFile(write_npy(tmp_path / "u.npy", {"ana": np.ones(5, np.float32)}))
    embedder = UserEmbedder.from_vectors(llm, dim=5, vectors=file.fingerprint)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ben", Record("A record.", "3"))])
        personalizer = Personalizer(llm, store, k=0, channels=(SoftPromptChannel(embedder, llm, file),))
        found = {user: personalizer.generate(user, "review: Fine.") for user in ("ana", "ben", "nobody")}
    assert {user: one.channels for user, one in found.items()} == {"ana": ("soft_prompt",), "ben": (), "nobody": ()}
    assert {user: one.abstained for user, one in found.items()} == {"ana": False, "ben": True, "nobody": True}


def test_a_neutral_prompt_is_nobodys_where_it_is_stored(llm: Any, tmp_path: Path) -> None:
    file = UserVectorFile(write_npy(tmp_path / "u.npy", {"ana": np.ones(5, np.float32)}))
    embedder = UserEmbedder.from_vectors(llm, dim=5, vectors=file.fingerprint)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("One.", "3")), ("ben", Record("Two.", "3"))])
        assert store_soft_prompts(store, embedder, file) == 1  # type: ignore[arg-type]
        channel = SoftPromptChannel(embedder, llm, file, store, query_free=True)
        personalizer = Personalizer(llm, store, k=0, channels=(channel,))
        found = {user: personalizer.generate(user, "review: Fine.").channels for user in ("ana", "ben")}
    assert found == {"ana": ("soft_prompt",), "ben": ()}


def test_a_run_over_other_vectors_is_another_run(llm: Any, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path, "LaMP_3", {"train": 6}, 4)
    split = read_split(tmp_path, "train")

    def run(vectors: dict[str, NDArray[Any]], stop_at: int) -> None:
        file = UserVectorFile(write_npy(tmp_path / "u.npy", vectors))
        embedder = UserEmbedder.from_vectors(llm, dim=file.dim, vectors=file.fingerprint)

        def stop(done: int, *_: object) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        options = UserEmbedderTraining(steps=4, ks=(0,), evaluate_every=2)
        train_user_embedder(
            embedder, split, llm, UserVectorReader(embedder.config, file), options, out=tmp_path / "out", progress=stop
        )

    with pytest.raises(KeyboardInterrupt):
        run(taste(split), 3)
    with pytest.raises(InvalidOptionError, match="the checkpoint of a run with other options, data or models"):
        run({name: vector[::-1] for name, vector in taste(split).items()}, 0)
    run(taste(split), 0)


@pytest.mark.slow
def test_training_learns_to_listen_to_them(llm: Any, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path, "LaMP_3", {"train": 60}, 12)
    split = read_split(tmp_path, "train")
    file = UserVectorFile(write_npy(tmp_path / "u.npy", taste(split)))
    embedder = UserEmbedder.from_vectors(llm, dim=file.dim, vectors=file.fingerprint)
    options = UserEmbedderTraining(steps=120, ks=(0,), learning_rate=1e-2, evaluate_every=30, leave_one_out=4)
    report = train_user_embedder(
        embedder, split, llm, history_reader(embedder.config, file), options, out=tmp_path / "out"
    )
    assert report.dev_loss < 0.85 * report.dev_loss_before
    users = [Profile(question.user_id) for question in split.questions[:2]]
    first, second = soft_prompts(embedder, UserVectorReader(embedder.config, file).read(users))
    assert (first - second).abs().max() > 1e-2


# --------------------------------------------------------------------------------------------------- the command line


def test_train_ask_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONA_ENCODER", "no/such")  # none is loaded
    World(0).write_lamp("data", "LaMP_3", {"train": 6, "dev": 4}, 4)
    vectors = {**taste(read_split("data", "train")), **taste(read_split("data", "dev"))}
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
    plug = ("--set", "mode=persona-plug")
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

    result = run("ask", "ana", "x", "--llm", "no/llm", "--user-embedder", "embedder", "--k", "0")
    assert "reads a file of user vectors" in str(result.exception) + result.output
    monkeypatch.setenv("PERSONA_ENCODER", "hashing")
    for arguments, message in (
        (
            ("ask", "ana", "x", "--llm", "tiny", *given),
            "user vectors are read by a user embedder: name it too",
        ),
        (
            ("eval", "lamp", "data", "--llm", "tiny", "--methods", "user-embedder", "--user-embedder", "embedder"),
            "user vectors",
        ),
        (
            ("eval", "lamp", "data", "--llm", "tiny", *given),
            "name one with --user-embedder",
        ),
        ((*trained, *given, *plug), "leave `mode` out"),
        ((*trained, *given, "--encoder", "hashing"), "--encoder is for what compares"),
        ((*trained, *given, "--set", "heads=2"), "with `user_vectors` nothing reads `heads`"),
        ((*trained, *plug, "--set", "width=8", "--set", "warm_up=9"), "nothing reads `width`, `warm_up`"),
        ((*trained, *plug, "--set", "n_tokens=3"), "nothing reads `n_tokens`"),
        ((*trained, *plug, "--set", "warm_up=0"), "nothing reads `warm_up`"),
        ((*trained, *plug, "--set", "with_question=true"), "nothing reads `with_question`"),
        ((*trained, "--set", "user_vectors=none.parquet"), "there is no such file of user vectors"),
        (("ask", "ana", "x", *with_vectors[:-1], "user_vectors=longer.parquet", "--k", "0"), "'user-vectors:5'"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, arguments
        assert message in str(result.exception) + result.output
