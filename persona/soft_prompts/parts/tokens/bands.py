"""What is said of a user goes into bands of the LLM's blocks: content into low and middle ones, style into high ones.

Beside soft tokens, as without the part, a vector is added behind each block l (`persona.llm.frozen.steering`). With m
the state, y the mean style of the user's records (`persona.encoders.style`) and some empty ones, and p_l learned,

    v_l = U_c GELU(W_c m + p_l)    for the first `content` share of the blocks
    v_l = U_s GELU(W_s y + p_l)    for the others

An attribute reaches the blocks of its band alone: if it is edited, what the others get stays as it is. Vectors do not
depend on the question.

Source: attributes by stage of ProSpect ("Prompt Spectrum for Attribute-Aware Personalization of Diffusion Models",
arXiv 2305.16225), by layer here; and the small network of (layer, user) of NeTI (arXiv 2305.15391), whose output is
added at all positions instead of those of the user's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.encoders.style import STYLE_DIM
from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Records
from persona.soft_prompts.parts.tokens.linear import LinearTokens, zero

CONTENT, STYLE = "content", "style"


class BandTokens(LinearTokens):
    """The vectors of the module's docstring.

    Args:
        dim: numbers between the maps W and U.
        content: share of the blocks that get content.
    """

    reads_records = True
    steers = True

    def __init__(self, config: UserEmbedderConfig, *, dim: int = 64, content: float = 2 / 3) -> None:
        super().__init__(config)
        count = config.llm_blocks
        low = round(content * count)
        if not 0 < low < count:
            raise InvalidOptionError(
                f"an LLM needs a block for content and one for style: of {count}, the share {content} are {low}"
            )
        self.blocks = {CONTENT: range(low), STYLE: range(low, count)}
        self.style = slice(2 * config.encoder_dim, 2 * config.encoder_dim + STYLE_DIM)
        sizes = {CONTENT: config.width, STYLE: STYLE_DIM}
        self.read = nn.ModuleDict({name: nn.Linear(size, dim) for name, size in sizes.items()})
        self.write = nn.ModuleDict({name: zero(nn.Linear(dim, config.llm_hidden)) for name in sizes})
        self.places = nn.Parameter(torch.randn(count, dim) / dim**0.5)

    def attributes(self, mixed: Tensor, records: Records) -> dict[str, Tensor]:
        """m and y of some users, by name.  # (batch, width), (batch, STYLE_DIM)"""
        styles = records.values[..., self.style] * records.mask[..., None]
        count = records.mask.sum(1, keepdim=True) + records.null_records
        return {CONTENT: mixed, STYLE: styles.sum(1) / count}

    def vectors(self, attributes: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """v_l by block, of attributes that may have been edited.  # (batch, llm_hidden) each"""
        found = {}
        for name, attribute in attributes.items():
            read = self.read[name](attribute)
            found.update({block: self.write[name](F.gelu(read + self.places[block])) for block in self.blocks[name]})
        return found

    def steering(self, mixed: Tensor, records: Records) -> dict[int, Tensor]:
        """See the module.  # (batch, llm_hidden) each"""
        return self.vectors(self.attributes(mixed, records))
