"""From a state to soft tokens by one linear layer: what other tokens add to."""

from __future__ import annotations

from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Records, Tokens


class LinearTokens(Tokens):
    """W m + b, zero before any training, as without the part."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        self.shape = (config.n_tokens, config.llm_hidden)
        self.last = zero(nn.Linear(config.width, config.n_tokens * config.llm_hidden))

    def forward(self, mixed: Tensor, records: Records) -> Tensor:
        """See `Tokens`.  # (batch, n_tokens, llm_hidden)"""
        tokens: Tensor = self.last(mixed).view(len(mixed), *self.shape)
        return tokens


def zero(layer: nn.Linear) -> nn.Linear:
    """A layer that gives zeros before any training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
