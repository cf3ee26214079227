"""Many adapters on one frozen model: each row of a batch is computed with its own.

::

    stack = StackedLoRA(model, LoraSpec(r=8, targets=("q_proj", "v_proj")), slots=64)
    stack.write(1, row)
    with stack.rows([1, None, 1]):              # the batch's second row is the plain model
        model.generate(input_ids, num_beams=4)  # (3, length)

For a row with adapter ``(A, B)`` a linear layer's output ``y`` becomes ``y + s B A x``: one `bmm` and one `baddbmm` for
the whole batch, however many adapters are in it. They are gathered once, when the batch is announced, and not at each
step. A model that computes more rows than were announced (beams, which `generate` puts side by side) has the same
number for each: the batch is cut evenly.

**Shared prior.** A stack may have one more adapter that lies under all others: the output is then
``y + s B0 A0 x + s B A x``. Slot 0 is the prior alone, and None is the plain model.

**Nothing is changed.** The layers get forward hooks; weights, modules and names stay as they are, and `remove` takes
the hooks away. Rows of the plain model are bit-equal to what the model computes without a stack in the same batch. One
computation at a time: the announced rows are the model's, not the thread's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from persona.adapters.family import GATE_WIDTH, Family, LoraSpec, find_modules
from persona.adapters.layers import sights
from persona.errors import InvalidOptionError, check_least

PRIOR_SLOT = 0
"""The slot that is the shared prior alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The adapters of a batch's rows, as the hooks compute with them.

    Attributes:
        rows: the adapters as they are stored.  # (n, size)
        pairs: A and B transposed for each layer, one for each announced row.  # (n, r, in), (n, r, out)
        prior: A and B of the prior for each layer, or None.  # (r, in), (out, r)
        over_prior: 1 for the rows that have the prior, 0 for others; None if all have it.  # (n, 1, 1)
    """

    rows: Tensor
    pairs: Sequence[tuple[Tensor, Tensor]]
    prior: Sequence[tuple[Tensor, Tensor]] | None
    over_prior: Tensor | None

    def clear(self, row: int) -> None:
        """Overwrite a row's adapter with zeros."""
        with torch.inference_mode():  # which these may have been gathered in
            self.rows[row].zero_()
            for _, b in self.pairs:  # A is a view of `rows`
                b[row].zero_()


class StackedLoRA:
    """Adapters stacked on a model's linear layers by forward hooks.

    Args:
        model: a transformers model, decoder-only or encoder-decoder, whose layers are watched before any is adapted
            (`persona.adapters.layers`); or any model whose chosen linear layers see the batch in front.
        spec: rank, scale and layers.
        slots: how many adapters it holds at a time, at least 1.
        prior: the shared prior, or None.  # (size,)
        base: the model's fingerprint, for `family`.

    Attributes:
        model: as given.
        family: which adapters fit.

    Raises:
        InvalidOptionError: if `slots` is below 1, a target names no linear layer or one that cannot be adapted, or the
            layers lie on several devices.
    """

    def __init__(
        self, model: nn.Module, spec: LoraSpec, slots: int, *, prior: Tensor | None = None, base: str = ""
    ) -> None:
        check_least(1, slots=slots)
        self.model, self.slots = model, slots
        self.family = Family(base, spec, find_modules(model, spec)).over(prior)
        layers = [model.get_submodule(module.name) for module in self.family.modules]
        devices = {layer.weight.device for layer in layers if isinstance(layer.weight, Tensor)}
        if len(devices) != 1:
            raise InvalidOptionError(f"the adapted layers must lie on one device, were on: {sorted(map(str, devices))}")
        first: Any = layers[0].weight
        dtype = first.dtype if first.is_floating_point() else torch.float32
        self._rows = torch.zeros(1 + slots, self.family.size, dtype=dtype, device=first.device)
        self._prior = None if prior is None else self._checked(prior).to(first.device, dtype)
        self._active: Gathered | None = None
        seen = sights(model)
        axes = [seen[module.name].axis for module in self.family.modules]
        self._hooks = [
            layer.register_forward_hook(self._hook(index, transposed=axis == 1))
            for index, (layer, axis) in enumerate(zip(layers, axes, strict=True))
        ]

    @property
    def dtype(self) -> torch.dtype:
        """What the adapters are held and computed in: the model's own dtype, float32 if that is quantised."""
        return self._rows.dtype

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._rows.device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks away: the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def write(self, slot: int, row: Tensor) -> None:
        """Put an adapter into a slot, from 1 on.  # row: (size,)"""
        self._rows[self._slot(slot)].copy_(self._checked(row))

    def clear(self, slot: int) -> None:
        """Overwrite a slot with zeros."""
        self._rows[self._slot(slot)].zero_()

    @contextmanager
    def rows(self, slots: Sequence[int | None]) -> Iterator[None]:
        """While this is open, row `i` of a batch is computed with slot ``slots[i]``; None is the plain model.

        Raises:
            InvalidOptionError: if there is no such slot, or no row.
        """
        with self.announced(self.gather(slots)):
            yield

    def gather(self, slots: Sequence[int | None]) -> Gathered | None:
        """What `rows` computes with, for `announced` as often as wanted; None where all are the plain model."""
        if not slots:
            raise InvalidOptionError("a batch must have at least one row, had 0")
        wanted = [PRIOR_SLOT if slot is None or slot == PRIOR_SLOT else self._slot(slot) for slot in slots]
        if all(slot is None for slot in slots):
            return None
        index = torch.tensor(wanted, device=self.device)
        over_prior = None
        if any(slot is None for slot in slots):
            flags = [[[float(slot is not None)]] for slot in slots]
            over_prior = torch.tensor(flags, dtype=self.dtype, device=self.device)
        return self._activated(self._rows.index_select(0, index), over_prior)

    @contextmanager
    def using(self, rows: Tensor) -> Iterator[None]:
        """While this is open, row `i` of a batch is computed with adapter ``rows[i]``, and gradients reach `rows`.

        Args:
            rows: adapters over the prior, of any float dtype.  # (n, size)
        """
        with self.announced(self._activated(rows, None)):
            yield

    def _activated(self, rows: Tensor, over_prior: Tensor | None) -> Gathered:
        prior = None
        if self._prior is not None:
            prior = [(a[0], b[0]) for a, b in self.family.pairs(self._prior[None].to(rows.dtype))]
        # Laid out as `baddbmm` reads it: from B as it is stored a token's step takes four times as long.
        pairs = [(a, b.transpose(1, 2).contiguous()) for a, b in self.family.pairs(rows)]
        if self.family.spec.gate is not None:
            pairs = [(a.detach(), b) for a, b in pairs]  # keys are not learnt
        return Gathered(rows, pairs, prior, over_prior)

    @contextmanager
    def announced(self, active: Gathered | None) -> Iterator[None]:
        """While this is open, a batch is computed with what was gathered for it."""
        before, self._active = self._active, active
        try:
            yield
        finally:
            self._active = before

    def _hook(
        self, index: int, *, transposed: bool
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        """What a layer's output becomes; `transposed` if it sees tokens in front and requests behind."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._active is None:
                return None
            if not transposed:
                return self._adapted(self._active, index, inputs[0], output)
            adapted = self._adapted(self._active, index, inputs[0].transpose(0, 1), output.transpose(0, 1))
            return adapted.transpose(0, 1).contiguous()  # as the layer's own

        return hook

    def _adapted(self, active: Gathered, index: int, x: Tensor, output: Tensor) -> Tensor:
        scale = self.family.spec.scale
        a, b = active.pairs[index]  # (n, r, in), (n, r, out)
        n = len(a)
        x = x.reshape(n, -1, a.shape[2]).to(a.dtype)  # (n, rows / n * length, in)
        y = output.reshape(n, -1, b.shape[2]).to(a.dtype)
        if active.prior is not None:
            prior_a, prior_b = active.prior[index]
            low = x.flatten(0, 1) @ prior_a.T
            if active.over_prior is not None:
                low = (low.view(n, -1, low.shape[1]) * active.over_prior).flatten(0, 1)
            y = torch.addmm(y.flatten(0, 1), low, prior_b.T, alpha=scale).view(y.shape)
        low = torch.bmm(x, a.transpose(1, 2))
        if self.family.spec.gate is not None:
            low = ((low - self.family.spec.gate) / GATE_WIDTH).sigmoid()
        y = torch.baddbmm(y, low, b, alpha=scale)
        return y.view(output.shape).to(output.dtype)

    def _slot(self, slot: int) -> int:
        if not 1 <= slot <= self.slots:
            raise InvalidOptionError(f"a slot must be from 1 to {self.slots}, was: {slot}")
        return slot

    def _checked(self, row: Tensor) -> Tensor:
        if row.shape != (self.family.size,):
            raise InvalidOptionError(f"an adapter must have the shape ({self.family.size},), was: {tuple(row.shape)}")
        return row
