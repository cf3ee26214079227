"""Tokens in an order, the most telling first, so that one user embedder serves with as few as there is room for.

A step of the training shows with probability `rate` the first k tokens of the n alone, k being each of 1 ... n equally
often. `UserEmbedder.cut` gives the first k: a prompt with really fewer tokens.

Source: nested dropout, as the mapper of NeTI orders its output ("A Neural Space-Time Representation for Text-to-Image
Personalization", arXiv 2305.15391). Its other half, an output for each layer, is `BandTokens`.
"""

from __future__ import annotations

import numpy as np

from persona.errors import check_share
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.tokens.linear import LinearTokens


class NestedTokens(LinearTokens):
    """The tokens of the module's docstring."""

    def __init__(self, config: UserEmbedderConfig, *, rate: float = 0.5) -> None:
        super().__init__(config)
        check_share(rate=rate)
        self.rate = rate

    def shown(self, draw: np.random.Generator) -> int | None:
        """See the module."""
        return int(draw.integers(1, self.shape[0] + 1)) if draw.random() < self.rate else None
