"""Vectors of users that somebody already has: what is read of the files, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from persona.encoders.embedding import embed_users
from persona.encoders.export import export_user_vectors
from persona.encoders.load import load_encoder
from persona.encoders.user_vectors import UserVectorFile
from persona.errors import DataFormatError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint


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
        (npy_of(np.zeros((0, 3), np.float32)), "of at least one user"),
        (npy_of(np.ones((1, 3), np.int64)), "must be floats in the shape"),
        (npy_of(np.array([object()])), "not a NumPy file of numbers"),
        (file_of("u.npy", "<html>"), "not a NumPy file of numbers"),
        (npy_with('"ana"\n'), r"u\.npy has 2 rows, its ids are 1"),
        (npy_with('"ana"\n"ana"\n'), "row 1: a user must stand once: 'ana'"),
        (npy_with('"ana"\n""\n'), "row 1: a user id"),
        (npy_with('"ana"\nben\n'), "line 2: a line must be a user id as a JSON string"),
        (
            file_of("u.parquet", {"user_id": ["ana", "ben"], "vector": [[1.0, 2.0], [1.0]]}),
            "lists of one length, were: 1, 2",
        ),
        (file_of("u.parquet", {"user_id": ["ana"], "vector": [["1", "2"]]}), "vectors must be of numbers"),
        (file_of("u.parquet", {"user": ["ana"], "vector": [[1.0]]}), "columns user_id and vector"),
        (file_of("u.parquet", "{}"), "not a Parquet file"),
    ],
)
def test_bad_files_are_one_clear_error(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=message):
        UserVectorFile(write(tmp_path))
