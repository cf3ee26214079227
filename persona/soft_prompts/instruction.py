"""Words for a soft prompt to start as, around tokens for the user's probable answer.

An LLM reads soft tokens best if they resemble words it knows. So the instruction of a user embedder starts as the
embeddings of a record in the prompts' wording, with *answer tokens* at the position of the record's target:

    [CLS] the category for the article : " " is " <answer tokens> " .

The warm-up (`persona.soft_prompts.training.warm_up`) teaches the user embedder to put the user's probable answer
there, in the LLM's own embeddings, before the LLM computes anything.

Starting values from words are those of prompt tuning (Lester et al., arXiv 2104.08691, section 3.2); answer tokens that
are filled for each user are our own.
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

ANSWER_TOKENS = 4
"""Most answer tokens: a longer answer is averaged into this number of parts."""

_ANSWERS_AT_ONCE = 1024
_RIDGE = 1e-3
"""Added to the covariance of vectors of length 1: small beside what tells a few labels apart, and enough for titles."""


@dataclass(frozen=True, slots=True, eq=False)
class InstructionWords:
    """What the soft tokens of a user embedder start as.

    Attributes:
        before: embeddings of the words before the answer.  # (tokens, llm_hidden)
        answer: mean embeddings of the training answers.  # (answer tokens, llm_hidden)
        after: embeddings of the words behind it.  # (tokens, llm_hidden)
        usual: mean of the record encoder's vectors of the training answers.  # (encoder_dim,)
        regression: maps what such a vector has beyond `usual` to what the answer's embeddings have beyond `answer`:
            their ridge regression over the training answers.  # (answer tokens * llm_hidden, encoder_dim)
    """

    before: Tensor
    answer: Tensor
    after: Tensor
    usual: Tensor
    regression: Tensor

    @property
    def vectors(self) -> Tensor:
        """All of them, in the LLM's own scale.  # (n_tokens, llm_hidden)"""
        return torch.cat((self.before, self.answer, self.after))

    @property
    def answer_tokens(self) -> slice:
        """Where the answer stands among them."""
        return slice(len(self.before), len(self.before) + len(self.answer))

    @classmethod
    def of(cls, split: LampSplit, llm: TransformersLM, encoder: RecordEncoder) -> InstructionWords:
        """The words of the official prompts for a record of this task.

        There are as many answer tokens as the longest answer has, at most `ANSWER_TOKENS`.

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
        length = min(ANSWER_TOKENS, max(map(len, answers)))
        vectors = torch.from_numpy(np.asarray(encoder.encode(list(counts)), np.float32))
        shares = torch.tensor(list(counts.values()), dtype=torch.float32)[:, None] / counts.total()
        usual = (shares * vectors).sum(0)
        centred = shares * (vectors - usual)
        # By pieces: the embeddings of all answers would be far larger than the LLM's own table.
        answer = torch.zeros(length * llm.hidden_size)
        product = torch.zeros(len(usual), length * llm.hidden_size)
        for start in range(0, len(answers), _ANSWERS_AT_ONCE):
            piece = slice(start, start + _ANSWERS_AT_ONCE)
            embedded = answer_embeddings(llm, answers[piece], length).cpu().flatten(1)  # (answers, length * hidden)
            answer += (shares[piece] * embedded).sum(0)
            product += centred[piece].T @ embedded  # `centred` sums to zero, so `embedded` need not be centred
        square = centred.T @ (vectors - usual)
        regression = torch.linalg.solve(square + _RIDGE * torch.eye(len(square)), product).T
        # How the words behind an answer are cut into tokens may depend on what stands before them.
        usually = before + counts.most_common(1)[0][0]
        behind = llm.opening_ids(usually + after)[len(llm.opening_ids(usually)) :]
        return cls(
            _embedded(llm, llm.opening_ids(before)),
            answer.view(length, -1),
            _embedded(llm, behind),
            usual,
            regression.contiguous(),
        )


def answer_ids(llm: TransformersLM, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of `answers` without the end token; of an answer without any, the end token alone."""
    return [ids[:-1] or ids for ids in llm.target_ids(answers)]


def answer_embeddings(llm: TransformersLM, answers: Sequence[Sequence[int]], length: int) -> Tensor:
    """The LLM's embeddings of answers, brought to one length; float32.  # (answers, length, llm_hidden)

    Each vector is the mean of its part of the answer. A shorter answer repeats its tokens: of two tokens at length four
    each stands twice.
    """
    parts: list[Sequence[int]] = []
    for ids in answers:
        for part in range(length):
            start = part * len(ids) // length
            parts.append(ids[start : max(start + 1, (part + 1) * len(ids) // length)])
    layer = llm.model.get_input_embeddings()
    device = layer.weight.device
    with torch.no_grad():
        flat = layer(torch.tensor([token for part in parts for token in part], device=device)).float()
    starts = torch.tensor([0, *(len(part) for part in parts[:-1])], device=device).cumsum(0)
    means = F.embedding_bag(torch.arange(len(flat), device=device), flat, starts, mode="mean")
    return means.view(len(answers), length, -1)


def _embedded(llm: TransformersLM, ids: Sequence[int]) -> Tensor:
    layer = llm.model.get_input_embeddings()
    with torch.no_grad():
        embedded: Tensor = layer(torch.tensor(list(ids), dtype=torch.long, device=layer.weight.device)).float().cpu()
    return embedded
