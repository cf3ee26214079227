"""Tokens made more likely while an answer is written, for each row of a batch in its own way.

>>> llm.generate([Request("A title, please: ...", lifts={1012: 1.5}), Request("Another ...")], options)

``scores[row, token] += lifts[row][token]`` at every step, on logits with greedy decoding and on log-probabilities with
beams. A row without lifts keeps its scores to the last bit, whatever its neighbours lift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError


class TokenLifts(LogitsProcessor):
    """Adds to the scores of tokens.

    Args:
        lifts: for each prompt of the batch, what is added, by token id; None or empty adds nothing.
        num_beams: rows that each prompt has in the batch, side by side.
    """

    def __init__(self, lifts: Sequence[Mapping[int, float] | None], num_beams: int) -> None:
        places = [
            (place * num_beams + beam, token, value)
            for place, each in enumerate(lifts)
            for beam in range(num_beams)
            for token, value in (each or {}).items()
        ]
        rows, tokens, values = zip(*places, strict=True) if places else ((), (), ())
        self._rows = torch.tensor(rows, dtype=torch.long)
        self._tokens = torch.tensor(tokens, dtype=torch.long)
        self._values = torch.tensor(values, dtype=torch.float32)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with the lifts.

        Args:
            input_ids: prompts and what was generated so far.  # (rows, length)
            scores: of the next token.  # (rows, vocabulary)

        Returns:
            New scores.  # (rows, vocabulary)
        """
        device = scores.device
        lifted = scores.clone()
        # No place occurs twice, and -inf stays what it is: what the model's own rules forbid is not lifted.
        lifted[self._rows.to(device), self._tokens.to(device)] += self._values.to(device, scores.dtype)
        return lifted


def check_lifts(lifts: Mapping[int, float] | None, config: Any) -> Mapping[int, float] | None:
    """`lifts` if they are for tokens of the model, and finite.

    Args:
        lifts: by token id.
        config: the model's configuration.

    Raises:
        InvalidOptionError: otherwise.
    """
    if not lifts:
        return None
    size = getattr(config, "vocab_size", None) or getattr(getattr(config, "decoder", None), "vocab_size", None)
    for token, value in lifts.items():
        if token < 0 or (size is not None and token >= size):
            raise InvalidOptionError(
                f"lifts must be for token ids from 0 to {(size or 0) - 1}, was given one for: {token}"
            )
        if not math.isfinite(value):
            raise InvalidOptionError(f"a lift must be finite, was: {value} (token {token})")
    return lifts
