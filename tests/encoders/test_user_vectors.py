"""Files of user vectors: exported whole or not at all, read back, and refused in one clear line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from persona.encoders.embedding import embed_users
from persona.encoders.load import HashingEncoder, load_encoder
from persona.encoders.user_vectors import UserVectorFile, export_user_vectors
from persona.errors import DataFormatError, InvalidOptionError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors, vector_fingerprint


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path}/persona.db") as opened:
        yield opened


def histories(users: int) -> list[tuple[str, Record]]:
    return [
        (f"user {user}", Record(f"film {user * number % 7} of week {number}", id=f"r{number}"))
        for user in range(users)
        for number in range(1 + user % 5)
    ]


def test_a_user_is_the_mean_of_the_records(store: ProfileStore, tmp_path: Path) -> None:
    store.upsert([*histories(30), ("tomás\n雪", Record("a fine film"))])
    encoder = HashingEncoder(16)
    fingerprint = embed_users(store, encoder).fingerprint
    store.upsert([("new", Record("not embedded yet"))])
    path = tmp_path / "users.parquet"
    assert export_user_vectors(store, fingerprint, path) == 31

    table = pq.read_table(path)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("user_id", "string"),
        ("vector", "list<element: float>"),
    ]
    assert table.schema.metadata[b"persona.fingerprint"].decode() == fingerprint
    assert table["user_id"].to_pylist() == [name for name in store.user_ids() if name != "new"]
    for user_id, vector in zip(table["user_id"].to_pylist(), table["vector"].to_pylist(), strict=True):
        stored = store.vectors(user_id, vector_fingerprint(encoder, "text"))
        assert stored is not None
        mean = stored.matrix.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_numpy_holds_the_same_and_the_ids_beside_it(store: ProfileStore, tmp_path: Path) -> None:
    store.upsert([*histories(30), ("tomás\n雪", Record("a fine film"))])
    fingerprint = embed_users(store, HashingEncoder(16)).fingerprint
    assert export_user_vectors(store, fingerprint, tmp_path / "users.npy") == 31
    export_user_vectors(store, fingerprint, tmp_path / "users.parquet")

    table = pq.read_table(tmp_path / "users.parquet")
    matrix = np.load(tmp_path / "users.npy", allow_pickle=False)
    assert (matrix.dtype, matrix.shape) == (np.float32, (31, 16))
    assert matrix.tolist() == table["vector"].to_pylist()
    lines = (tmp_path / "users.ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == table["user_id"].to_pylist()


def test_it_is_written_in_pieces(store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona.encoders.user_vectors._WRITTEN_AT_ONCE", 4)
    store.upsert(histories(10))
    fingerprint = embed_users(store, HashingEncoder(16)).fingerprint
    assert export_user_vectors(store, fingerprint, tmp_path / "users.parquet") == 10
    assert pq.read_table(tmp_path / "users.parquet")["user_id"].to_pylist() == list(store.user_ids())


@pytest.mark.parametrize("name", ["users.parquet", "users.npy"])
def test_users_whose_vectors_cancel_out_are_zeros(store: ProfileStore, tmp_path: Path, name: str) -> None:
    store.upsert([("ana", Record("a", id="1")), ("ana", Record("b", id="2"))])
    profile = store.profile("ana")
    hashes = tuple(record.content_hash for record in profile)
    matrix = np.array([[1, 0], [-1, 0]], np.float16)
    store.put_vectors([UserVectors("ana", "toy", ("1", "2"), hashes, matrix, profile.revision)])
    path = tmp_path / name
    export_user_vectors(store, "toy", path)
    written = np.load(path).tolist() if path.suffix == ".npy" else pq.read_table(path)["vector"].to_pylist()
    assert written == [[0.0, 0.0]]


def test_no_users_are_an_empty_file(store: ProfileStore, tmp_path: Path) -> None:
    assert export_user_vectors(store, "toy", tmp_path / "users.parquet") == 0
    assert pq.read_table(tmp_path / "users.parquet").num_rows == 0
    assert export_user_vectors(store, "toy", tmp_path / "users.npy") == 0
    assert len(np.load(tmp_path / "users.npy")) == 0


def test_another_ending_is_refused(store: ProfileStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"to a \.parquet or \.npy file, was: '.*users\.csv'"):
        export_user_vectors(store, "toy", tmp_path / "users.csv")
    assert not list(tmp_path.glob("users*"))


@pytest.mark.parametrize("name", ["users.parquet", "users.npy"])
def test_a_failure_leaves_the_file_that_was_there(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_text("the old one")
    store.upsert(histories(3))
    fingerprint = embed_users(store, HashingEncoder(16)).fingerprint

    def fail(user_id: str, fingerprint: str) -> UserVectors | None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "vectors", fail)
    with pytest.raises(KeyboardInterrupt):
        export_user_vectors(store, fingerprint, path)
    assert path.read_text() == "the old one"
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith(".")} == set()
    assert not (tmp_path / "users.ids.jsonl").exists()


def test_ids_are_never_those_of_other_vectors(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(histories(3))
    fingerprint = embed_users(store, HashingEncoder(16)).fingerprint
    export_user_vectors(store, fingerprint, tmp_path / "users.npy")
    store.forget(next(iter(store.user_ids())))
    store.upsert([("zoe", Record("Somebody new."))])
    embed_users(store, HashingEncoder(16))
    move = os.replace

    def fail_at_the_ids(source: Any, target: Any, **others: Any) -> None:
        if str(target).endswith(".ids.jsonl"):
            raise OSError("the disk is full")
        move(source, target, **others)

    monkeypatch.setattr(os, "replace", fail_at_the_ids)
    with pytest.raises(OSError, match="the disk is full"):
        export_user_vectors(store, fingerprint, tmp_path / "users.npy")
    with pytest.raises(DataFormatError, match=r"users\.ids\.jsonl"):
        UserVectorFile(tmp_path / "users.npy")


def test_a_folder_that_is_not_there_is_named(store: ProfileStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export_user_vectors(store, "toy", tmp_path / "nowhere" / "users.parquet")


def write_npy(path: Path, vectors: dict[str, NDArray[Any]]) -> Path:
    np.save(path, np.stack(list(vectors.values())))
    path.with_suffix(".ids.jsonl").write_text("".join(json.dumps(name) + "\n" for name in vectors), encoding="utf-8")
    return path


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
        vector, stored = read.of(name), matrices[name]
        assert vector is not None
        assert stored is not None
        np.testing.assert_allclose(vector, stored.matrix.astype(np.float32)[0], atol=2e-3)
    assert read.of("nobody") is None


GOOD = {"ana": np.ones(3, np.float32), "ben": np.zeros(3, np.float32)}


def npy_with(ids: str) -> Callable[[Path], Path]:
    """A file of two vectors with these lines beside it."""

    def write(folder: Path) -> Path:
        path = write_npy(folder / "u.npy", GOOD)
        path.with_suffix(".ids.jsonl").write_text(ids)
        return path

    return write


def npy_of(matrix: NDArray[Any]) -> Callable[[Path], Path]:
    """A file of these numbers, with as many ids."""

    def write(folder: Path) -> Path:
        np.save(folder / "u.npy", matrix)
        (folder / "u.ids.jsonl").write_text("".join(f'"{row}"\n' for row in range(len(matrix))))
        return folder / "u.npy"

    return write


def file_of(name: str, content: str | dict[str, Any]) -> Callable[[Path], Path]:
    """A file of this text, or a Parquet file of these columns."""

    def write(folder: Path) -> Path:
        if isinstance(content, str):
            (folder / name).write_text(content)
        else:
            pq.write_table(pa.table(content), folder / name)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (file_of("users.csv", ""), r"from a \.parquet or \.npy file"),
        (npy_of(np.array([[1], [np.nan]], np.float32)), "row 1: numbers must be finite"),
        (npy_of(np.array([[1], [1e6]], np.float32)), "row 1: numbers must be finite and within 65504"),
        (npy_of(np.zeros((0, 3), np.float32)), "at least one user and one dimension"),
        (npy_of(np.ones((1, 3), np.int64)), "must be floats in the shape"),
        (npy_of(np.array([object()])), "not a NumPy file of numbers"),
        (file_of("u.npy", "<html>"), "not a NumPy file of numbers"),
        (npy_with('"ana"\n'), r"u\.npy has 2 rows, its ids are 1"),
        (npy_with('"ana"\n"ana"\n'), "row 1: each user may appear once: 'ana'"),
        (npy_with('"ana"\n""\n'), "row 1: a user id"),
        (npy_with('"ana"\nben\n'), "line 2: a line must be a user id as a JSON string"),
        (
            file_of("u.parquet", {"user_id": ["ana", "ben"], "vector": [[1.0, 2.0], [1.0]]}),
            "lists of one length, without gaps, were: 1, 2",
        ),
        (file_of("u.parquet", {"user_id": ["ana"], "vector": [["x", "2"]]}), "not a Parquet file with columns"),
        (file_of("u.parquet", {"user": ["ana"], "vector": [[1.0]]}), "columns user_id and vector"),
        (file_of("u.parquet", "{}"), "not a Parquet file"),
    ],
)
def test_bad_files_are_one_clear_error(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=message):
        UserVectorFile(write(tmp_path))
