"""Records drawn at random: the control that says what *any* text of the user is worth.

LaMP's own `random` draws with replacement and from one stream for the whole run, so that an answer depends on the
questions before it. Here the draw is without replacement and depends on the seed, the user and the query alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

from persona.records import Profile, ScoredRecord

from .ranking import check_k, check_query, pairs, scored


class RandomRetriever:
    """Retrieves random records, the same ones each time it is asked the same.

    The first k of a draw are the draw for k, so results for several k are nested. Every score is 0.0: no record is
    better than another.

    Args:
        seed: another seed gives another draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __repr__(self) -> str:
        return f"RandomRetriever(seed={self.seed})"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """`k` records without replacement, in the order drawn.

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` is no string.
        """
        k, query = check_k(k), check_query(query)
        # ASCII JSON keeps the three parts apart and takes any string, lone surrogates included.
        key = json.dumps([self.seed, profile.user_id, query]).encode()
        generator = random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
        order = list(range(len(profile)))
        generator.shuffle(order)
        return scored(profile, order[:k], [0.0] * len(profile))

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair; a result does not depend on its neighbours."""
        return [self.retrieve(profile, query, k) for profile, query in pairs(profiles, queries)]
