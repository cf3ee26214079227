"""Rows that are computed together: they are read as small batches of their own, and then write a token at each step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from persona.errors import UnknownAdapterError
from persona.llm.answers.tokens import StopWhen
from persona.llm.continuous.row import Row, take_tokens
from persona.llm.continuous.slots import Slots
from persona.llm.frozen.probe import Dictated
from persona.llm.inputs import PaddedBatch
from persona.llm.transformers import TransformersLM

_CHECKED = 1.0
"""Seconds after which the bank is asked again whether the adapters of a batch still stand there."""


class Batch:
    """Rows in slots.

    Args:
        llm: the model that answers.

    Attributes:
        rows: a row is in the slot of its index.
        slots: the cache.
    """

    def __init__(self, llm: TransformersLM) -> None:
        self.rows: list[Row] = []
        self.slots = Slots()
        self._llm = llm
        self._attached: AbstractContextManager[None] | None = None
        self._checked = 0.0

    def has_room(self, rows: Sequence[Row], most_padding: int) -> bool:
        """Whether further rows fit in.

        Args:
            rows: these.
            most_padding: bytes of padding that a step may read. With more it is better to compute another batch, which
                reads the model's weights once more.
        """
        lengths = [row.tokens for row in (*self.rows, *rows)]
        padding = max(lengths) * len(lengths) - sum(lengths)
        return padding * self.slots.column_bytes <= most_padding and fit_slots(self._llm, (*self.rows, *rows))

    def join(self, rows: Sequence[Row], cache: Any, mask: Tensor) -> None:
        """Take rows in, after their prompts were read; `cache` and `mask` as in `Slots.join`."""
        self.rows += rows
        self._attached = None
        try:
            self.slots.join(cache, mask)
        except torch.OutOfMemoryError as error:
            self._fail(error)

    def remove_ended(self) -> None:
        """Free the slots of the rows that have ended, or have to leave, and overwrite them."""
        for index in reversed(range(len(self.rows))):
            row = self.rows[index]
            if row.leaving is not None:
                row.end(row.leaving)
            if row.ticket.ended:
                self.slots.leave(index)
                self.rows[index] = self.rows[-1]
                self.rows.pop()
                self._attached = None

    def step(self) -> None:
        """Write the next token of each row. An error of the model ends all rows, one of an adapter its own."""
        try:
            logits = self._logits()
            if self.rows:
                take_tokens(self.rows, logits)
        except Exception as error:  # models raise whatever they like
            self._fail(error)
        self.remove_ended()

    def _fail(self, error: Exception) -> None:
        """End all rows; their cache may be half of one step and half of another."""
        for row in self.rows:
            row.end(error)
        self.rows, self.slots, self._attached = [], Slots(), None

    def _logits(self) -> Tensor:
        """The logits of each row's next token.  # (rows, vocabulary)"""
        model, slots = self._llm.frozen, self.slots
        while self.rows:
            try:
                if self._attached is None or monotonic() - self._checked > _CHECKED:
                    self._attached = self._llm.attached([row.input for row in self.rows])
                    self._checked = monotonic()
                mask = slots.next_mask()
                ids = torch.tensor([[row.last] for row in self.rows], device=model.device)
                batch = PaddedBatch(ids, mask, (0,) * len(ids), [None] * len(ids))
                with self._attached:
                    output = model.forward(batch, use_cache=True, past_key_values=slots.cache)
            except UnknownAdapterError as error:
                self._end_unknown(error)
                continue
            slots.advance()
            logits: Tensor = output.logits[:, -1]
            return logits
        return torch.empty(0)

    def _end_unknown(self, error: UnknownAdapterError) -> None:
        """End the rows whose adapter the bank has no more; the column that the others have begun is written anew."""
        with_adapter = [row for row in self.rows if row.input.adapter is not None]
        for row in with_adapter:
            try:
                self._llm.attached([row.input])
            except UnknownAdapterError as own:
                row.end(own)
        if not any(row.ticket.ended for row in self.rows):
            for row in with_adapter:
                row.end(error)
        self._attached = None
        self.remove_ended()


def fit_slots(llm: TransformersLM, rows: Sequence[Row]) -> bool:
    """Whether the adapters of rows can be in one batch."""
    return llm.adapters is None or len({row.input.adapter for row in rows} - {None}) <= llm.adapters.slots


def read_prompts(llm: TransformersLM, rows: Sequence[Row]) -> tuple[list[Row], Any, Tensor] | None:
    """Read the prompts of rows as one batch, and have each take its first token.

    Returns:
        The rows that go on, their cache and their mask; None if none does.
    """
    batch = llm.frozen.padded([row.input.ids for row in rows], [row.input.soft_prompt for row in rows])
    with llm.attached([row.input for row in rows]):
        output = llm.frozen.forward(batch, keep=1, use_cache=True)
    take_tokens(rows, output.logits[:, -1])
    going = [index for index, row in enumerate(rows) if not row.ticket.ended]
    if not going:
        return None
    cache, mask = output.past_key_values, batch.mask
    if len(going) < len(rows):
        chosen = torch.tensor(going, device=mask.device)
        cache.batch_select_indices(chosen)
        mask = mask[chosen]
    return [rows[index] for index in going], cache, mask


def write_alone(llm: TransformersLM, row: Row) -> None:
    """Answer one request by the model's own ``generate``, which writes what the row chooses."""
    if row.leaving is not None:
        row.end(row.leaving)
        return
    model, given = llm.frozen, row.input
    rules = model.rules(row.options.generation)
    row.forced = int(model.encoder_decoder and rules.forced_bos_token_id is not None)

    def choose(scores: Tensor) -> int:
        take_tokens([row], scores)
        return row.last

    ended = StopWhen(lambda: row.ticket.ended or row.leaving is not None)
    try:
        with llm.attached([given]):
            batch = model.padded([given.ids], [given.soft_prompt])
            model.generate(batch, rules, [Dictated(choose)], stopping_criteria=StoppingCriteriaList([ended]))
    except Exception as error:  # models raise whatever they like
        row.end(error)
    row.end(row.leaving)
