"""Directions taken out (row 28): exact, once and for all, and what a probe still finds."""

from __future__ import annotations

import numpy as np

from persona.population.projection import ProjectOut, _probe, probed

DRAW = np.random.default_rng(0)


def people(users: int = 200, dim: int = 24) -> tuple[np.ndarray, list[str]]:
    labels = [("north", "south", "west")[n % 3] for n in range(users)]
    shifts = {name: DRAW.standard_normal(dim) for name in ("north", "south", "west")}
    return np.stack([DRAW.standard_normal(dim) + shifts[name] for name in labels]).astype(np.float32), labels


def test_nothing_is_left_along_the_directions_and_twice_is_as_once() -> None:
    rows, vectors = DRAW.standard_normal((3, 24)), people()[0]
    take_out = ProjectOut.directions(np.vstack((rows, rows[0] + rows[1])))  # the fourth depends on two others
    assert take_out.basis.shape == (3, 24)
    once = take_out(vectors)
    assert np.abs(once @ rows.T).max() < 1e-5
    b = rows.T
    np.testing.assert_allclose(once, vectors - vectors @ b @ np.linalg.inv(b.T @ b) @ b.T, atol=1e-5)
    np.testing.assert_allclose(take_out(once), once, atol=1e-6)
    assert np.array_equal(ProjectOut.directions(np.zeros((1, 24)))(vectors), vectors)


def test_without_the_differences_all_classes_have_one_mean() -> None:
    vectors, labels = people()
    plain = ProjectOut.classes(vectors, labels)(vectors)
    means = np.stack([plain[np.array(labels) == each].mean(axis=0) for each in ("north", "south", "west")])
    np.testing.assert_allclose(means, means.mean(axis=0, keepdims=True).repeat(3, axis=0), atol=1e-5)
    weights = _probe().fit(vectors, labels).coef_
    left = ProjectOut.probe(vectors, labels)(vectors) @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T
    assert np.abs(left).max() < 1e-5


def test_a_probe_finds_the_class_before_and_not_after() -> None:
    vectors, labels = people(400)
    by_means, by_probe = probed(vectors, labels), probed(vectors, labels, by_probe=True)
    assert by_means.before == by_probe.before > 0.85
    assert by_means.after < 0.45
    assert by_means.after < by_probe.after < by_probe.before
    assert abs(by_means.chance - 1 / 3) < 0.02
