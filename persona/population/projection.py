"""Directions taken out of users' vectors, such as a topic's or those that tell something personal.

With the directions as the columns of B, v becomes v - B (B^T B)^-1 B^T v, after DECOR, which does so with the text
vectors of unwanted tokens. Of classes (topics, genders, places) the directions are the differences of their means:
without them all classes have one mean, and no linear probe of these users does better than by their frequency. Or they
are the weights of a linear probe, which may leave others that tell as much.

>>> take_out = ProjectOut.directions(np.array([[3.0, 0.0, 0.0]]))
>>> take_out(np.array([[1.0, 2.0, 3.0]], np.float32)).tolist()
[[0.0, 2.0, 3.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NO_DIRECTION = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class ProjectOut:
    """Takes directions out of vectors; twice is as once.

    Attributes:
        basis: orthonormal rows that span the directions.  # (rank, dim)
    """

    basis: NDArray[np.float64]

    @classmethod
    def directions(cls, rows: ArrayLike) -> ProjectOut:
        """Of any vectors, which may depend on one another.  # (directions, dim)"""
        _, sizes, basis = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
        return cls(basis[sizes > _NO_DIRECTION * max(sizes.max(initial=0), _NO_DIRECTION)])

    @classmethod
    def classes(cls, vectors: NDArray[np.floating], labels: Sequence[str]) -> ProjectOut:
        """Of the differences between the classes' means and that of all.  # (users, dim)"""
        wide, named = vectors.astype(np.float64), np.array(labels)
        return cls.directions([wide[named == each].mean(axis=0) - wide.mean(axis=0) for each in np.unique(named)])

    @classmethod
    def probe(cls, vectors: NDArray[np.floating], labels: Sequence[str]) -> ProjectOut:
        """Of the weights of a linear probe.  # (users, dim)"""
        return cls.directions(_probe().fit(vectors, labels).coef_)

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """The vectors without the directions.  # (users, dim) -> (users, dim)"""
        return np.asarray(vectors - vectors @ self.basis.T @ self.basis, np.float32)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Share of users whose class a linear probe names, with the directions and without, and by the commonest alone."""

    before: float
    after: float
    chance: float


def probed(
    vectors: NDArray[np.floating], labels: Sequence[str], *, by_probe: bool = False, seed: int = 0
) -> ProbeReport:
    """What a linear probe finds of `labels` before and after they are taken out.

    Directions and probes are fitted on one half of the users, the probes are asked about the other. At least two users
    of each class are needed.

    Args:
        vectors: of users.  # (users, dim)
        labels: of each user.
        by_probe: take the probe's directions out, and not the differences of means.
        seed: of the halves.
    """
    from sklearn.model_selection import train_test_split

    ours, theirs, known, asked = train_test_split(
        vectors, np.array(labels), test_size=0.5, random_state=seed, stratify=labels
    )
    take_out = (ProjectOut.probe if by_probe else ProjectOut.classes)(ours, known)
    before, after = (
        float(_probe().fit(change(ours), known).score(change(theirs), asked)) for change in (np.asarray, take_out)
    )
    values, counts = np.unique(known, return_counts=True)
    return ProbeReport(before, after, float((asked == values[counts.argmax()]).mean()))


def _probe() -> Any:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier(alpha=1.0)
