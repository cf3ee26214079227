"""k-means on unit vectors, small and the same in every process.

A user has some fifty records: what takes time there is not the arithmetic but the machinery around it, so these are
a dozen lines of numpy (k-means++ seeds, then Lloyd's steps until nothing moves). Centroids are unit vectors again
(spherical k-means), since similarity is the inner product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 25
"""Lloyd's steps at most; fifty records settle in three to six."""


def cluster(vectors: NDArray[np.float32], n_clusters: int, seed: int = 0, *, restarts: int = 1) -> NDArray[np.float32]:
    """The centroids of `vectors`, the biggest cluster first; none of them is empty, so there may be fewer than asked.

    Args:
        vectors: unit vectors, float32.  # (vectors, dim)
        n_clusters: at least 1.
        seed: of the first centroids.
        restarts: it is tried so often from other first centroids; the tightest clusters are taken.

    Returns:
        Unit vectors.  # (at most n_clusters, dim)
    """
    draw = np.random.default_rng(seed)
    tried = [_settled(vectors, n_clusters, draw) for _ in range(restarts)]
    return max(tried, key=lambda centroids: round(float((vectors @ centroids.T).max(1).sum()), 3))


def _settled(vectors: NDArray[np.float32], n_clusters: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """Lloyd's steps from one draw of first centroids."""
    centroids = _spread(vectors, n_clusters, draw)
    labels = np.full(len(vectors), -1)
    for _ in range(STEPS):
        found = nearest(vectors, centroids)
        if (found == labels).all():
            break
        labels = found
        kept = np.flatnonzero(np.bincount(labels, minlength=len(centroids)))
        sums = np.stack([vectors[labels == one].sum(0) for one in kept])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centroids[kept])
        labels = np.searchsorted(kept, labels)
    sizes = np.bincount(nearest(vectors, centroids), minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")
    return np.asarray(centroids[order][: np.count_nonzero(sizes)], dtype=np.float32)


def nearest(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.intp]:
    """The number of the centroid with the greatest inner product with each vector.  # (vectors,)"""
    return np.asarray((vectors @ centroids.T).argmax(1))


def _spread(vectors: NDArray[np.float32], n_clusters: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """First centroids by k-means++: each next one is drawn with a chance that grows with its distance to those there.

    There are as many as asked, or as many as there are different vectors.
    """
    chosen = [int(draw.integers(len(vectors)))]
    away = 1.0 - vectors @ vectors[chosen[0]]
    while len(chosen) < n_clusters:
        weights = np.maximum(away, 0.0).astype(np.float64)
        weights[weights < 1e-3] = 0.0  # equal but for float16's rounding
        total = weights.sum()
        if total == 0.0:
            break
        place = int(draw.choice(len(vectors), p=weights / total))
        chosen.append(place)
        away = np.minimum(away, 1.0 - vectors @ vectors[place])
    return vectors[chosen]
