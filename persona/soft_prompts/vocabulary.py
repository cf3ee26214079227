"""The channel of personal vocabulary: words that a user likes are made a little more likely in the answer.

The copy term of DHAP (Ma et al., "One Chatbot Per Person", arXiv 2108.09355), for an LLM that stays frozen::

    logits[token] += beta * log(1 + tf(user, token) * idf(token))

with ``tf`` the share of the user's records in which the token occurs, and ``idf`` from the texts of many users. Read
from the records' targets; of records without a target, from their texts. Special tokens are never lifted.

>>> from persona import Record, load_llm
>>> llm = load_llm("tiny")
>>> channel = VocabularyChannel(llm, TokenBackground.from_texts(llm, ["a fine film", "a dull film"]), beta=0.5)
>>> [len(channel.lifts(Profile("ana", (Record("x", target=word),)))) > 0 for word in ("film", "superb")]
[False, True]

It is untrained, and its gain was small where it was measured (docs/results/vocabulary.md); a user embedder that copies
(`persona.soft_prompts.copying`) does more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from persona.channels import Ask, Channel, Contribution, check_way
from persona.errors import InvalidOptionError
from persona.llm.transformers import TransformersLM
from persona.protocols import LIFTS, LanguageModel
from persona.records import Profile
from persona.soft_prompts.copying import TokenBackground

MOST_TOKENS = 512
"""A user's strongest tokens that are lifted at most."""


class VocabularyChannel(Channel):
    """Lifts the tokens of what the user has written.

    Args:
        llm: the transformers model that answers.
        background: what is common to all users.
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
        check_way(llm, LIFTS, "the channel 'vocabulary'")
        assert isinstance(llm, TransformersLM)  # the only kind that lifts
        self.llm = llm
        self.background = background
        self.beta = beta
        self._special = frozenset(llm.special_tokens)

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The lifts of the users of `asks`."""
        if not self.beta:
            return [Contribution() for _ in asks]
        # By profile and not by user: one batch may hold the same user as of two days.
        different = {id(ask.profile): ask.profile for ask in asks}
        lifts = {identity: self.lifts(profile) for identity, profile in different.items()}
        return [Contribution(lifts=lifts[id(ask.profile)] or None) for ask in asks]

    def lifts(self, profile: Profile) -> dict[int, float]:
        """What is added to each token's score for this user; all above 0, the strongest first."""
        texts = [record.written for record in profile]
        if not texts:
            return {}
        counts = Counter(token for ids in self.llm.target_ids(texts) for token in set(ids))
        lifts = {
            token: self.beta * math.log1p(count / len(texts) * float(self.background.idf[token]))
            for token, count in counts.items()
            if token not in self._special
        }
        strongest = sorted(lifts.items(), key=lambda each: (-each[1], each[0]))[:MOST_TOKENS]
        return {token: value for token, value in strongest if value > 0}
