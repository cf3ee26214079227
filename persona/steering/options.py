"""The options of steering vectors, and the family that they are stored as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from persona.adapters.family import AdaptedModule, Family, LoraSpec
from persona.errors import InvalidOptionError, check_fraction, check_least, check_one_of, check_positive
from persona.llm.checks import check_seed
from persona.llm.transformers import TransformersLM

STATES = ("mean", "last")
_MOST_HELD_OUT = 16


@dataclass(frozen=True, slots=True)
class SteeringOptions:
    """How steering vectors are made.

    Attributes:
        blocks: behind which blocks of the LLM one may be added, from 0; empty tries those at a third, a half and two
            thirds of its depth.
        strengths: what a mean difference may be multiplied by; one of them is chosen.
        cap: most that a vector may be long, in parts of the mean length of the hidden states there; above 0.
        states: what is read of a text: the mean of its tokens' states, or the last one, one of `STATES`.
        most_tokens: tokens of a text that are read, and of a neutral text that are written, at least 1.
        holdout: share of the records, the newest, that layer and strength are chosen on, at most 16; below 1.
        gate: a vector is published if its gain on held-out records is above this many standard errors, at least 0.
        min_records: fewest records of a user who gets one, at least 2.
        bipo: epochs of training by preference; 0 takes the mean of the differences.
        beta: how far a preference may lead away from the LLM (BiPO), above 0.
        learning_rate: of the training by preference, above 0.
        seed: of the training by preference.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    blocks: tuple[int, ...] = ()
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    cap: float = 0.5
    states: str = "mean"
    most_tokens: int = 64
    holdout: float = 0.2
    gate: float = 2.0
    min_records: int = 5
    bipo: int = 0
    beta: float = 0.1
    learning_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(1, most_tokens=self.most_tokens)
        check_least(2, min_records=self.min_records)
        check_least(0, bipo=self.bipo, gate=self.gate)
        check_positive(cap=self.cap, beta=self.beta, learning_rate=self.learning_rate)
        if not self.strengths or not all(map(math.isfinite, self.strengths)):
            raise InvalidOptionError(f"`strengths` must be some finite numbers, were: {self.strengths}")
        check_one_of(STATES, states=self.states)
        check_fraction(holdout=self.holdout)
        check_seed(self.seed)

    def held_out(self, count: int) -> int:
        """How many of `count` records, at least 2, are held out."""
        return min(_MOST_HELD_OUT, math.ceil(self.holdout * count), count - 1)

    def chosen_blocks(self, llm: TransformersLM) -> tuple[int, ...]:
        """The blocks that one may be added behind, ascending.

        Raises:
            InvalidOptionError: if the LLM has no such block.
        """
        count = len(llm.frozen.blocks)
        blocks = sorted(set(self.blocks or (count // 3, count // 2, 2 * count // 3)))
        if blocks[0] < 0 or blocks[-1] >= count:
            raise InvalidOptionError(f"`blocks` must be from 0 to {count - 1} for {llm.name}, were: {self.blocks}")
        return tuple(blocks)


def steering_family(llm: TransformersLM, blocks: tuple[int, ...]) -> Family:
    """The family of the vectors for some blocks of an LLM: to the bank they are adapters of layers without an input."""
    modules = tuple(AdaptedModule(str(block), 0, llm.hidden_size) for block in blocks)
    return Family(llm.fingerprint, LoraSpec(r=1, alpha=1.0, targets=("steering",)), modules)


def as_row(family: Family, vectors: Mapping[int, Tensor]) -> Tensor:
    """Vectors by block as the bank keeps them.  # (size,)"""
    zero = torch.zeros(family.modules[0].n_out)
    return torch.cat([vectors.get(int(module.name), zero).float().cpu() for module in family.modules])


def as_steering(family: Family, row: Tensor) -> dict[int, Tensor]:
    """The inverse of `as_row`; blocks that nothing is added behind are left out.  # (hidden,) each"""
    pairs = zip(family.modules, family.pairs(row[None]), strict=True)
    return {int(module.name): b[0, :, 0] for module, (_, b) in pairs if bool(b.any())}
