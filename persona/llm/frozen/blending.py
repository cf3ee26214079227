"""Blending with the plain model where that is sure: what a user's part adds must not cost what the model knows.

>>> blend = Blend(weight=0.5, floor=0.8)
>>> own, sure = torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])
>>> blend(own, sure).softmax(-1).allclose(torch.tensor([[0.731, 0.269]]), atol=1e-3), blend(own, sure / 4).equal(own)
(True, True)

Each step of an answer is computed twice, with the user's soft prompt, adapter, steering and lifts, and without::

    log p = log p_user + b (log p_plain - log p_user)        b = weight where confidence(p_plain) >= floor, else 0

The confidence is the probability of the likeliest token. With ``b = 0`` the scores are the personal model's, with
``b = 1`` the plain model's, to the last bit.

Source: the idea of "FreeCure" (training-free restoration of what a personalised image model has forgotten), carried
over to text, which the paper does not claim. Text in the prompt is read by both. It costs a second row in the batch for
each personal request: twice the computation and the memory for keys and values; other requests cost what they did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import LogitsProcessor

from persona.errors import check_share
from persona.llm.inputs import ModelInput


@dataclass(frozen=True, slots=True)
class Blend:
    """How answers are blended with those of the plain model.

    Attributes:
        weight: `b` where the plain model is sure, from 0 to 1.
        floor: the confidence from which on it is, from 0 to 1.
        adapter: what the plain model is computed with, e.g. `persona.protocols.PRIOR_ADAPTER`; None for nothing.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    weight: float = 0.5
    floor: float = 0.5
    adapter: str | None = None

    def __post_init__(self) -> None:
        check_share(weight=self.weight, floor=self.floor)

    def __call__(self, own: Tensor, plain: Tensor) -> Tensor:
        """The blended scores of the next token, from the personal and the plain model's.  # (..., vocabulary)"""
        log_own, log_plain = own.log_softmax(-1), plain.log_softmax(-1)
        sure = log_plain.amax(-1, keepdim=True).exp() >= self.floor
        if self.weight in (0, 1):
            return torch.where(sure, plain, own) if self.weight else own
        mixed = log_own + self.weight * (log_plain - log_own)
        ruled_out = own.isneginf() | plain.isneginf()  # what either may not write is not written
        return torch.where(sure, mixed.masked_fill(ruled_out, -torch.inf).log_softmax(-1), own)

    def is_for(self, each: ModelInput) -> bool:
        """Whether an input has a user's part."""
        if each.soft_prompt is not None or each.adapter not in (None, self.adapter):
            return True
        return bool(each.lifts or each.steering)

    def plain(self, each: ModelInput) -> ModelInput:
        """An input without its user's part."""
        return replace(each, soft_prompt=None, adapter=self.adapter, lifts=None, steering=None)


class Blending(LogitsProcessor):
    """The blended rows of a batch: behind the prompts stands once more, without its user's part, each that has one.

    Both rows of a prompt get the blended scores, so both go on with the same token, and so do their beams.

    Args:
        blend: how; None blends nothing.
        inputs: the prompts.
        num_beams: rows that each prompt has in the batch, side by side.

    Attributes:
        inputs: those of the batch.
        count: how many of them are the prompts; the others come after them.
    """

    def __init__(self, blend: Blend | None, inputs: Sequence[ModelInput], num_beams: int = 1) -> None:
        self._blend, self._beams, self.count = blend, num_beams, len(inputs)
        plain = {} if blend is None else {n: blend.plain(each) for n, each in enumerate(inputs) if blend.is_for(each)}
        self._personal = list(plain)
        self.inputs: Sequence[ModelInput] = [*inputs, *plain.values()]

    def __bool__(self) -> bool:
        """Whether anything is blended."""
        return len(self.inputs) > self.count

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with those of the personal rows blended; arguments and result as `LogitsProcessor` has them."""
        return self.mixed(scores, torch.arange(len(self.inputs)).repeat_interleave(self._beams))

    def mixed(self, scores: Tensor, prompts: Tensor) -> Tensor:
        """The scores of rows, blended.

        Args:
            scores: those of the rows.  # (rows, ..., vocabulary)
            prompts: which of `inputs` each row belongs to, ascending.  # (rows,)
        """
        if not self or self._blend is None:
            return scores
        own, plain = torch.isin(prompts, torch.tensor(self._personal)), prompts >= self.count
        own, plain = own.to(scores.device), plain.to(scores.device)
        blended = self._blend(scores[own], scores[plain])
        scores = scores.clone()
        scores[own], scores[plain] = blended, blended
        return scores
