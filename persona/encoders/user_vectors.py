"""Files with one vector for each user: existing ones, e.g. a recommender's, are read, and the store's are exported.

    users.parquet    columns user_id (string) and vector (list of numbers); the fingerprint in the schema's metadata
    users.npy        floats, (users, dim), and beside it users.ids.jsonl: the user ids in the order of the rows, one
                     JSON string per line

Nothing of a file is copied into a store, and a matrix in ``.npy`` is mapped into memory, not loaded.

>>> np.save("users.npy", np.array([[0.25, 0.5]], dtype=np.float32))
>>> size = Path("users.ids.jsonl").write_text('"critic-7"\\n')
>>> UserVectorFile("users.npy").of("critic-7")
array([0.25, 0.5 ], dtype=float32)
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError, reason
from persona.files import replacing
from persona.records import Profile, check_user_id

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore
    from persona.store.vectors import UserVectors

_LARGEST = float(np.finfo(np.float16).max)
_CHECKED_AT_ONCE = 65536
_WRITTEN_AT_ONCE = 1000


class UserVectorFile:
    """A file with one vector for each user.

    Args:
        path: a ``.parquet`` file, or a ``.npy`` file with its ``.ids.jsonl``.

    Attributes:
        dim: length of a vector.
        fingerprint: names the vectors: the Parquet file's metadata (``persona.fingerprint``), else their length. Files
            with the same fingerprint are interchangeable: a newer export replaces an older one.

    Raises:
        DataFormatError: if the files are of another format, do not fit together, name a user twice, or hold a number
            that is not finite or beyond float16's range.
        OSError: if a file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.suffix in (".npy", ".parquet") and not path.is_file():
            raise DataFormatError(
                "there is no such file of user vectors: `persona embed-users --export` makes one", source=path
            )
        if path.suffix == ".npy":
            names, self._matrix, fingerprint = *_read_npy(path), None
        elif path.suffix == ".parquet":
            names, self._matrix, fingerprint = _read_parquet(path)
        else:
            raise DataFormatError("user vectors are read from a .parquet or .npy file", source=path)
        if not len(self._matrix) or not self._matrix.shape[1]:
            raise DataFormatError("user vectors must have at least one user and one dimension", source=path)
        self._rows: dict[str, int] = {}
        for row, name in enumerate(names):
            try:
                check_user_id(name)
            except InvalidUserIdError as error:
                raise DataFormatError(str(error), source=path, place=f"row {row}") from error
            if self._rows.setdefault(name, row) != row:
                raise DataFormatError(f"each user may appear once: {name!r:.80}", source=path, place=f"row {row}")
        for start in range(0, len(self._matrix), _CHECKED_AT_ONCE):
            wrong = ~(np.abs(self._matrix[start : start + _CHECKED_AT_ONCE]) <= _LARGEST).all(axis=1)
            if wrong.any():
                raise DataFormatError(
                    f"numbers must be finite and within {_LARGEST:.0f} of 0",
                    source=path,
                    place=f"row {start + int(wrong.argmax())}",
                )
        self.dim = int(self._matrix.shape[1])
        self.fingerprint = fingerprint or f"user-vectors:{self.dim}"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """User ids and vectors, in the order of the file."""
        for user_id, row in self._rows.items():
            yield user_id, np.asarray(self._matrix[row], np.float32)

    def of(self, user_id: str) -> NDArray[np.float32] | None:
        """The vector of a user; None for one who is not in the file.  # (dim,)"""
        row = self._rows.get(user_id)
        return None if row is None else np.asarray(self._matrix[row], np.float32)

    def of_profile(self, profile: Profile) -> NDArray[np.float32] | None:
        """The vector that a user embedder reads for a profile: here that of its user.  # (dim,)"""
        return self.of(profile.user_id)


def export_user_vectors(store: ProfileStore, fingerprint: str, path: str | Path) -> int:
    """Write one vector per user to a Parquet or NumPy file, by the ending of its name.

    It is the mean of the user's record vectors, L2-normalised (zeros if they sum to zero). Users are streamed in the
    store's order, so that memory does not grow with their number.

    Args:
        store: holds the vectors.
        fingerprint: which vectors (`vector_fingerprint`).
        path: the file to write, ``.parquet`` or ``.npy``. It is replaced when all is written.

    Returns:
        The number of users written: those with vectors of that fingerprint.

    Raises:
        InvalidOptionError: if the name ends otherwise.
        OSError: if the file cannot be written; an existing one is left unchanged.
    """
    means = ((vectors.user_id, mean_vector(vectors)) for vectors in stored_vectors(store, fingerprint))
    return write_user_vectors(means, fingerprint, path)


def write_user_vectors(users: Iterable[tuple[str, NDArray[np.float32]]], fingerprint: str, path: str | Path) -> int:
    """Write user ids and vectors as `export_user_vectors` does; returns and raises the same."""
    path = Path(path)
    check_export_path(path)
    rows = iter(users)
    return _write_npy(rows, path) if path.suffix == ".npy" else _write_parquet(rows, fingerprint, path)


def check_export_path(path: Path) -> None:
    """Refuse a path that is neither Parquet nor NumPy, or whose folder is missing, before any work is done.

    Raises:
        InvalidOptionError: if the name ends in neither.
        FileNotFoundError: if there is no such folder.
    """
    if path.suffix not in (".parquet", ".npy"):
        raise InvalidOptionError(f"user vectors are exported to a .parquet or .npy file, was: {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def _write_parquet(users: Iterator[tuple[str, NDArray[np.float32]]], fingerprint: str, path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("user_id", pa.string()), ("vector", pa.list_(pa.float32()))]
    schema = pa.schema(columns, metadata={"persona.fingerprint": fingerprint})
    written = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        while some := list(islice(users, _WRITTEN_AT_ONCE)):
            names = pa.array([user_id for user_id, _ in some], pa.string())
            matrix = np.stack([vector for _, vector in some])  # (users, dim)
            ends = np.arange(len(some) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
            vectors = pa.ListArray.from_arrays(pa.array(ends), pa.array(matrix.reshape(-1)))
            file.write_batch(pa.record_batch([names, vectors], schema=schema))
            written += len(some)
    return written


def _write_npy(users: Iterator[tuple[str, NDArray[np.float32]]], path: Path) -> int:
    written = dim = 0
    with ExitStack() as stack:
        names = stack.enter_context(stack.enter_context(replacing(path.with_suffix(".ids.jsonl"))).open("w"))
        rows = stack.enter_context(stack.enter_context(replacing(path)).open("wb"))
        _write_header(rows, 0, 0)
        for user_id, vector in users:
            names.write(json.dumps(user_id) + "\n")
            rows.write(vector.astype("<f4").tobytes())
            written, dim = written + 1, len(vector)
        rows.seek(0)
        _write_header(rows, written, dim)  # as long as the first one, whatever the shape
        names.flush()
        rows.flush()
        # Two files cannot be replaced at once: in between there are no ids, so that no vector is read as another
        # user's.
        path.with_suffix(".ids.jsonl").unlink(missing_ok=True)
    return written


def _write_header(file: Any, users: int, dim: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (users, dim)}
    np.lib.format.write_array_header_1_0(file, header)


def stored_vectors(store: ProfileStore, fingerprint: str) -> Iterator[UserVectors]:
    """The vectors of every user who has some of that fingerprint, in the store's order."""
    for user_id in store.user_ids():
        vectors = store.vectors(user_id, fingerprint)
        if vectors is not None and len(vectors):
            yield vectors


def mean_vector(vectors: UserVectors) -> NDArray[np.float32]:
    """A user's vector: the mean of the record vectors, L2-normalised, or zeros if they sum to zero.  # (dim,)"""
    mean: NDArray[np.float32] = vectors.matrix.mean(axis=0, dtype=np.float32)
    norm = np.linalg.norm(mean)
    return mean / norm if norm else mean


def _read_npy(path: Path) -> tuple[list[str], NDArray[np.floating]]:
    beside = path.with_suffix(".ids.jsonl")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataFormatError(f"not a NumPy file of numbers: {error}", source=path) from error
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
        raise DataFormatError(
            f"user vectors must be floats in the shape (users, dim), were {matrix.dtype} in {matrix.shape}", source=path
        )
    if not beside.is_file():
        raise DataFormatError(
            f"the user ids must be in {beside.name} beside it, one JSON string per line, and there is no such file: "
            "export the vectors again",
            source=path,
        )
    names = []
    with beside.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                names.append(json.loads(line))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataFormatError(
                    "a line must be a user id as a JSON string", source=beside, place=f"line {number}"
                ) from error
    if len(names) != len(matrix):
        raise DataFormatError(f"{path.name} has {len(matrix)} rows, its ids are {len(names)}", source=beside)
    return names, matrix


def _read_parquet(path: Path) -> tuple[list[str], NDArray[np.floating], str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["user_id", "vector"])
        vectors = table["vector"].combine_chunks().cast(pa.large_list(pa.float32()))
        numbers, lengths = vectors.flatten(), set(vectors.value_lengths().to_pylist())
        if len(lengths) > 1 or numbers.null_count or vectors.null_count:
            were = ", ".join(sorted(map(str, lengths))[:4])
            raise DataFormatError(f"vectors must be lists of one length, without gaps, were: {were}", source=path)
        matrix = numbers.to_numpy().reshape(len(vectors), max(lengths, default=0))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        said = f"not a Parquet file with columns user_id and vector: {reason(error)}"
        raise DataFormatError(said, source=path) from error
    fingerprint = (table.schema.metadata or {}).get(b"persona.fingerprint")
    names = table["user_id"].to_pylist()
    return names, matrix, None if fingerprint is None else fingerprint.decode("utf-8", "replace")
