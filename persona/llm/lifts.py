"""Lifts: numbers added to the scores of an answer's tokens while it is generated or scored.

>>> TokenLifts([{1: 2.0}, None], num_beams=1)(torch.zeros(2, 1), torch.zeros(2, 3)).tolist()
[[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]

``scores[row, token] += lifts[row][token]`` at every step, on logits with greedy decoding and on log-probabilities with
beams. With `persona.protocols.StepLifts` what is added depends on what the row has written. A row without lifts keeps
its scores to the last bit, whatever its neighbours lift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError
from persona.protocols import Lifts


class TokenLifts(LogitsProcessor):
    """A logits processor that adds to the scores of tokens.

    Args:
        lifts: for each prompt of the batch, what is added; None or empty adds nothing.
        num_beams: rows that each prompt has in the batch, side by side.
        forced: tokens that the model is made to write before an answer; they are no part of it.
    """

    def __init__(self, lifts: Sequence[Lifts | None], num_beams: int, forced: int = 0) -> None:
        by_row = enumerate(each for each in lifts for _ in range(num_beams))
        self._lifts = [(row, each) for row, each in by_row if each]
        self._beams, self._forced = num_beams > 1, forced
        self._begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with the lifts; arguments and result as `LogitsProcessor` has them.  # (rows, vocabulary)"""
        if self._begin is None:
            self._begin = input_ids.shape[1] + self._forced
        changed = scores.clone()
        for row, lifts in self._lifts:
            by_step = not isinstance(lifts, Mapping)
            if by_step and input_ids.shape[1] < self._begin:
                continue
            tokens, values = lifted(lifts, input_ids[row, self._begin :].tolist() if by_step else ())
            # No token occurs twice, and -inf stays what it is: what the model's own rules forbid is not lifted.
            changed[row, tokens.to(scores.device)] += values.to(scores)
            if by_step and self._beams:
                # Beams are compared by the sum of their log-probabilities, so these have to be normalised again.
                changed[row] = changed[row].log_softmax(-1)
        return changed


def lifted(lifts: Lifts, written: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token ids, and what is added to the logit of each of them, after the tokens `written`.  # (tokens,), (tokens,)"""
    if isinstance(lifts, Mapping):
        return torch.tensor(list(lifts), dtype=torch.long), torch.tensor(list(lifts.values()), dtype=torch.float32)
    return torch.from_numpy(lifts.tokens), torch.from_numpy(lifts.after(written))


def check_lifts(lifts: Lifts | None, config: Any) -> Lifts | None:
    """`lifts`, or None if they are empty.

    Raises:
        InvalidOptionError: if a token is none of a model with the configuration `config`, or a number is not finite.
    """
    if not lifts:
        return None
    size = vocabulary_size(config)
    tokens, values = lifted(lifts, ())
    for token, value in zip(tokens.tolist(), values.tolist(), strict=True):
        if token < 0 or (size is not None and token >= size):
            raise InvalidOptionError(
                f"lifts must be for token ids from 0 to {(size or 0) - 1}, was given one for: {token}"
            )
        if not math.isfinite(value):
            raise InvalidOptionError(f"a lift must be finite, was: {value} (token {token})")
    return lifts


def vocabulary_size(config: Any) -> int | None:
    """How many tokens a model can write, by its configuration; None if that does not say."""
    parts = (config, getattr(config, "decoder", None), getattr(config, "text_config", None))
    sizes = (getattr(part, "vocab_size", None) for part in parts)
    return next((int(size) for size in sizes if size), None)
