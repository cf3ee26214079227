"""What the frozen LLM makes of records: the input of kind ``activations``.

A record is read as it would be asked about, prompt and answer in one row, under the prior and without any adapter of a
user. Of each layer the input of its first adapted module is kept, at the record's last tokens, and beside it what the
LLM did not expect of the answer (`record_vectors`). One forward pass gives both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from persona.adapters.few_records.routed import record_vectors
from persona.adapters.generated.network import ANSWER, PADDING, PROMPT, layers_of
from persona.adapters.layers import inputs_of, sights
from persona.adapters.training.lessons import TokenExample
from persona.adapters.training.trainer import AdapterTrainer

_READ_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """What was read over some records.

    Attributes:
        states: what each layer reads, float32, on the CPU; zeros where there is no token.
            # (records, layers, tokens, dim)
        marks: what the tokens are, of `persona.adapters.generated.network`.  # (records, tokens)
        surprises: what was not expected.  # (records, 2 hidden)
    """

    states: Tensor
    marks: Tensor
    surprises: Tensor

    def halved(self) -> Activations:
        """The same with states in half precision, to be kept for many users."""
        return Activations(self.states.half(), self.marks, self.surprises)


class ActivationReader:
    """Reads records with a frozen LLM.

    Args:
        trainer: with the LLM, and the adapters whose layers are read.
        tokens: how many of a record's last tokens are kept.
        prior: the shared adapter that the LLM reads under; None for none.  # (size,)
    """

    def __init__(self, trainer: AdapterTrainer, tokens: int, *, prior: Tensor | None = None) -> None:
        self._trainer, self._prior, self._tokens = trainer, prior, tokens
        model, llm, modules = trainer.llm.model, trainer.llm, trainer.family.modules
        first = [modules[own[0]] for own in layers_of(modules)]
        self._watched = [(module.name, module.n_in, sights(model)[module.name].axis) for module in first]
        # Only where padding stands in front do the last places of all rows hold their last tokens.
        self._at_once = 1 if llm.frozen.encoder_decoder or not llm.probe.loss_pads_left else _READ_AT_ONCE

    def __call__(self, examples: Sequence[TokenExample]) -> Activations:
        """Read records, at least one; what is read of some depends on these alone and on their order."""
        starts = range(0, len(examples), self._at_once)
        parts = [self._read(examples[start : start + self._at_once]) for start in starts]
        return Activations(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("states", "marks", "surprises"))
        )

    def _read(self, examples: Sequence[TokenExample]) -> Activations:
        order = sorted(range(len(examples)), key=lambda index: len(examples[index]))  # as they are read
        ordered = [examples[index] for index in order]

        def last(n_in: int, axis: int | None, x: Tensor) -> Tensor:
            x = x.transpose(0, 1) if axis == 1 else x
            return x.reshape(len(examples), -1, n_in)[:, -self._tokens :].float().cpu()

        watched = {name: partial(last, n_in, axis) for name, n_in, axis in self._watched}
        with inputs_of(self._trainer.llm.model, watched) as inputs:
            surprises = record_vectors(self._trainer, ordered, prior=self._prior)
        states = torch.zeros(len(examples), len(self._watched), self._tokens, self._watched[0][1])
        marks = torch.full((len(examples), self._tokens), PADDING)
        for layer, name in enumerate(watched):
            states[:, layer, -inputs[name].shape[1] :] = inputs[name]
        for row, example in enumerate(ordered):
            # The last token of a target is predicted, not read.
            length, answer = len(example) - 1, len(example.target) - 1
            marks[row, -min(length, self._tokens) :] = PROMPT
            if answer:
                marks[row, -min(answer, self._tokens) :] = ANSWER
        states *= (marks != PADDING)[:, None, :, None]
        back = torch.tensor(order).argsort()
        return Activations(states[back], marks[back], surprises[back])


@contextmanager
def one_thread() -> Iterator[None]:
    """While this is open, torch computes on one thread: sums have one order, so the same input gives the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
