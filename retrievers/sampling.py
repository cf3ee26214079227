"""Records drawn at random: the control that says what *any* text of the user is worth.

LaMP's own `random` draws with replacement and from one stream for the whole run, so that an answer depends on the
questions before it. Here the draw is without replacement and depends on the seed, the user and the query alone.
"""

from __future__ import annotations

import hashlib
import json
import random

from persona.records import Profile

from .base import ProfileRetriever, Ranking, scored


class RandomRetriever(ProfileRetriever):
    """Retrieves random records, the same ones for the same question. Every score is 0.0.

    Args:
        seed: another seed gives another draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        """`k` records without replacement, in the order drawn."""
        # ASCII JSON keeps the three parts apart and takes any string, lone surrogates included.
        key = json.dumps([self.seed, profile.user_id, query]).encode()
        generator = random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
        order = list(range(len(profile)))
        generator.shuffle(order)
        return scored(profile, order[:k], [0.0] * len(profile))
