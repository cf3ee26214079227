from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from persona.errors import InvalidOptionError, InvalidUserIdError
from persona.store.vectors import UserVectors, inner_products


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


def test_inner_products_by_hand() -> None:
    vectors = make([[1, 0], [0, 1], [0.5, 0.5], [-1, 0]])
    scores = inner_products(vectors.matrix, np.array([1.0, 0.25], np.float32))
    assert scores.tolist() == [1.0, 0.25, 0.625, -1.0]
    assert scores.dtype == np.float32
    assert (len(vectors), vectors.dim) == (4, 2)


@pytest.mark.parametrize("n_records", [1, 3, 49, 50, 51, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("dim", [1, 7, 30, 384])
def test_equal_rows_tie_wherever_they_are(n_records: int, dim: int) -> None:
    generator = np.random.default_rng(n_records)
    matrix = generator.standard_normal((5, dim))[generator.integers(0, 5, n_records)].astype(np.float16)
    query = generator.standard_normal(dim).astype(np.float32)
    scores = inner_products(matrix, query)
    for row in range(0, n_records, 1 + n_records // 100):
        assert scores[row] == inner_products(matrix[row : row + 1], query)[0]


@given(
    matrix=arrays.arrays(
        np.float16, st.tuples(st.integers(0, 40), st.integers(1, 9)), elements=st.floats(-100, 100, width=16)
    ),
    seed=st.integers(0, 99),
)
def test_inner_products_are_exact(matrix: Any, seed: int) -> None:
    query = np.random.default_rng(seed).standard_normal(matrix.shape[1]).astype(np.float32)
    exact = matrix.astype(np.float64) @ query.astype(np.float64)
    bound = 1e-6 * np.abs(matrix.astype(np.float64)) @ np.abs(query).astype(np.float64) + 1e-30
    assert (np.abs(inner_products(matrix, query) - exact) <= bound).all()


def test_rows_by_record_id() -> None:
    vectors = make(np.zeros((3, 2)), record_ids=("x", "y", "z"))
    assert vectors.rows(["z", "none", "x", "z"]).tolist() == [2, -1, 0, 2]
    assert vectors.rows([]).tolist() == []


@pytest.mark.parametrize("query", [np.zeros(3), np.zeros((1, 2)), np.zeros(()), [np.nan, 0], [np.inf, 0]])
def test_a_query_must_fit(query: Any) -> None:
    with pytest.raises(InvalidOptionError, match="`query` must"):
        inner_products(make([[1, 0]]).matrix, np.asarray(query, np.float32))


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
        ({"fingerprint": "a\0"}, "must not hold NUL"),
        ({"fingerprint": "\ud800"}, "must not hold a lone surrogate"),
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
