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

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError
from persona.protocols import Lifts, StepLifts


class TokenLifts(LogitsProcessor):
    """A logits processor that adds to the scores of tokens.

    Args:
        lifts: for each prompt of the batch, what is added; None or empty adds nothing.
        num_beams: rows that each prompt has in the batch, side by side.
        forced: tokens that the model is made to write before an answer; they are no part of it.
    """

    def __init__(self, lifts: Sequence[Lifts | None], num_beams: int, forced: int = 0) -> None:
        self._beams, self._forced = num_beams > 1, forced
        by_row = enumerate(each for each in lifts for _ in range(num_beams))
        lifted = [(row, each) for row, each in by_row if each]
        self._steps = [(row, each) for row, each in lifted if not isinstance(each, Mapping)]
        constant = [(row, *item) for row, each in lifted if isinstance(each, Mapping) for item in each.items()]
        rows, tokens, values = zip(*constant, strict=True) if constant else ((), (), ())
        self._rows = torch.tensor(rows, dtype=torch.long)
        self._tokens = torch.tensor(tokens, dtype=torch.long)
        self._values = torch.tensor(values, dtype=torch.float32)
        self._begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with the lifts; arguments and result as `LogitsProcessor` has them.  # (rows, vocabulary)"""
        device = scores.device
        lifted = scores.clone()
        # No pair occurs twice, and -inf stays what it is: what the model's own rules forbid is not lifted.
        lifted[self._rows.to(device), self._tokens.to(device)] += self._values.to(device, scores.dtype)
        if self._begin is None:
            self._begin = input_ids.shape[1] + self._forced
        if self._steps and input_ids.shape[1] >= self._begin:
            self._lift_step(input_ids[:, self._begin :].tolist(), lifted)
        return lifted

    def _lift_step(self, written: Sequence[Sequence[int]], scores: Tensor) -> None:
        """Add, in place, what depends on the tokens `written` of each answer."""
        device = scores.device
        rows = np.repeat([row for row, _ in self._steps], [len(lifts.tokens) for _, lifts in self._steps])
        tokens = np.concatenate([lifts.tokens for _, lifts in self._steps])
        values = np.concatenate([lifts.after(written[row]) for row, lifts in self._steps])
        at = torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)
        scores[at] += torch.from_numpy(values).to(device, scores.dtype)
        if self._beams:
            # Beams are compared by the sum of their log-probabilities, so these have to be normalised again.
            changed = torch.tensor([row for row, _ in self._steps], device=device)
            scores[changed] = scores[changed].log_softmax(-1)


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
    for token, value in lifts.items() if isinstance(lifts, Mapping) else _first_step(lifts):
        if token < 0 or (size is not None and token >= size):
            raise InvalidOptionError(
                f"lifts must be for token ids from 0 to {(size or 0) - 1}, was given one for: {token}"
            )
        if not math.isfinite(value):
            raise InvalidOptionError(f"a lift must be finite, was: {value} (token {token})")
    return lifts


def _first_step(lifts: StepLifts) -> list[tuple[int, float]]:
    """The lifts of an answer's first token."""
    return list(zip(lifts.tokens.tolist(), lifts.after(()).tolist(), strict=True))


def vocabulary_size(config: Any) -> int | None:
    """How many tokens a model can write, by its configuration; None if that does not say."""
    parts = (config, getattr(config, "decoder", None), getattr(config, "text_config", None))
    sizes = (getattr(part, "vocab_size", None) for part in parts)
    return next((int(size) for size in sizes if size), None)
