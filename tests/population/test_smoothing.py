"""Smoothing: a case by hand, users without neighbours, users who were never there, a training that helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from persona.encoders.user_vectors import UserVectorFile
from persona.population.graph import UserGraph
from persona.population.mixtures import smoothed_mixtures
from persona.population.smoothing import GraphSmoother
from persona.population.training import SmootherTraining, train_smoother
from persona.population.vectors import UserTable
from persona.records import Profile
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.histories import UserVectorReader

LABELS = {"ana": {"label:a": 1}, "ben": {"label:a": 1, "label:b": 1}, "new": {"label:b": 1}}


def three() -> UserTable:
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 0]], np.float32)
    return UserTable(("ana", "ben", "new"), vectors, np.array([4, 1, 0]), "toy")


def smoothed(table: UserTable, labels: dict[str, dict[str, int]], **options: float) -> UserTable:
    graph = UserGraph.of(table, labels, least=2, nearest=0)
    return GraphSmoother(table.matrix.shape[1], layers=1, **options).smooth(graph, table)


def test_three_users_by_hand() -> None:
    """Row 7: one step over A_ana,ben = 1/3 and A_ben,new = 1/3, with the product term."""
    found = smoothed(three(), LABELS, prior=4.0)
    # d = 1/3, 2/3, 1/3, so S is 1/sqrt(2) between neighbours.
    root = 2**-0.5
    message = {
        "ana": root * np.array([0.6, 0.8]) * (1 + np.array([1, 0])),
        "ben": root * np.array([1, 0]) * (1 + np.array([0.6, 0.8])),
        "new": root * np.array([0.6, 0.8]),
    }
    unit = {name: each / np.linalg.norm(each) for name, each in message.items()}
    expected = [(4 * np.array([1, 0]) + 4 * unit["ana"]) / 8, (np.array([0.6, 0.8]) + 4 * unit["ben"]) / 5, unit["new"]]
    np.testing.assert_allclose(found.matrix, np.array(expected), atol=1e-6)
    assert found.fingerprint.startswith("toy|smoothed=")


def test_without_a_neighbour_vectors_stay_to_the_bit() -> None:
    assert np.array_equal(smoothed(three(), {}).matrix, three().matrix)
    cut = smoothed(three(), {"ana": {"label:a": 1}, "ben": {"label:a": 1}})
    assert not cut.matrix[2].any()


def test_a_user_who_was_removed_is_as_one_who_was_never_there() -> None:
    table, labels = three().with_users(["old"]), {**LABELS, "old": {"label:a": 2}}
    assert not np.array_equal(smoothed(table, labels).matrix[:3], smoothed(three(), LABELS).matrix)
    left = smoothed(table.without({"old"}), {name: held for name, held in labels.items() if name != "old"})
    assert np.array_equal(left.matrix, smoothed(three(), LABELS).matrix)


def test_a_smoothed_file_gives_a_new_user_a_history(tmp_path: Path) -> None:
    assert smoothed(three(), LABELS).write(tmp_path / "users.parquet") == 3
    assert three().write(tmp_path / "plain.parquet") == 2
    file = UserVectorFile(tmp_path / "users.parquet")
    reader = UserVectorReader(UserEmbedderConfig(2, 8, mode="vectors"), file)
    (new, nobody) = reader.read([Profile("new"), Profile("nobody")])
    np.testing.assert_allclose(new.values, [[0.6, 0.8]], atol=1e-3)
    assert len(nobody) == 0
    assert UserTable.from_file(file).user_ids == ("ana", "ben", "new")


def test_training_tells_hidden_users_by_their_neighbours() -> None:
    """Rows 38 and 56: contrast of what neighbours say with the own vector, on pruned graphs."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((6, 8))
    group = np.arange(120) % 6
    vectors = centres[group] + 0.3 * draw.standard_normal((120, 8)) + 2.0
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    table = UserTable(tuple(map(str, range(120))), vectors, np.full(120, 5), "toy")
    graph = UserGraph.of(table, {str(n): {f"label:{group[n]}": 1, "label:all": 1} for n in range(120)})
    smoother = GraphSmoother(8)
    losses = train_smoother(smoother, graph, table, SmootherTraining(steps=60, learning_rate=0.02))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    again = GraphSmoother(8)
    assert train_smoother(again, graph, table, SmootherTraining(steps=60, learning_rate=0.02)) == losses


@pytest.mark.parametrize(("records", "own"), [(0, 0.0), (8, 0.5)])
def test_a_mixture_is_smoothed_by_the_neighbours(records: int, own: float) -> None:
    """Row 52: a user without records has the neighbours' shares, one with eight half of each."""
    table = three()
    graph = UserGraph.of(
        table, {"ana": {"label:a": 1}, "ben": {"label:b": 1}, "new": {"label:a": 3, "label:b": 1}}, least=2, nearest=0
    )
    mixtures = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1.0 if records else 0]])
    found = smoothed_mixtures(graph, mixtures, torch.tensor([1, 1, records]))[2]
    a, b = 3 / 4 / (7 / 4), 1 / 4 / (5 / 4)
    expected = (1 - own) * torch.tensor([a / (a + b), b / (a + b), 0]) + own * torch.tensor([0, 0, 1.0])
    torch.testing.assert_close(found, expected)
