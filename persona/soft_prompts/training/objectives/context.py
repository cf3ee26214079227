"""The question's tokens are read with a user's prompt much as they are without: what the LLM was asked stays.

With h_t the LLM's last hidden state at token t of the question behind the user's soft prompt, and n_t the same behind
the neutral prompt, that of a user without records,

    L = mean over users of mean_t |h_t - n_t|^2 / |n_t|^2

It adds two passes of the LLM over the questions to a step, one of them without gradients.

Source: the regularisation of context tokens of CoRe (personalized image generation), where the tokens around a learned
concept are kept as they were; transferred to the words of a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from persona.llm.checkpoint import frozen
from persona.llm.frozen.steering import Steered, read_states
from persona.llm.transformers import TransformersLM
from persona.soft_prompts.training.objectives.base import Objective, Step


class ContextObjective(Objective):
    """The mean of the module's docstring."""

    reads_llm = True

    def __init__(self, config: Any, state_size: int, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        (prompts, _), llm = step.asked(), step.loss.llm
        read, asked = states_of(llm, prompts, *step.given())
        with torch.no_grad():
            neutral, _ = states_of(llm, prompts, *step.neutral())
        return shift(read, neutral, asked)


def states_of(
    llm: TransformersLM,
    prompts: list[list[int]],
    soft_prompts: Tensor,
    steering: Mapping[int, Tensor] = MappingProxyType({}),
) -> tuple[Tensor, Tensor]:
    """The LLM's last states behind soft prompts, and where the question is.  # (batch, length, hidden), (batch, length)

    Of an encoder-decoder they are the encoder's, in which nothing is steered.
    """
    model = llm.frozen
    pad_left = llm.probe.loss_pads_left and not llm.encoder_decoder
    batch = model.padded(prompts, list(soft_prompts), llm.probe.stand_in, pad_left=pad_left)
    rows = [{block: vectors[row] for block, vectors in steering.items()} for row in range(len(prompts))]
    with frozen(llm.model), Steered(model.blocks, rows), read_states(model.blocks[-1:]) as found:
        if llm.encoder_decoder:
            states: Tensor = model.encoded(batch)[0]
        else:
            model.forward(batch, keep=1)
            (states,) = found
    # Counted along each row, soft tokens come first.
    return states, (batch.mask * batch.mask.cumsum(1)) > soft_prompts.shape[1]


def shift(states: Tensor, neutral: Tensor, asked: Tensor) -> Tensor:
    """The mean of the module's docstring over the tokens that are `asked`.  # ()"""
    moved = (states - neutral).float().square().sum(-1) / neutral.float().square().sum(-1).clamp_min(1e-6)
    return ((moved * asked).sum(1) / asked.sum(1)).mean()
