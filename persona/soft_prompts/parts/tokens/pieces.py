"""Soft tokens from rows that users with like codes share: a piece is a run of codes, hashed into one table.

With k the residual codes of the state (`ResidualCodes`), s' what they stand for, and T a table of `rows` vectors,

    tokens = W (s' + sum over n <= grams, starts i of T[h_in(k_i ... k_{i+n-1})]) + b

h_in is the hash of its own of each field, i.e. each place and length. Rows begin as zeros: a user whose longer pieces
nobody had before is told by the shorter ones, which somebody had.

Source: n-grams of Semantic IDs in place of random ids ("Better Generalization with Semantic IDs", arXiv 2306.08121; its
learned SentencePiece pieces are not here); one table for all fields: "Unified Embedding" (arXiv 2305.12102).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Records
from persona.soft_prompts.parts.states.residual import ResidualCodes
from persona.soft_prompts.parts.tokens.linear import LinearTokens

_PRIME = 2**31 - 1


class HashedTable(nn.Module):
    """One table of vectors for the values of any number of fields; memory does not grow with users or values.

    Field f has the hash h_f(v) = ((a_f v + b_f) mod p) mod rows, where a_f and b_f follow from f.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(rows, dim))

    def forward(self, fields: Mapping[int, Tensor]) -> Tensor:
        """The sum of the rows of one value in each field, int64 from 0 to 2^31 - 2.  # (batch,) each -> (batch, dim)"""
        rows = torch.stack([self.hashed(*each) for each in fields.items()], dim=1)  # (batch, fields)
        return F.embedding(rows, self.rows).sum(1)

    def hashed(self, field: int, values: Tensor) -> Tensor:
        """Rows of values in a field.  # (batch,)"""
        draw = torch.Generator().manual_seed(field)
        first, second = torch.randint(1, _PRIME, (2,), generator=draw).tolist()
        hashed: Tensor = (values * first + second) % _PRIME % len(self.rows)
        return hashed


class PieceTokens(LinearTokens):
    """The tokens of the module's docstring; the options of the codes are those of `ResidualCodes`."""

    def __init__(
        self,
        config: UserEmbedderConfig,
        *,
        levels: int = 4,
        codes: int = 256,
        dim: int = 32,
        grams: int = 2,
        rows: int = 4096,
    ) -> None:
        super().__init__(config)
        if not 1 <= grams <= levels:
            raise InvalidOptionError(f"pieces of {levels} codes have 1 to {levels} of them, `grams` was: {grams}")
        self.grams = grams
        self.state = ResidualCodes(config, config.width, levels=levels, codes=codes, dim=dim)
        self.table = HashedTable(rows, config.width)

    def forward(self, mixed: Tensor, records: Records) -> Tensor:
        """See the module.  # (batch, n_tokens, llm_hidden)"""
        kept = self.state(mixed, torch.zeros(len(mixed)))
        return super().forward(kept + self.table(dict(enumerate(self.pieces(self.state.codes(mixed))))), records)

    def pieces(self, codes: Tensor) -> Iterator[Tensor]:
        """The pieces of some users as numbers, place by place of each length.  # (batch,) each"""
        for length in range(1, self.grams + 1):
            for run in codes.unfold(1, length, 1).unbind(1):  # (batch, length)
                value = torch.zeros_like(run[:, 0])
                for code in run.unbind(1):
                    value = (value * self.state.sizes[0] + code + 1) % _PRIME
                yield value
