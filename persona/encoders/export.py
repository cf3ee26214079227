"""Export of one vector per user for other programs: the mean of the user's record vectors, L2-normalised.

    users.parquet    columns user_id (string) and vector (list of float32); the fingerprint in the schema's metadata
    users.npy        float32, (users, dim), and beside it users.ids.jsonl: the user ids in the order of the rows, one
                     JSON string per line

Users are streamed in the store's order, so that memory does not grow with their number. A user whose vectors sum to
zero is exported as zeros.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError
from persona.files import replacing
from persona.store.profile_store import ProfileStore

_WRITTEN_AT_ONCE = 1000


def export_user_vectors(store: ProfileStore, fingerprint: str, path: str | Path) -> int:
    """Write the users' vectors to a Parquet or NumPy file, by the ending of its name.

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
    path = Path(path)
    check_export_path(path)
    users = _user_vectors(store, fingerprint)
    return _write_npy(users, path) if path.suffix == ".npy" else _write_parquet(users, fingerprint, path)


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
        _write_npy_header(rows, 0, 0)
        for user_id, vector in users:
            names.write(json.dumps(user_id) + "\n")
            rows.write(vector.astype("<f4").tobytes())
            written, dim = written + 1, len(vector)
        rows.seek(0)
        _write_npy_header(rows, written, dim)
        names.flush()
        rows.flush()
        # Two files cannot be replaced at once: in between there are no ids, so that no vector is read as another
        # user's.
        path.with_suffix(".ids.jsonl").unlink(missing_ok=True)
    return written


def _write_npy_header(file: Any, users: int, dim: int) -> None:
    """The header of a (users, dim) matrix, padded to a fixed length, so that it can be overwritten at the end."""
    header = str({"descr": "<f4", "fortran_order": False, "shape": (users, dim)})
    # Format 1.0: magic, version, length of the header, header; 128 bytes in all, ended by a newline.
    file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n")


def _user_vectors(store: ProfileStore, fingerprint: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for user_id in store.user_ids():
        vectors = store.vectors(user_id, fingerprint)
        if vectors is not None and len(vectors):
            mean = vectors.matrix.mean(axis=0, dtype=np.float32)
            norm = np.linalg.norm(mean)
            yield user_id, mean / norm if norm else mean
