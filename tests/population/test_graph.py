"""The graph of users: links by hand, symmetric normalisation, pruning by degrees (rows 7, 38, 56)."""

from __future__ import annotations

import numpy as np
import torch

from persona.population.graph import UserGraph
from persona.population.vectors import UserTable


def table(*user_ids: str, dim: int = 2) -> UserTable:
    matrix = np.zeros((len(user_ids), dim), np.float32)
    return UserTable(user_ids, matrix, np.zeros(len(user_ids), np.intp), "toy")


def dense(graph: UserGraph) -> torch.Tensor:
    return graph.sums(torch.eye(len(graph.held)))


def test_users_who_share_a_label_are_linked_through_it() -> None:
    """Row 38, second order: user, label, user. A by hand; the last shares nothing that two hold."""
    features = {"ana": {"label:a": 1, "label:b": 3}, "ben": {"label:a": 2}, "cy": {"label:b": 1}, "dee": {"label:c": 1}}
    graph = UserGraph.of(table("ana", "ben", "cy", "dee"), features, least=2)
    # H: ana 1/4 a, 3/4 b; ben a; cy b. delta_a = 5/4, delta_b = 7/4.
    expected = torch.zeros(4, 4)
    expected[0, 1] = expected[1, 0] = 1 / 4 / (5 / 4)
    expected[0, 2] = expected[2, 0] = 3 / 4 / (7 / 4)
    torch.testing.assert_close(dense(graph), expected, atol=1e-6, rtol=0)
    degrees = expected.sum(1)
    torch.testing.assert_close(graph.degrees(), degrees, atol=1e-6, rtol=0)
    scale = torch.where(degrees > 0, degrees.clamp_min(1e-9).rsqrt(), 0)
    torch.testing.assert_close(graph.spread(torch.eye(4)), scale[:, None] * expected * scale, atol=1e-6, rtol=0)


def test_a_word_links_only_where_it_is_rare_and_nothing_links_fewer_than_the_least() -> None:
    features = {str(n): {"word:the": 1, **({"word:lighthouse": 1} if n < 3 else {})} for n in range(20)}
    users = table(*features)
    assert UserGraph.of(users, features, least=3, rare=0.5).degrees().nonzero()[:, 0].tolist() == [0, 1, 2]
    assert not UserGraph.of(users, features, least=4, rare=0.5).degrees().any()


def test_near_vectors_link_both_ways_and_only_those_who_have_one() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0, 0]], np.float32)
    users = UserTable(("ana", "ben", "cy", "new"), vectors, np.array([1, 1, 1, 0]), "toy")
    graph = UserGraph.of(users, {}, nearest=1)
    assert dense(graph).tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert graph.without_near(torch.tensor([2])).degrees().tolist() == [1, 1, 0, 0]


def test_edges_of_many_are_pruned_more_often() -> None:
    """Row 56: what is kept follows 1 / sqrt(deg_u deg_f); the graph of near vectors is frozen."""
    features = {f"u{n}": {"label:all": 1, f"label:{n % 10}": 1} for n in range(40)}
    graph = UserGraph.of(table(*features), features, least=2)
    popular = sorted(set(graph.held.indices()[1].tolist()), key=lambda f: -(graph.held.indices()[1] == f).sum())[0]
    generator = torch.Generator().manual_seed(0)
    kept = [graph.pruned(0.5, generator).held.indices() for _ in range(200)]
    assert {each.shape[1] for each in kept} == {40}
    share = sum(int((each[1] == popular).sum()) for each in kept) / (200 * 40)
    # Degrees 40 and 4: odds of 1 to sqrt(10) for one draw, so far fewer than half of the 40 kept.
    assert 0.2 < share < 0.35
    assert graph.pruned(0.5, generator).near is graph.near
    assert torch.equal(dense(graph.pruned(1.0, generator)), dense(graph))
