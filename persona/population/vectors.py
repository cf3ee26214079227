"""The vectors of many users in one table: read from a store or a file, changed, and written as a file again.

>>> table = UserTable(("ana", "ben"), np.eye(2, dtype=np.float32), np.array([3, 1]), "toy")
>>> table.with_users(["nina"]).known.tolist()
[True, True, False]

A table that is written is a `UserVectorFile`, on which a user embedder of mode ``"vectors"`` is trained and served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persona.encoders.user_vectors import UserVectorFile, mean_vector, stored_vectors, write_user_vectors
from persona.errors import InvalidOptionError
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.exports import note_export


@dataclass(frozen=True, slots=True, eq=False)
class UserTable:
    """One vector for each user.

    Attributes:
        user_ids: different ones.
        matrix: float32; zeros for a user about whom nothing is known.  # (users, dim)
        records: how many records each vector stands on.  # (users,)
        fingerprint: of the vectors.
    """

    user_ids: tuple[str, ...]
    matrix: NDArray[np.float32]
    records: NDArray[np.intp]
    fingerprint: str

    @classmethod
    def from_store(cls, store: ProfileStore, fingerprint: str) -> UserTable:
        """Means of the record vectors that `persona.encoders.embedding.embed_users` has stored.

        Raises:
            InvalidOptionError: if there are none of that fingerprint.
        """
        found = [(each.user_id, mean_vector(each), len(each)) for each in stored_vectors(store, fingerprint)]
        if not found:
            raise InvalidOptionError("no user has vectors of this encoder and view: run `persona embed-users` first")
        user_ids, means, records = zip(*found, strict=True)
        return cls(user_ids, np.stack(means), np.array(records), fingerprint)

    @classmethod
    def from_file(cls, file: UserVectorFile, records: int = 20) -> UserTable:
        """All vectors of a file, which does not say how many `records` they stand on."""
        user_ids, vectors = zip(*file, strict=True)
        return cls(user_ids, np.stack(vectors), np.full(len(user_ids), records), file.fingerprint)

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether a user has a vector.  # (users,)"""
        return np.asarray(self.matrix.any(axis=1))

    def with_users(self, user_ids: Iterable[str]) -> UserTable:
        """The same with users who have no vector yet; those who are there stay as they are."""
        there = set(self.user_ids)
        new = [each for each in dict.fromkeys(user_ids) if each not in there]
        rows = np.zeros((len(new), self.matrix.shape[1]), np.float32)
        records = np.concatenate((self.records, np.zeros(len(new), self.records.dtype)))
        return replace(
            self, user_ids=(*self.user_ids, *new), matrix=np.concatenate((self.matrix, rows)), records=records
        )

    def without(self, user_ids: Collection[str]) -> UserTable:
        """The same without some users."""
        kept = [row for row, user_id in enumerate(self.user_ids) if user_id not in user_ids]
        ids = tuple(self.user_ids[row] for row in kept)
        return replace(self, user_ids=ids, matrix=self.matrix[kept], records=self.records[kept])

    def changed(self, matrix: NDArray[np.float32], how: str) -> UserTable:
        """Other vectors of the same users; `how` they were made becomes part of the fingerprint.  # (users, dim)"""
        return replace(self, matrix=np.asarray(matrix, np.float32), fingerprint=f"{self.fingerprint}|{how}")

    def write(self, path: str | Path, store: ProfileStore | None = None) -> int:
        """Write the users who have a vector to a .parquet or .npy file; how many.

        Args:
            path: the file.
            store: notes that the file is there, so that a receipt of `persona forget` names it.

        Raises:
            InvalidOptionError: if the name ends otherwise.
            OSError: if it cannot be written.
        """
        rows = ((self.user_ids[row], self.matrix[row]) for row in np.flatnonzero(self.known).tolist())
        written = write_user_vectors(rows, self.fingerprint, path)
        if store is not None:
            note_export(store.database, Path(path), "user ids and vectors")
        return written
