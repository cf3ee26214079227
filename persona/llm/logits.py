"""Tokens made more likely while an answer is written, for each row of a batch in its own way.

>>> llm.generate([Request("A title, please: ...", lifts={1012: 1.5}), Request("Another ...")], options)

``scores[row, token] += lifts[row][token]`` at every step, on logits with greedy decoding and on log-probabilities with
beams; with `persona.protocols.StepLifts` what is added depends on what the row has written. A row without lifts keeps
its scores to the last bit, whatever its neighbours lift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError
from persona.protocols import Lifts, StepLifts


class TokenLifts(LogitsProcessor):
    """Adds to the scores of tokens.

    Args:
        lifts: for each prompt of the batch, what is added, by token id; None or empty adds nothing.
        num_beams: rows that each prompt has in the batch, side by side.
        forced: tokens that the model is made to write before an answer; they are no part of it.
    """

    def __init__(self, lifts: Sequence[Lifts | None], num_beams: int, forced: int = 0) -> None:
        self._beams, self._forced = num_beams > 1, forced
        of_rows = [(place * num_beams + beam, each) for place, each in enumerate(lifts) for beam in range(num_beams)]
        self._copied = [(row, each) for row, each in of_rows if each and not isinstance(each, Mapping)]
        places = [
            (row, token, value)
            for row, each in of_rows
            if each and isinstance(each, Mapping)
            for token, value in each.items()
        ]
        rows, tokens, values = zip(*places, strict=True) if places else ((), (), ())
        self._rows = torch.tensor(rows, dtype=torch.long)
        self._tokens = torch.tensor(tokens, dtype=torch.long)
        self._values = torch.tensor(values, dtype=torch.float32)
        self._begin: int | None = None

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
        if self._begin is None:
            self._begin = input_ids.shape[1] + self._forced  # what comes behind is the answer
        if self._copied and input_ids.shape[1] >= self._begin:
            self._copy(input_ids[:, self._begin :].tolist(), lifted)
        return lifted

    def _copy(self, written: Sequence[Sequence[int]], scores: torch.Tensor) -> None:
        """Lift in place what is copied.

        Beams are compared by the sum of their log-probabilities, so these have to be some again.
        """
        device = scores.device
        rows = np.repeat([row for row, _ in self._copied], [len(each.tokens) for _, each in self._copied])
        tokens = np.concatenate([each.tokens for _, each in self._copied])
        values = np.concatenate([each.after(written[row]) for row, each in self._copied])
        places = torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)
        scores[places] += torch.from_numpy(values).to(device, scores.dtype)
        if self._beams:
            copied = torch.tensor([row for row, _ in self._copied], device=device)
            scores[copied] = scores[copied].log_softmax(-1)


def check_lifts(lifts: Lifts | None, config: Any) -> Lifts | None:
    """`lifts` if they are for tokens of the model, and finite.

    Args:
        lifts: by token id, or of what may be copied.
        config: the model's configuration.

    Raises:
        InvalidOptionError: otherwise.
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


def vocabulary_size(config: Any) -> int | None:
    """How many tokens a model can write, by its configuration; None if that does not say."""
    parts = (config, getattr(config, "decoder", None), getattr(config, "text_config", None))
    sizes = (getattr(part, "vocab_size", None) for part in parts)
    return next((int(size) for size in sizes if size), None)


def _first_step(lifts: StepLifts) -> list[tuple[int, float]]:
    """The lifts of an answer's first token."""
    return list(zip(lifts.tokens.tolist(), lifts.after(()).tolist(), strict=True))
