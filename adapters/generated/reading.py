"""What the layers of the frozen LLM read over records: the input of kind ``activations``.

A record is read as it would be asked about, prompt and answer in one row, without any adapter. Of each layer the input
of its first adapted module is kept, at the record's last tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from persona.adapters.family import Family
from persona.adapters.generated.network import ANSWER, PADDING, PROMPT, layers_of
from persona.adapters.layers import sights
from persona.adapters.training.lessons import TokenExample
from persona.errors import FingerprintMismatchError
from persona.llm.checkpoint import frozen
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM

_READ_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """What was read over some records.

    Attributes:
        states: what each layer reads, float32, on the CPU; zeros where there is no token.
            # (records, layers, tokens, dim)
        marks: what the tokens are, of `persona.adapters.generated.network`.  # (records, tokens)
    """

    states: Tensor
    marks: Tensor

    def __len__(self) -> int:
        return len(self.marks)


class ActivationReader:
    """Reads records with a frozen LLM.

    Args:
        llm: the frozen LLM.
        family: whose layers are read.
        tokens: how many of a record's last tokens are kept.

    Raises:
        FingerprintMismatchError: if the family is of another LLM.
    """

    def __init__(self, llm: TransformersLM, family: Family, tokens: int) -> None:
        if family.base != llm.fingerprint:
            raise FingerprintMismatchError(f"the adapters are for {family.base}, this model is {llm.fingerprint}")
        self._loss, self._tokens = TargetLoss(llm), tokens
        first = [family.modules[own[0]] for own in layers_of(family.modules)]
        self._watched = [(module.name, module.n_in, sights(llm.model)[module.name].axis) for module in first]
        # Only where padding stands in front do the last places of all rows hold their last tokens.
        self._at_once = 1 if llm.frozen.encoder_decoder or not llm.probe.loss_pads_left else _READ_AT_ONCE

    @torch.no_grad()
    def __call__(self, examples: Sequence[TokenExample]) -> Activations:
        """Read records, at least one; what is read of some depends on these alone and on their order."""
        parts = [
            self._read(examples[start : start + self._at_once]) for start in range(0, len(examples), self._at_once)
        ]
        return Activations(torch.cat([part.states for part in parts]), torch.cat([part.marks for part in parts]))

    def _read(self, examples: Sequence[TokenExample]) -> Activations:
        model, inputs = self._loss.llm.model, dict[str, Tensor]()

        def keep(name: str, n_in: int, axis: int | None) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def kept(module: nn.Module, given: tuple[Any, ...]) -> None:
                x = given[0].transpose(0, 1) if axis == 1 else given[0]
                x = x.reshape(len(examples), -1, n_in)
                inputs[name] = x[:, -min(self._tokens, x.shape[1]) :].float().cpu()

            return kept

        with ExitStack() as stack:
            for watched in self._watched:
                stack.callback(model.get_submodule(watched[0]).register_forward_pre_hook(keep(*watched)).remove)
            stack.enter_context(frozen(model))
            self._loss([example.prompt for example in examples], [example.target for example in examples])
        states = torch.zeros(len(examples), len(self._watched), self._tokens, self._watched[0][1])
        marks = torch.full((len(examples), self._tokens), PADDING)
        for layer, (name, _, _) in enumerate(self._watched):
            states[:, layer, -inputs[name].shape[1] :] = inputs[name]
        for row, example in enumerate(examples):
            # The last token of a target is predicted, not read.
            length, answer = len(example) - 1, len(example.target) - 1
            marks[row, -min(length, self._tokens) :] = PROMPT
            if answer:
                marks[row, -min(answer, self._tokens) :] = ANSWER
        states *= (marks != PADDING)[:, None, :, None]
        return Activations(states, marks)


@contextmanager
def one_thread() -> Iterator[None]:
    """While this is open, torch computes on one thread: sums have one order, so the same input gives the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
