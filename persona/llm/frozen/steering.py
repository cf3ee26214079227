"""Vectors that are added to a frozen model's hidden states, each row of a batch its own.

A model is a stack of blocks, numbered from 0. What is added behind block `n` is added to the residual stream at every
position, prompt and answer alike, as llama.cpp does with a control vector for its layer `n`.

**Nothing is changed.** The blocks get forward hooks for as long as a `Steered` is open, and only those that something
is added behind. A row without vectors is bit-equal to the plain model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from persona.errors import InvalidOptionError


def blocks(model: Any) -> tuple[nn.Module, ...]:
    """The blocks of a decoder-only model, or of an encoder-decoder's decoder; none where they are not found."""
    part = model.get_decoder() if hasattr(model, "get_decoder") else model
    outer: list[tuple[str, nn.ModuleList]] = []
    for name, module in (part or model).named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{other}.") for other, _ in outer):
            outer.append((name, module))
    lists = [tuple(listed) for _, listed in outer]
    return max(lists, key=len, default=())


def checked(
    steering: Mapping[int, Tensor] | None, model_blocks: Sequence[nn.Module], embeddings: Tensor, where: str
) -> dict[int, Tensor] | None:
    """Vectors by block, on the device and in the type of the model's embeddings; None for none.

    Args:
        steering: what is added behind each block.  # (hidden,) each
        model_blocks: of the model (`blocks`).
        embeddings: of its tokens.  # (tokens, hidden)
        where: which request's it is, for errors.

    Raises:
        InvalidOptionError: if there is no such block, or a vector has the wrong shape or numbers that are not finite.
    """
    if not steering:
        return None
    count, hidden = len(model_blocks), embeddings.shape[1]
    for block, vector in steering.items():
        if not 0 <= block < count:
            raise InvalidOptionError(f"steering must be behind a block from 0 to {count - 1}, was: {block}{where}")
        if vector.shape != (hidden,) or not vector.is_floating_point() or not bool(vector.isfinite().all()):
            raise InvalidOptionError(
                f"steering must be of finite floats in the shape ({hidden},), was: {vector.dtype} in "
                f"{tuple(vector.shape)}{where}"
            )
    return {block: vector.detach().to(embeddings.device, embeddings.dtype) for block, vector in steering.items()}


class Steered(AbstractContextManager[None]):
    """While it is open, row `i` of a batch is computed with the vectors ``rows[i]``. It may be opened again.

    Args:
        model_blocks: of the model (`blocks`).
        rows: for each row what is added behind which blocks, or None; gradients flow to it.  # (hidden,) each
        within: is open around it.
    """

    def __init__(
        self,
        model_blocks: Sequence[nn.Module],
        rows: Sequence[Mapping[int, Tensor] | None],
        within: AbstractContextManager[None] = nullcontext(),  # noqa: B008
    ) -> None:
        self._blocks, self._within = model_blocks, within
        self._added: dict[int, Tensor] = {}  # (rows, 1, hidden) each
        for block in sorted({block for row in rows for block in row or ()}):
            some = next(row[block] for row in rows if row and block in row)
            zero = torch.zeros_like(some)
            self._added[block] = torch.stack([(row or {}).get(block, zero) for row in rows])[:, None]
        self._open: list[ExitStack] = []

    def __enter__(self) -> None:
        stack = ExitStack()
        stack.enter_context(self._within)
        for block, added in self._added.items():
            stack.callback(self._blocks[block].register_forward_hook(_adding(added)).remove)
        self._open.append(stack)

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)


def _adding(added: Tensor) -> Any:
    """A hook that adds a vector to each row of a block's output; beams lie side by side."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        states = output if isinstance(output, Tensor) else output[0]
        rows = added if len(added) == len(states) else added.repeat_interleave(len(states) // len(added), 0)
        changed = states + rows.to(states)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return hook


@contextmanager
def read_states(chosen: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """While this is open, the list gets what `chosen` blocks give in the last pass.  # (rows, length, hidden) each"""
    found: list[Tensor] = [torch.empty(0)] * len(chosen)

    def keep(index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found[index] = output if isinstance(output, Tensor) else output[0]

        return hook

    with ExitStack() as stack:
        for index, block in enumerate(chosen):
            stack.callback(block.register_forward_hook(keep(index)).remove)
        yield found
