"""Behind which block, how strong, or not at all: what makes held-out texts of the user likelier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persona.llm.frozen.steering import Steered
from persona.llm.loss import TargetLoss
from persona.steering.contrast import OwnText
from persona.steering.options import SteeringOptions

_TOKENS = 4096
"""Tokens that are computed at once."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The best block and strength, and what they bring.

    Attributes:
        block, strength: these.
        loss, loss_plain: mean loss of the held-out texts with it and without, nats per token.
        wins: whether the gain is beyond chance (`SteeringOptions.gate`).
    """

    block: int
    strength: float
    loss: float
    loss_plain: float
    wins: bool


def capped(vector: Tensor, length: float, cap: float) -> Tensor:
    """`vector`, no longer than `cap` times `length`.  # (hidden,)"""
    norm = float(vector.norm())
    return vector * (cap * length / norm) if norm > cap * length else vector


def losses(loss: TargetLoss, text: OwnText, candidates: Sequence[Mapping[int, Tensor] | None]) -> NDArray[np.float64]:
    """The loss of a text with each of several steerings, nats per token.  # (candidates,)"""
    llm = loss.llm
    size = max(1, _TOKENS // (len(text.prompt) + len(text.target)))
    found: list[float] = []
    for start in range(0, len(candidates), size):
        part = candidates[start : start + size]
        with llm.turns, torch.no_grad(), Steered(llm.frozen.blocks, part):
            found += loss([text.prompt] * len(part), [text.target] * len(part)).tolist()
    return np.array(found)


def choose(
    loss: TargetLoss,
    directions: Mapping[int, Tensor],
    lengths: Mapping[int, float],
    held_out: Sequence[OwnText],
    options: SteeringOptions,
) -> Choice:
    """The block and strength with the least loss on held-out texts.

    Args:
        loss: of the LLM.
        directions: the user's direction behind each block, of the other texts.  # (hidden,) each
        lengths: of the hidden states there.
        held_out: at least one text.
        options: strengths, cap and gate.
    """
    tried = [(block, strength) for block in directions for strength in options.strengths]
    vectors = [{block: capped(directions[block] * by, lengths[block], options.cap)} for block, by in tried]
    found = np.array([losses(loss, text, [None, *vectors]) for text in held_out])  # (texts, 1 + candidates)
    best = int(found[:, 1:].mean(0).argmin())
    gains = found[:, 0] - found[:, 1 + best]
    error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else 0.0
    plain, with_it = found[:, 0].mean(), found[:, 1 + best].mean()
    return Choice(*tried[best], float(with_it), float(plain), bool(gains.mean() > options.gate * error))
