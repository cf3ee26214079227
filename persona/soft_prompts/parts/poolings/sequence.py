"""A history as one sequence, newest record first, read by a small transformer.

Record i becomes two vectors, with its position r_i (0 for the newest) and their types,

    K k_i + P[r_i] + T[key]        V g_i + P[r_i] + T[value]

and the output is what a learned vector in front of them is after `layers` blocks of self-attention.

Source: Recformer, Text Is All You Need (arXiv 2305.13731): items as pairs of key and value, newest first, with
embeddings of item positions and token types, here over vectors of records in place of their tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records


class SequencePooling(Pooling):
    """The transformer of the module's docstring over the newest `records`, in `dim` dimensions."""

    ordered = True

    def __init__(self, config: UserEmbedderConfig, *, records: int = 32, dim: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.records, self.size = records, dim
        self.key, self.value = nn.Linear(config.encoder_dim, dim), nn.Linear(config.width, dim)
        self.positions = nn.Parameter(0.1 * torch.randn(records, dim))
        self.types = nn.Parameter(0.1 * torch.randn(2, 1, dim))
        self.first = nn.Parameter(0.1 * torch.randn(1, 1, dim))
        heads = math.gcd(dim, 4)
        block = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, dim)"""
        rows, mask = newest(records.mask, self.records)  # (batch, some)
        users = torch.arange(len(rows), device=rows.device)[:, None]
        keys = records.keys[users, rows] * records.keys.shape[2] ** 0.5  # unit vectors, brought to the order of 1
        both = torch.stack((self.key(keys), self.value(records.hidden[users, rows])), dim=1)
        tokens = (both + self.positions[: rows.shape[1]] + self.types).flatten(1, 2)
        tokens = torch.cat((self.first.expand(len(rows), -1, -1), tokens), dim=1)
        padding = torch.cat((torch.zeros_like(mask[:, :1]), ~mask, ~mask), dim=1)
        read: Tensor = self.blocks(tokens, src_key_padding_mask=padding)[:, 0]
        return read


def newest(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The rows of the last records of each user, newest first, and which of them are there.  # twice (batch, some)"""
    numbers = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    rows = numbers.masked_fill(~mask, -1).sort(1, descending=True).values[:, :most]
    return rows.clamp_min(0), rows >= 0
