"""Vectors of users' features alone, of a fixed length however many there are: for users without a record.

Each kind of feature hashes its values, with a seed of its own, to the rows of one table that all kinds share. A user's
vector says which rows, and a user embedder of mode ``"vectors"``, which is a linear map, is that table: its soft prompt
is the sum of the user's rows. (Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale
ML Systems", arXiv 2305.12102: feature multiplexing.)

>>> table = multiplexed({"nina": {"country:CH": 1, "label:CH": 1}}, rows=64)
>>> table.matrix.nonzero()[1].tolist(), table.records.tolist()
([9, 32], [1])
"""

from __future__ import annotations

import hashlib

import numpy as np

from persona.population.features import Features
from persona.population.vectors import UserTable


def row_of(feature: str, rows: int) -> int:
    """The row of a feature, ``kind:value``, in a table of so many."""
    kind, _, value = feature.partition(":")
    digest = hashlib.blake2b(value.encode(), digest_size=8, key=hashlib.blake2b(kind.encode(), digest_size=16).digest())
    return int.from_bytes(digest.digest(), "big") % rows


def multiplexed(features: Features, rows: int = 512) -> UserTable:
    """Unit vectors that count the users' features by their rows, for one record each.  # (users, rows)"""
    matrix = np.zeros((len(features), rows), np.float32)
    for user, own in enumerate(features.values()):
        for feature, times in own.items():
            matrix[user, row_of(feature, rows)] += times
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-12)
    return UserTable(tuple(features), matrix, np.asarray(matrix.any(axis=1), np.intp), f"multiplexed:{rows}")
