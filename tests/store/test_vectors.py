from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import persona.store.vectors
from persona.errors import InvalidOptionError, InvalidUserIdError
from persona.store.vectors import UserVectors


def make(matrix: Any, **changed: Any) -> UserVectors:
    names = tuple(f"r{row}" for row in range(len(matrix)))
    parts: dict[str, Any] = {
        "user_id": "ana",
        "fingerprint": "toy",
        "record_ids": names,
        "hashes": names,
        "revision": 1,
    }
    return UserVectors(matrix=np.asarray(matrix, dtype=np.float16), **{**parts, **changed})


def test_top_k_by_hand() -> None:
    vectors = make([[1, 0], [0, 1], [0.5, 0.5], [-1, 0]])
    rows, scores = vectors.top_k(np.array([1.0, 0.25], np.float32), 3)
    assert rows.tolist() == [0, 2, 1]
    assert scores.tolist() == [1.0, 0.625, 0.25]
    assert scores.dtype == np.float32
    assert (len(vectors), vectors.dim) == (4, 2)


@pytest.mark.parametrize("n_records", [1, 3, 49, 50, 51, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("dim", [1, 7, 30, 384])
def test_equal_rows_tie_and_come_in_row_order(n_records: int, dim: int) -> None:
    generator = np.random.default_rng(n_records)
    distinct = generator.standard_normal((5, dim))
    matrix = distinct[generator.integers(0, 5, n_records)].astype(np.float16)
    vectors, query = make(matrix), generator.standard_normal(dim).astype(np.float32)
    rows, scores = vectors.top_k(query, n_records)
    in_row_order = vectors.scores(query)
    for row in range(0, n_records, 1 + n_records // 100):
        assert in_row_order[row] == make(matrix[row : row + 1]).scores(query)[0]
    assert rows.tolist() == sorted(range(n_records), key=lambda row: (-in_row_order[row], row))
    for k in (1, 2, n_records // 2 or 1):
        assert vectors.top_k(query, k)[0].tolist() == rows[:k].tolist()
        assert vectors.top_k(query, k)[1].tolist() == scores[:k].tolist()


@given(
    matrix=arrays.arrays(
        np.float16,
        st.tuples(st.integers(0, 40), st.integers(1, 9)),
        elements=st.floats(-100, 100, width=16),
    ),
    k=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_top_k_is_exact(matrix: Any, k: int, seed: int) -> None:
    query = np.random.default_rng(seed).standard_normal(matrix.shape[1]).astype(np.float32)
    rows, scores = make(matrix).top_k(query, k)
    exact = matrix.astype(np.float64) @ query.astype(np.float64)
    bound = 1e-6 * np.abs(matrix.astype(np.float64)) @ np.abs(query).astype(np.float64) + 1e-30
    assert len(rows) == len(scores) == min(k, len(matrix)) == len(set(rows.tolist()))
    assert (np.abs(scores - exact[rows]) <= bound[rows]).all()
    left = np.setdiff1d(np.arange(len(matrix)), rows)
    if len(rows) and len(left):
        assert exact[left].max() <= exact[rows].min() + 2 * bound.max()


def test_every_finite_half_is_widened_exactly() -> None:
    halfs = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halfs = halfs[np.isfinite(halfs)]
    wide = persona.store.vectors._widened(halfs)
    assert wide.dtype == np.float32
    assert wide.tobytes() == halfs.astype(np.float32).tobytes()  # the sign of zero too


def test_rows_by_record_id() -> None:
    vectors = make(np.zeros((3, 2)), record_ids=("x", "y", "z"))
    assert vectors.rows(["z", "none", "x", "z"]).tolist() == [2, -1, 0, 2]
    assert vectors.rows([]).tolist() == []


@pytest.mark.parametrize("k", [0, -1])
def test_k_is_at_least_one(k: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"`k` must be at least 1, was: {k}"):
        make([[1, 0]]).top_k(np.zeros(2, np.float32), k)


@pytest.mark.parametrize("query", [np.zeros(3), np.zeros((1, 2)), np.zeros(()), [np.nan, 0], [np.inf, 0]])
def test_a_query_must_fit(query: Any) -> None:
    with pytest.raises(InvalidOptionError, match="`query` must"):
        make([[1, 0]]).top_k(np.asarray(query, np.float32), 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"matrix": np.zeros((2, 4), np.float32)}, "must be float16, was: float32"),
        ({"matrix": np.zeros((4, 2), np.float16).T}, "must be C-contiguous"),
        ({"matrix": np.zeros(2, np.float16)}, r"the shape \(records, dim\), was: \(2,\)"),
        ({"matrix": np.zeros((2, 0), np.float16)}, r"the shape \(records, dim\), was: \(2, 0\)"),
        ({"matrix": np.zeros((3, 4), np.float16)}, "equally many, were: 2, 2 and 3"),
        ({"matrix": np.array([[0, np.nan], [0, 0]], np.float16)}, "must be finite"),
        ({"matrix": np.array([[0, -np.inf], [0, 0]], np.float16)}, "must be finite"),
        ({"record_ids": ("a",)}, "equally many, were: 1, 2 and 2"),
        ({"hashes": ("a", "b", "c")}, "equally many, were: 2, 3 and 2"),
        ({"record_ids": ("a", "a")}, "must differ"),
        ({"record_ids": ("a", "b\0")}, "must not hold NUL"),
        ({"hashes": ("a", "\0b")}, "must not hold NUL"),
        ({"revision": -1}, "must not be negative, was: -1"),
        ({"fingerprint": ""}, "1 to 512 characters"),
        ({"fingerprint": "x" * 513}, "1 to 512 characters"),
        ({"fingerprint": "a\0"}, "no NUL"),
    ],
)
def test_parts_that_do_not_belong_together(changed: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {
        "user_id": "ana",
        "fingerprint": "toy",
        "record_ids": ("a", "b"),
        "hashes": ("h", "i"),
        "matrix": np.zeros((2, 4), np.float16),
        "revision": 1,
    }
    UserVectors(**parts)
    with pytest.raises(InvalidOptionError, match=message):
        UserVectors(**{**parts, **changed})


def test_an_illegal_user_id() -> None:
    with pytest.raises(InvalidUserIdError):
        make([[1, 0]], user_id="")
