"""The beginning that prompts share, computed once: questions about one long history read it once.

>>> from persona.llm.inputs import ModelInput
>>> history = tuple(range(200))
>>> asked = {"a": ModelInput((*history, 7, 8)), "b": ModelInput((*history, 9)), "c": ModelInput((5, 6))}
>>> shared_beginnings(asked)
[(['a', 'b'], 200), (['c'], 0)]
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from persona.llm.inputs import ModelInput, PaddedBatch

LEAST = 128
"""Tokens from which on a beginning is looked at."""
_WORTH = 0.25
"""Share of all tokens that must not be read again, since prompts with different beginnings share no batch."""

_Key = TypeVar("_Key", bound=Hashable)


def shared_beginnings(inputs: Mapping[_Key, ModelInput]) -> list[tuple[list[_Key], int]]:
    """Keys of inputs that begin alike, with how many tokens; 0 for those that share none worth it.

    Each input has at least one token more than it shares. Those with a soft prompt or steering share none: their
    tokens are computed with what is the user's own.
    """
    found: dict[Any, list[_Key]] = defaultdict(list)
    for key, each in inputs.items():
        alike = len(each.ids) > LEAST and each.soft_prompt is None and not each.steering
        found[(each.ids[:LEAST], each.adapter) if alike else None].append(key)
    groups: list[tuple[list[_Key], int]] = []
    others: list[_Key] = found.pop(None, [])
    for keys in found.values():
        length = _common(inputs, keys)
        if (len(keys) - 1) * length >= _WORTH * sum(len(inputs[key].ids) for key in keys) and len(keys) > 1:
            groups.append((keys, length))
        else:
            others += keys
    return [*groups, (others, 0)] if others else groups


def _common(inputs: Mapping[_Key, ModelInput], keys: list[_Key]) -> int:
    """Tokens that all begin with, fewer than the shortest has. What the first and the last in order share, all do."""
    texts = [inputs[key].ids for key in keys]
    first, last = min(texts), max(texts)
    most = min(map(len, texts)) - 1
    return next((n for n in range(most) if first[n] != last[n]), most)


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """What prompts begin with, as a model has read it.

    Attributes:
        ids: its tokens.
        cache: the model's, of one row (`repeatable`).
    """

    ids: tuple[int, ...]
    cache: Any

    def rows(self, number: int) -> Any:
        """A copy of the cache for a number of rows."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(number)
        return cache

    def before(self, batch: PaddedBatch) -> PaddedBatch:
        """The batch of whole prompts, of which `batch` is what comes after the beginning."""
        ids = torch.tensor(self.ids, device=batch.ids.device).expand(len(batch.ids), -1)
        return replace(self.seen_by(batch), ids=torch.cat((ids, batch.ids), 1))

    def seen_by(self, batch: PaddedBatch) -> PaddedBatch:
        """The batch of what comes after the beginning, with a mask that covers both."""
        return replace(batch, mask=torch.cat((batch.mask.new_ones(len(batch.mask), len(self.ids)), batch.mask), 1))


def repeatable(cache: Any) -> bool:
    """Whether the rows of a cache can be repeated: keys and values of all positions, and nothing else."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
