"""Several rankings made one by reciprocal rank fusion.

A record's score is the sum over the retrievers of ``1 / (60 + rank)``, ranks counted from 1 (Cormack, Clarke and
Buettcher, SIGIR 2009). Ranks and not scores are added, since BM25 sums and cosines have no common scale:

    bm25   a b c          a: 1/61 + 1/62        b: 1/62 + 1/63        c: 1/63 + 1/61
    dense  c a b          fused: a (0.03252), c (0.03227), b (0.03200)
"""

from __future__ import annotations

from collections.abc import Sequence

from persona.errors import InvalidOptionError, check_least
from persona.protocols import Retriever
from persona.records import Profile, ScoredRecord

from .base import ProfileRetriever, Ranking, positions, scored


class HybridRetriever(ProfileRetriever):
    """Fuses the rankings of other retrievers.

    Whole rankings are fused, not their heads: a profile is small, and so the result for k is the beginning of the
    result for any greater k. Records with equal fused scores stand as the first retriever has them.

    Args:
        retrievers: at least one; each is asked once for a whole batch.
        damping: the 60 of the formula. A greater value makes the heads of the rankings count less.

    Raises:
        InvalidOptionError: if there is no retriever or `damping` is negative.
    """

    def __init__(self, retrievers: Sequence[Retriever], *, damping: float = 60) -> None:
        self.retrievers = tuple(retrievers)
        self.damping = damping
        if not self.retrievers:
            raise InvalidOptionError("a hybrid retriever needs at least one retriever, was given none")
        check_least(0, damping=damping)

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """The `k` records of each profile with the greatest fused scores."""
        deepest = max(map(len, profiles))
        rankings = [retriever.retrieve_batch(profiles, queries, deepest) for retriever in self.retrievers]
        return [self._fuse(profile, own, k) for profile, *own in zip(profiles, *rankings, strict=True)]

    def _fuse(self, profile: Profile, rankings: Sequence[Sequence[ScoredRecord]], k: int) -> Ranking:
        fused = [0.0] * len(profile)
        order: dict[int, None] = {}  # positions as the first ranking has them, then those that only later ones have
        for ranking in rankings:
            for rank, position in enumerate(positions(profile, ranking), start=1):
                fused[position] += 1.0 / (self.damping + rank)
                order[position] = None
        best_first = sorted(order, key=lambda position: -fused[position])
        return scored(profile, best_first[:k], fused)
