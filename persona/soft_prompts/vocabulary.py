"""The channel of personal vocabulary: words that a user likes are made a little more likely in the answer.

The copy term of DHAP (Ma et al., "One Chatbot Per Person", arXiv 2108.09355), for an LLM that stays frozen::

    logits[token] += beta * log(1 + tf(user, token) * idf(token))

with ``tf`` the share of the user's records in which the token occurs, and ``idf = log((1 + N) / (1 + df))`` over N
background texts, which say what is common to everybody. Read from the records' targets, as the LLM would write them;
of records without a target, from their texts. Special tokens are never lifted.

>>> background = TokenBackground.from_texts(llm, titles_of_many_users)                          # doctest: +SKIP
>>> channel = VocabularyChannel(llm, background, beta=0.5)                                      # doctest: +SKIP
>>> Personalizer(llm, store, (RecordsChannel(), channel))                                    # doctest: +SKIP

With ``beta=0``, the default, the channel adds nothing and every answer is the same to the bit. What it does to scores
was measured (docs/results/vocabulary.md): look there before you switch it on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

from persona.channels import Ask, Channel, Contribution, check_way
from persona.errors import InvalidOptionError
from persona.protocols import LIFTS, LanguageModel
from persona.records import Profile

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM
    from persona.store.profile_store import ProfileStore

MOST_TOKENS = 512
"""A user's strongest tokens that are lifted at most."""

_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class TokenBackground:
    """How many of many people's texts hold each token: counts alone, no text and no owner.

    Attributes:
        texts: how many texts were counted.
        counts: token id -> in how many of them it stands.
    """

    texts: int
    counts: Mapping[int, int]

    @classmethod
    def from_texts(cls, llm: TransformersLM, texts: Iterable[str]) -> TokenBackground:
        """Count the tokens of texts such as the LLM is to write."""
        counts: Counter[int] = Counter()
        given = list(texts)
        for start in range(0, len(given), _TEXTS_AT_ONCE):
            for ids in llm.target_ids(given[start : start + _TEXTS_AT_ONCE]):
                counts.update(set(ids))
        return cls(len(given), dict(counts))

    @classmethod
    def from_store(cls, llm: TransformersLM, store: ProfileStore, *, users: int = 1_000) -> TokenBackground:
        """Count what the first `users` users of `store` have written: their targets, or texts where there are none."""
        profiles = (store.profile(user_id) for user_id in islice(store.user_ids(), users))
        return cls.from_profiles(llm, profiles)

    @classmethod
    def from_profiles(cls, llm: TransformersLM, profiles: Iterable[Profile]) -> TokenBackground:
        """Count what the users of `profiles` have written; a text that stands in several is counted once."""
        return cls.from_texts(llm, sorted({record.written for profile in profiles for record in profile}))

    def idf(self, token: int) -> float:
        """``log((1 + N) / (1 + df))``: 0 for a token of every text."""
        return math.log((1 + self.texts) / (1 + self.counts.get(token, 0)))


def check_lifting(llm: LanguageModel) -> TransformersLM:
    """`llm`, if it can lift tokens.

    Raises:
        UnsupportedChannelError: if it cannot.
    """
    check_way(llm, LIFTS, "lifted words")
    return cast("TransformersLM", llm)  # the only kind with this channel


class VocabularyChannel(Channel):
    """Puts what is to be lifted into the context of each request.

    Args:
        llm: the transformers model that answers.
        background: what is common to everybody.
        beta: the weight of the term, at least 0; 0 lifts nothing.

    Raises:
        InvalidOptionError: if `beta` is negative or not finite.
        UnsupportedChannelError: if the LLM cannot lift tokens.
    """

    name = "vocabulary"
    requires = LIFTS

    def __init__(self, llm: LanguageModel, background: TokenBackground, beta: float = 0.0) -> None:
        if not (math.isfinite(beta) and beta >= 0):
            raise InvalidOptionError(f"`beta` must be a number of at least 0, was: {beta}")
        self.llm = check_lifting(llm)
        self.background = background
        self.beta = beta
        self._special = frozenset(self.llm.special_tokens)

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The lifts of the users of `asks`."""
        if not self.beta:
            return [Contribution() for _ in asks]
        # By profile and not by user: one batch may hold the same user as of two days.
        different = {id(ask.profile): ask.profile for ask in asks}
        lifts = {place: self.lifts(profile) for place, profile in different.items()}
        return [Contribution(lifts=lifts[id(ask.profile)] or None) for ask in asks]

    def lifts(self, profile: Profile) -> dict[int, float]:
        """What is added to each token's score for this user; all above 0, the strongest first."""
        texts = [record.written for record in profile]
        if not texts or not self.beta:
            return {}
        counts = Counter(token for ids in self.llm.target_ids(texts) for token in set(ids))
        lifts = {
            token: self.beta * math.log1p(count / len(texts) * self.background.idf(token))
            for token, count in counts.items()
            if token not in self._special
        }
        strongest = sorted(lifts.items(), key=lambda each: (-each[1], each[0]))[:MOST_TOKENS]
        return {token: value for token, value in strongest if value > 0}
