"""Learned queries that read a history: a Q-Former over records.

The queries x_1 ... x_m attend to one another, then to the records and the null record, then pass an MLP, each with a
residual; `layers` times. With R = [g_0, g_1, ..., g_n] in `dim` dimensions,

    x <- x + SelfAttention(x)      x <- x + CrossAttention(x, R)      x <- x + MLP(x)      output = [x_1, ..., x_m]

There are no positions, so the order of records does not matter. Its first phase, before the LLM reads anything, is the
objective `alignment`.

Source: ILM, Item-Language Model for Conversational Recommendation (arXiv 2406.02844), after BLIP-2 (arXiv 2301.12597).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records


class QueriesPooling(Pooling):
    """The queries of the module's docstring."""

    def __init__(self, config: UserEmbedderConfig, *, queries: int = 8, dim: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.size = queries * dim
        self.queries = nn.Parameter(0.1 * torch.randn(queries, dim))
        self.records = nn.Linear(config.width, dim)
        heads = math.gcd(dim, 4)
        block = nn.TransformerDecoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerDecoder(block, layers, nn.LayerNorm(dim))

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, queries * dim)"""
        users = len(records.mask)
        read = torch.cat((records.null.expand(users, 1, -1), records.hidden), dim=1)
        padding = torch.cat((torch.zeros_like(records.mask[:, :1]), ~records.mask), dim=1)
        queries = self.queries.expand(users, -1, -1)
        found: Tensor = self.blocks(queries, self.records(read), memory_key_padding_mask=padding)
        return found.flatten(1)
