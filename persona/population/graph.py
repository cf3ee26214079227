"""Who is linked to whom: users who share a label, a rare word or a field, and users whose vectors are near.

A *feature* is held by users, as a hyperedge: ``label:comedy``, ``word:lighthouse``, ``country:CH``. With H_uf the share
that f has among u's features of its kind, delta_f = sum_u H_uf, and N the graph of the nearest vectors,

    A = H diag(1 / delta) H^T - diag + N      d = A 1      S = diag(d)^-1/2 A diag(d)^-1/2

so two users who share a feature are two steps of the graph of users and features apart: the second order of MMHCL
("MMHCL: Multi-Modal Hypergraph Contrastive Learning for Recommendation"), normalised as in NGCF (Wang et al., "Neural
Graph Collaborative Filtering", arXiv 1905.08108). A is never written down: a step costs as much as there are features
held, and a label may be everybody's.

`UserGraph.pruned` is the degree-sensitive pruning of FREEDOM for a training (Zhou and Shen, "A Tale of Two Graphs:
Freezing and Denoising Graph Structures for Multimodal Recommendation", arXiv 2211.06924): what a user holds is kept
with odds of 1 / sqrt(deg_u deg_f), and N is frozen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from persona.population.features import LEAST, Features
from persona.population.vectors import UserTable

_NOTHING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class UserGraph:
    """The graph A of some users; see the module.

    Attributes:
        held: H, sparse.  # (users, features)
        near: N, sparse, symmetric.  # (users, users)
    """

    held: Tensor
    near: Tensor

    @classmethod
    def of(
        cls, table: UserTable, features: Features, *, least: int = LEAST, rare: float = 0.1, nearest: int = 10
    ) -> UserGraph:
        """The graph of a table's users.

        Args:
            table: its users are the nodes; those with a vector have nearest ones.
            features: of the users; some may have none.
            least: users who must hold a feature, at least 2; what fewer hold links nobody.
            rare: share of the users that may hold a word for it to link them.
            nearest: links from each user to the nearest by cosine; 0 for none.
        """
        users = Counter(feature for user_id in table.user_ids for feature in features.get(user_id, ()))
        most = {"word": rare * len(table)}
        kept = {name for name, n in users.items() if max(2, least) <= n <= most.get(name.partition(":")[0], n)}
        columns = {name: column for column, name in enumerate(sorted(kept))}
        entries: list[tuple[int, int, float]] = []
        for row, user_id in enumerate(table.user_ids):
            own: dict[str, list[tuple[int, int]]] = defaultdict(list)
            for name, times in features.get(user_id, {}).items():
                if name in columns:
                    own[name.partition(":")[0]].append((columns[name], times))
            for kind in own.values():
                total = sum(times for _, times in kind)
                entries += [(row, column, times / total) for column, times in kind]
        shape = (len(table), max(1, len(columns)))
        return cls(_of_entries(entries, shape), _nearest(table, nearest))

    def pruned(self, keep: float, generator: torch.Generator) -> UserGraph:
        """A share `keep` of what users hold, the rest left out at random, rather where many hold it."""
        indices, values = self.held.indices(), self.held.values()
        users, features = (torch.bincount(each)[each].float() for each in indices)
        # The smallest of exponential times with these rates: a draw without replacement.
        times = torch.empty(len(values)).exponential_(generator=generator) * (users * features).sqrt()
        kept = times.topk(round(keep * len(values)), largest=False).indices.sort().values
        return replace(self, held=_sparse(indices[:, kept], values[kept], self.held.shape))

    def without_near(self, hidden: Tensor) -> UserGraph:
        """The same without the links by the vectors of some users.  # hidden: (some,)"""
        indices, values = self.near.indices(), self.near.values()
        left = ~torch.isin(indices, hidden).any(0)
        return replace(self, near=_sparse(indices[:, left], values[left], self.near.shape))

    def sums(self, values: Tensor) -> Tensor:
        """A `values`.  # (users, dim)"""
        (users, features), shares = self.held.indices(), self.held.values()
        sizes = torch.zeros(self.held.shape[1]).index_add(0, features, shares).clamp_min(_NOTHING)  # delta
        itself = torch.zeros(len(values)).index_add(0, users, shares.square() / sizes[features])
        shared = torch.sparse.mm(self.held, torch.sparse.mm(self.held.t(), values) / sizes[:, None])
        found: Tensor = shared - itself[:, None] * values + torch.sparse.mm(self.near, values)
        return found

    def degrees(self) -> Tensor:
        """d; 0 for a user without a neighbour.  # (users,)"""
        found = self.sums(torch.ones(len(self.held), 1))[:, 0]
        return torch.where(found > _NOTHING, found, 0.0)

    def spread(self, values: Tensor) -> Tensor:
        """S `values`; zeros for a user without a neighbour.  # (users, dim)"""
        degrees = self.degrees()
        scale = torch.where(degrees > 0, degrees.clamp_min(_NOTHING).rsqrt(), 0.0)[:, None]
        return scale * self.sums(scale * values)

    def means(self, values: Tensor) -> Tensor:
        """The mean of the neighbours who have values, by A; zeros without any.  # (users, dim)"""
        found = self.sums(values.any(1, keepdim=True).float())
        return torch.where(found > _NOTHING, self.sums(values) / found.clamp_min(_NOTHING), 0.0)


def _nearest(table: UserTable, most: int) -> Tensor:
    """Links of 1 / `most` between each user with a vector and the nearest, in both directions.  # (users, users)"""
    from sklearn.neighbors import NearestNeighbors

    rows = np.flatnonzero(table.known)
    most = min(most, len(rows) - 1)
    links: set[tuple[int, int]] = set()
    if most > 0:
        fitted = NearestNeighbors(n_neighbors=most, metric="cosine").fit(table.matrix[rows])
        for row, others in zip(rows.tolist(), rows[fitted.kneighbors(return_distance=False)].tolist(), strict=True):
            links.update(pair for other in others for pair in ((row, other), (other, row)))
    return _of_entries([(row, other, 1 / most) for row, other in sorted(links)], (len(table), len(table)))


def _of_entries(entries: Sequence[tuple[int, int, float]], shape: tuple[int, int]) -> Tensor:
    """Row, column and value of each."""
    array = np.array(entries, np.float64).reshape(-1, 3)
    return _sparse(torch.from_numpy(array[:, :2].T.astype(np.int64)), torch.from_numpy(array[:, 2]).float(), shape)


def _sparse(indices: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, tuple(shape), check_invariants=True).coalesce()
