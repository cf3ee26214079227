"""The cache of rows that come and go, against a plain model of it."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from persona.llm.continuous.slots import Slots

HEADS, SIZE, LAYERS = 2, 3, 2


def read(lengths: list[int], next_number: int) -> tuple[DynamicCache, Tensor]:
    """Prompts whose keys are numbers of their own; where there is padding, they are NaN."""
    longest = max(lengths)
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    numbers = torch.full((len(lengths), longest), torch.nan)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = 1
        numbers[row, longest - length :] = torch.arange(next_number, next_number + length)
        next_number += length
    cache = DynamicCache()
    for layer in range(LAYERS):
        keys = (numbers * (layer + 1))[:, None, :, None].expand(-1, HEADS, -1, SIZE)
        cache.update(keys.clone(), -keys, layer)
    return cache, mask


def test_random_joins_steps_and_leaves() -> None:
    chance, slots, held, number = random.Random(0), Slots(), list[list[float]](), 1
    for _ in range(300):
        if not held or (len(held) < 9 and chance.random() < 0.3):
            lengths = [chance.randint(1, 90 if chance.random() < 0.1 else 9) for _ in range(chance.randint(1, 3))]
            slots.join(*read(lengths, number))
            for length in lengths:
                held.append([float(n) for n in range(number, number + length)])
                number += length
        elif chance.random() < 0.3:
            leaving = chance.randrange(len(held))
            slots.leave(leaving)
            held[leaving] = held[-1]
            held.pop()
        if held and chance.random() < 0.7:
            mask = slots.next_mask()
            assert mask.sum(1).tolist() == [len(each) + 1 for each in held]
            step = torch.arange(number, number + len(held)).float()
            for layer in range(LAYERS):
                keys = (step * (layer + 1))[:, None, None, None].expand(-1, HEADS, 1, SIZE)
                keys, values = slots.cache.update(keys, -keys, layer)
                assert torch.equal(keys, -values)
                for row, own in enumerate(held):
                    number_of_row = torch.tensor([*own, float(step[row])]) * (layer + 1)
                    seen = keys[row, :, :, :][:, mask[row] == 1]
                    assert torch.equal(seen, number_of_row[None, :, None].expand_as(seen))
                    assert keys[row][:, mask[row] == 0].count_nonzero() == 0
            slots.advance()
            for row, own in enumerate(held):
                own.append(float(step[row]))
            number += len(held)
        # Nothing of anybody is anywhere else, and the shape is no larger than it has to be.
        expected = sum(sum(own) for own in held) * HEADS * SIZE
        assert float(slots._layers[0].keys.double().sum()) == expected
        assert slots.lengths == [len(own) for own in held]
        assert slots.cache.get_seq_length() == max(map(len, held), default=0)
        assert slots.mask.shape[0] <= 16
