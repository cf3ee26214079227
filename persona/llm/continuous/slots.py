"""Keys and values of the answers that are being written, one slot each: joined and left without moving the others.

::

    columns           begin             end
    slot 0    0 0 0 0 | p q r s t u v w | 0 0 0
    slot 1    0 0 0 0 | 0 0 0 a b c d e | 0 0 0
    slot 2    0 0 0 0 | 0 0 0 0 0 0 0 0 | 0 0 0      free

All answers end in one column, so a step appends one column for all of them and moves nothing. The model is shown the
columns from `begin` to `end` of the slots that are taken. Whatever is not an answer's own is zero: a slot is
overwritten when it becomes free, and so is what padding computes. So no number of another request, be it NaN, can reach
an answer even where the mask gives it no weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_SPARE = 64
"""Columns that are kept free for the next steps, at least."""


class Slots:
    """The cache of a batch whose rows come and go.

    Attributes:
        cache: what the model is given.
        taken: slots in use, the first ones.
        begin, end: the columns in use.
        lengths: tokens in each slot.
        mask: 1 where a slot holds a token.  # (slots, columns)
    """

    def __init__(self) -> None:
        self.cache = DynamicCache()
        self.taken = self.begin = self.end = 0
        self.lengths: list[int] = []
        self.mask = torch.zeros(0, 0, dtype=torch.long)

    def join(self, read: DynamicCache, mask: Tensor) -> None:
        """Take slots for prompts that were read as a batch of their own.

        Args:
            read: its cache.
            mask: its mask, padding first.  # (prompts, length)
        """
        prompts, length = mask.shape
        if not self.cache.layers:
            self.mask = mask.new_zeros(0, 0)
            self.cache.layers = [_SlotLayer(self, layer) for layer in _layers(read)]
        self._make_room(self.taken + prompts, length)
        rows, columns = slice(self.taken, self.taken + prompts), slice(self.end - length, self.end)
        padding = mask[:, None, :, None] == 0
        for own, layer in zip(self._layers, _layers(read), strict=True):
            own.keys[rows, :, columns] = layer.keys.masked_fill(padding, 0)
            own.values[rows, :, columns] = layer.values.masked_fill(padding, 0)
        self.mask[rows, columns] = mask
        self.taken += prompts
        self.lengths += mask.sum(1).tolist()
        self.begin = self.end - max(self.lengths)

    def leave(self, slot: int) -> None:
        """Free a slot: the last one moves there, and its former place is overwritten."""
        last = self.taken - 1
        # With the column that a step may have begun.
        columns = slice(self.begin, self.end + 1)
        for layer in self._layers:
            for numbers in (layer.keys, layer.values):
                numbers[slot, :, columns] = numbers[last, :, columns]
                numbers[last, :, columns] = 0
        self.mask[slot] = self.mask[last]
        self.mask[last] = 0
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        self.taken = last
        self.begin = self.end - max(self.lengths, default=0)

    def next_mask(self) -> Tensor:
        """The mask of the next step, with the column that it appends.  # (taken, end - begin + 1)"""
        if self.end == self.mask.shape[1]:
            self._make_room(self.taken, 0)
        self.mask[: self.taken, self.end] = 1
        return self.mask[: self.taken, self.begin : self.end + 1]

    def advance(self) -> None:
        """A step has appended its column."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    @property
    def column_bytes(self) -> int:
        """Bytes of one column of one slot."""
        one = [part[:1, :, :1] for layer in self._layers for part in (layer.keys, layer.values)]
        return sum(part.numel() * part.element_size() for part in one)

    @property
    def _layers(self) -> list[_SlotLayer]:
        return _layers(self.cache)

    def _make_room(self, slots: int, length: int) -> None:
        """Have that many slots, `length` columns before `end`, and one behind it."""
        had, columns = self.mask.shape
        if slots <= had and length <= self.end < columns:
            return
        width = self.end - self.begin
        wanted = max(width, length)
        shape = max(had, 1 << (slots - 1).bit_length()), wanted + max(_SPARE, wanted // 4)
        old, new = slice(self.begin, self.end), slice(wanted - width, wanted)
        mask = self.mask.new_zeros(shape)
        mask[: self.taken, new] = self.mask[: self.taken, old]
        for layer in self._layers:
            layer.move(shape, self.taken, old, new)
        self.mask, self.begin, self.end = mask, new.start, wanted


class _SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, for all slots and columns.  # (slots, heads, columns, size)"""

    keys: Tensor
    values: Tensor

    def __init__(self, slots: Slots, like: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots
        self.keys, self.values = like.keys[:0, :, :0], like.values[:0, :, :0]
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a step's column; returns what the step attends to.  # (taken, heads, end - begin + 1, size) each"""
        slots = self._slots
        taken, column = slice(0, slots.taken), slice(slots.begin, slots.end + 1)
        self.keys[taken, :, slots.end : slots.end + 1] = key_states
        self.values[taken, :, slots.end : slots.end + 1] = value_states
        return self.keys[taken, :, column], self.values[taken, :, column]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self._slots.end - self._slots.begin

    def move(self, shape: tuple[int, int], taken: int, old: slice, new: slice) -> None:
        """Take `shape` slots and columns; what the taken slots have in the columns `old` is then in `new`."""
        for name in ("keys", "values"):
            numbers: Tensor = getattr(self, name)
            moved = numbers.new_zeros(shape[0], numbers.shape[1], shape[1], numbers.shape[3])
            moved[:taken, :, new] = numbers[:taken, :, old]
            setattr(self, name, moved)


def _layers(cache: Any) -> list[Any]:
    layers: list[Any] = cache.layers
    return layers
