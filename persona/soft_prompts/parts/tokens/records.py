"""A soft token for each record that matters most, from the vector that finds it.

With g_i of record i, m the state and a_i the heads' mean attention, a_0 that to no record,

    r_i = P g_i      s_i = r_i . Q m / sqrt(dim)      token j += sigmoid(s_(j)) T r_(j)      (j) the j-th highest s

for the first k tokens, beside a linear layer of m for all. The loss is that of a ranking, with w = softmax([s, 0]):

    -weight * sum_i a_i log w_i        over the records and no record

Source: the item encoder of MESE (arXiv 2112.08140), whose output is both what is searched by and what the LLM reads;
retrieved items as tokens: Fashion-RAG.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Records
from persona.soft_prompts.parts.tokens.linear import LinearTokens, zero


class RecordTokens(LinearTokens):
    """The tokens of the module's docstring."""

    reads_records = True

    def __init__(self, config: UserEmbedderConfig, *, k: int = 4, dim: int = 64, weight: float = 0.1) -> None:
        super().__init__(config)
        if not 1 <= k <= config.n_tokens:
            raise InvalidOptionError(f"there are {config.n_tokens} soft tokens: `k` must be from 1 to that, was: {k}")
        self.k, self.weight = k, weight
        self.encode = nn.Linear(config.width, dim, bias=False)
        self.ask = nn.Linear(config.width, dim, bias=False)
        self.token = zero(nn.Linear(dim, config.llm_hidden, bias=False))

    def forward(self, mixed: Tensor, records: Records) -> Tensor:
        """See the module.  # (batch, n_tokens, llm_hidden)"""
        vectors = self.encode(records.hidden)  # (batch, records, dim)
        scores = self.scores(mixed, records)
        best = scores.topk(min(self.k, scores.shape[1]), dim=1)
        chosen = vectors.gather(1, best.indices[..., None].expand(-1, -1, vectors.shape[2]))
        own = self.token(best.values.sigmoid()[..., None] * chosen)  # no record, no score: sigmoid of -inf
        self.loss = self.weight * self._ranking(scores, records) if self.training else None
        return super().forward(mixed, records) + F.pad(own, (0, 0, 0, self.shape[0] - own.shape[1]))

    def scores(self, mixed: Tensor, records: Records) -> Tensor:
        """s_i, by which records can be retrieved as well; -inf where there is none.  # (batch, records)"""
        vectors = self.encode(records.hidden)
        scores: Tensor = torch.einsum("bnd,bd->bn", vectors, self.ask(mixed)) / vectors.shape[2] ** 0.5
        return scores.masked_fill(~records.mask, -torch.inf)

    def _ranking(self, scores: Tensor, records: Records) -> Tensor:
        """-sum_i a_i log w_i, mean over users.  # ()"""
        attention = records.weights.mean(1).detach()  # (batch, records)
        logs = F.pad(scores, (0, 1)).log_softmax(1)
        of_records = (attention * logs[:, :-1].masked_fill(~records.mask, 0)).sum(1)
        loss: Tensor = -(of_records + (1 - attention.sum(1)) * logs[:, -1]).mean()
        return loss
