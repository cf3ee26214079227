"""Words for a soft prompt to start as, around a slot for what the user would probably answer.

An LLM reads soft tokens best that are much like words it knows. So the instruction of a user embedder starts as the
embeddings of a record in the prompts' own wording, and where the record's target would stand there is a *slot*:

    [CLS] the category for the article : " " is " <slot> " .

The warm-up (`persona.soft_prompts.warm_up`) teaches the user embedder to put the answer that a user's history makes likely
into the slot, in the LLM's own embeddings, before the LLM has computed anything.

Starting values from words are those of prompt tuning (Lester et al., arXiv 2104.08691, section 3.2); a slot that is
filled for each user is our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.errors import EvaluationError
from persona.lamp.prompts import record_form
from persona.lamp.tasks import LampSplit
from persona.protocols import RecordEncoder

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM

SLOT_TOKENS = 4
"""Longest slot: long answers are put in as the means of so many parts."""

_AT_ONCE = 1024
_RIDGE = 1e-3
"""Added to the covariance of vectors of length 1: small beside what tells a few labels apart, and enough for titles."""


@dataclass(frozen=True, slots=True, eq=False)
class InstructionWords:
    """See the module.

    Attributes:
        before: embeddings of the words in front of the slot.  # (tokens, llm_hidden)
        filling: what the slot starts as: the mean over the training answers.  # (slot_tokens, llm_hidden)
        after: embeddings of the words behind it.  # (tokens, llm_hidden)
        usual: mean of the record encoder's vectors of the training answers.  # (encoder_dim,)
        echo: maps what such a vector has beyond `usual` to what the answer's embeddings have beyond `filling`: their
            ridge regression over the training answers.  # (slot_tokens * llm_hidden, encoder_dim)
    """

    before: Tensor
    filling: Tensor
    after: Tensor
    usual: Tensor
    echo: Tensor

    @property
    def vectors(self) -> Tensor:
        """The whole, in the LLM's own scale.  # (n_tokens, llm_hidden)"""
        return torch.cat((self.before, self.filling, self.after))

    @property
    def slot(self) -> tuple[int, int]:
        """Where the slot begins and where it has ended."""
        return len(self.before), len(self.before) + len(self.filling)

    @classmethod
    def of(cls, split: LampSplit, llm: TransformersLM, encoder: RecordEncoder) -> InstructionWords:
        """The words of the official prompts for a record of this task.

        The slot is as long as the longest answer, at most `SLOT_TOKENS`.

        Args:
            split: training questions with golds.
            llm: the frozen LLM.
            encoder: the record encoder of the user embedder.

        Raises:
            EvaluationError: if the split has no golds.
        """
        if not split.golds:
            raise EvaluationError("training needs golds: this split has none")
        before, _, after = record_form(split.task).partition("{target}")
        counts = Counter(split.golds.values())
        answers = answer_ids(llm, list(counts))
        slot_tokens = min(SLOT_TOKENS, max(map(len, answers)))
        vectors = torch.from_numpy(np.asarray(encoder.encode(list(counts)), np.float32))
        shares = torch.tensor(list(counts.values()), dtype=torch.float32)[:, None] / counts.total()
        usual = (shares * vectors).sum(0)
        apart = shares * (vectors - usual)
        # By pieces: the embeddings of all answers would be far larger than the LLM's own table.
        filling = torch.zeros(slot_tokens * llm.hidden_size)
        product = torch.zeros(len(usual), slot_tokens * llm.hidden_size)
        for start in range(0, len(answers), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            filled = in_slot(llm, answers[piece], slot_tokens).cpu().flatten(1)  # (answers, slot_tokens * hidden)
            filling += (shares[piece] * filled).sum(0)
            product += apart[piece].T @ filled  # that `apart` sums to zero spares the centring of `filled`
        square = apart.T @ (vectors - usual)
        echo = torch.linalg.solve(square + _RIDGE * torch.eye(len(square)), product).T
        # How the words behind an answer are cut into tokens may depend on what stands before them.
        usually = before + counts.most_common(1)[0][0]
        behind = llm.opening_ids(usually + after)[len(llm.opening_ids(usually)) :]
        return cls(
            _embedded(llm, llm.opening_ids(before)),
            filling.view(slot_tokens, -1),
            _embedded(llm, behind),
            usual,
            echo.contiguous(),
        )


def answer_ids(llm: TransformersLM, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of `answers` without the end token; of an answer without any, the end token alone."""
    return [ids[:-1] or ids for ids in llm.target_ids(answers)]


def in_slot(llm: TransformersLM, answers: Sequence[Sequence[int]], slot_tokens: int) -> Tensor:
    """The LLM's embeddings of answers, brought to one length: each token of the slot is the mean of its part.

    A shorter answer repeats its tokens: of two in a slot of four each stands twice.

    Args:
        llm: whose embeddings.
        answers: token ids, at least one each.
        slot_tokens: the length, at least 1.

    Returns:
        float32, where the LLM is.  # (answers, slot_tokens, llm_hidden)
    """
    parts: list[Sequence[int]] = []
    for ids in answers:
        for place in range(slot_tokens):
            start = place * len(ids) // slot_tokens
            parts.append(ids[start : max(start + 1, (place + 1) * len(ids) // slot_tokens)])
    layer = llm.model.get_input_embeddings()
    device = layer.weight.device
    with torch.no_grad():
        flat = layer(torch.tensor([token for part in parts for token in part], device=device)).float()
    starts = torch.tensor([0, *(len(part) for part in parts[:-1])], device=device).cumsum(0)
    means = F.embedding_bag(torch.arange(len(flat), device=device), flat, starts, mode="mean")
    return means.view(len(answers), slot_tokens, -1)


def _embedded(llm: TransformersLM, ids: Sequence[int]) -> Tensor:
    layer = llm.model.get_input_embeddings()
    with torch.no_grad():
        embedded: Tensor = layer(torch.tensor(list(ids), dtype=torch.long, device=layer.weight.device)).float().cpu()
    return embedded
