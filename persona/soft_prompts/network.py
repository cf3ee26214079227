r"""The networks of the user embedder: from a history and a question to soft tokens.

After Persona-Plug (Liu et al., arXiv 2409.11901). Each record has a *key*, the vector of its
input, which is compared with the question, and a *value*, which describes the user's answer.

`PaperPooling` (mode ``"persona-plug"``), the paper's equations. With h_i the unit vector of record i, q that of the
question, and s the mean length of the LLM's input embeddings (539.97 of Flan-T5-XXL, the paper's constant),

    w_i = softmax_i(norm(W q) . h_i)        P = s * sum_i w_i Proj(h_i)        I = s / 7 * MLP(t)
    Proj(h) = W_2 GELU(W_1 h + b_1) + b_2   soft prompt = [I; P]

W starts as the identity; it replaces the paper's second sentence encoder.

`AttentionPooling` (mode ``"attention"``). H heads with learned projections and temperatures tau_h, and one mean head:

    a_hi = norm(Q_h q + c_h) . norm(K_h k_i) / tau_h - d_h * log(1 + months since record i)
    w_h  = softmax over the records and a learned null record
    z    = [sum_i w_1i g_i, ..., sum_i w_Hi g_i, (sum_i g_i + m g_0) / (n + m)]     g_i = GELU(W_1 v_i + b_1)
    soft prompt = s * (I + MLP(z) + E)

The null record g_0 gives an empty history the neutral prompt; m is its weight in records. N, one vector per token, is
added to the soft prompt of a user without records, and tuned alone at the end of the training. With
`UserEmbedderConfig.with_question` z ends with the question, GELU(W_q sqrt(dim) q + b_q): the soft prompt can say what
such a question is usually answered by anybody. In a prompt without a question this part is zero, and Q_h q is left out.

E is the user's usual answer, in the soft tokens at the position of an answer (`persona.soft_prompts.instruction`; the
saved weights call it ``echo``). With t_i the vector of the target of record i, and t_0 that of a usual answer,

    E = sum_h e_h A (t'_h - t_0)      t'_h = sum_i w_hi t_i + w_h0 t_0      t'_mean = (sum_i t_i + m t_0) / (n + m)

A maps vectors of answers to the LLM's embeddings of these answers. It starts as their ridge regression, and the gates
e_h as 1 for the mean head and 0 for the others, so that before any training these tokens are the LLM's own embeddings
of the user's usual answer.

Parts (`persona.soft_prompts.parts`) extend it. A further view of the records is one more block of v_i; then each block
b has a gate, W_1 v = sum_b gate_b W_1b v_b, which starts as 1. A further pooling is one more entry of z, and may stand
in place of the heads. A state changes [MLP(z) before its last layer, sum_h e_h (t'_h - t_0)], and tokens stand for that
last layer.

`VectorMap` (mode ``"vectors"``), after E2P ("Embedding to Prefix"): one linear map from an existing
vector of the user.

The first two pool before the last layer of the projector; the result is the same, since the weights sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records
from persona.soft_prompts.parts.registry import HEADS, made, parsed

_PAPER_INSTRUCTION_SHARE = 1 / 7
_KEY_DIM = 64
_DAYS_IN_MONTH = 30.0
_NULL_RECORDS = 10.0
_EPSILON = 1e-5
_NEARLY_FULL = 7 / 8
"""Share of records in a padded batch from which its padding is computed as well."""


class PaperPooling(nn.Module):
    """The paper's equations."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        dim, hidden = config.encoder_dim, config.llm_hidden
        self.question = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.question.weight)
        self.first, self.last = nn.Linear(dim, hidden), nn.Linear(hidden, hidden)
        self.instruction = nn.Parameter(torch.rand(dim))
        self.instruction_map = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def weights(self, keys: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None = None) -> Tensor:
        """softmax of normalised products; without a question the plain mean.  # (batch, 1, records)"""
        if query is None:
            scores = torch.zeros_like(mask, dtype=keys.dtype)
        else:
            scores = torch.einsum("bd,bnd->bn", F.normalize(self.question(query), dim=-1), F.normalize(keys, dim=-1))
        scores = scores.masked_fill(~mask, -torch.inf)
        # Without records the softmax is 0/0: no weight.
        return torch.where(mask, scores.softmax(-1), 0.0)[:, None].nan_to_num(0.0)

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """The instruction's and the user's token, over s.  # (batch, 2, llm_hidden)"""
        hidden = _of_records(lambda some: F.gelu(self.first(some)), values, mask)
        pooled = self.weights(keys, mask, query) @ hidden
        user = self.last(pooled)
        instruction = _PAPER_INSTRUCTION_SHARE * self.instruction_map(self.instruction)
        return torch.cat((instruction.expand_as(user), user), dim=1)


class AttentionPooling(nn.Module):
    """Attention heads, a mean head, a null record and the usual answer; and the parts that the config names."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        dim, width, heads = config.encoder_dim, config.width, config.heads
        self.blocks = config.view_dims
        self.gates = nn.Parameter(torch.ones(len(self.blocks))) if config.views else None
        self.shape = (config.n_tokens, config.llm_hidden)
        self.heads = heads
        self.with_question = config.with_question
        self.answer_tokens = config.answer_tokens
        self.has_answer = config.n_answer_tokens > 0
        self.value = nn.Linear(config.value_dim, width)
        self.key = nn.Linear(dim, heads * _KEY_DIM, bias=False)
        self.query = nn.Linear(dim, heads * _KEY_DIM, bias=False)
        # At first a head compares question and record as the encoder does.
        self.query.weight.data.copy_(self.key.weight.data)
        self.any_query = nn.Parameter(0.1 * torch.randn(heads, _KEY_DIM))
        self.log_temperature = nn.Parameter(torch.full((heads,), math.log(0.1)))
        self.decay = nn.Parameter(torch.full((heads,), -3.0))
        self.null_score = nn.Parameter(torch.zeros(heads))
        self.null_value = nn.Parameter(torch.zeros(width))
        self.log_null_records = nn.Parameter(torch.tensor(math.log(_NULL_RECORDS)))
        self.with_heads = HEADS in dict(parsed(config.pooling))
        poolings: list[Pooling] = made("pooling", config.pooling, config)
        self.poolings = nn.ModuleList(poolings)
        pooled = (heads + 1) * width * self.with_heads + sum(pooling.size for pooling in poolings)
        if config.with_question:
            pooled += width
            self.question = nn.Sequential(nn.Linear(dim, width), nn.GELU())
        self.mix = nn.Sequential(nn.LayerNorm(pooled), nn.Linear(pooled, width), nn.GELU())
        self.tokens: Any = next(iter(made("tokens", config.tokens, config)), None)
        if self.tokens is None:
            self.last = nn.Linear(width, config.n_tokens * config.llm_hidden)
            # At first every user gets the instruction and the usual answer alone.
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
        self.new_user = nn.Parameter(torch.zeros(self.shape))
        if self.has_answer:
            self.echo = nn.Linear(dim, config.n_answer_tokens * config.llm_hidden, bias=False)
            self.null_target = nn.Parameter(torch.zeros(dim))
            self.echo_gates = nn.Parameter(torch.tensor([0.0] * heads + [1.0]))
        self.sizes = [width, dim * self.has_answer]
        self.state: Any = next(iter(made("state", config.state, config, sum(self.sizes))), None)

    def weights(self, keys: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """The heads' attention; the rest to 1 is that of the null record.  # (batch, heads, records)"""
        batch, records, _ = keys.shape
        key = self.key(keys)  # (batch, records, heads * _KEY_DIM)
        asked = self.any_query.expand(batch, -1, -1)
        if query is not None:
            asked = asked + self.query(query).view(batch, self.heads, _KEY_DIM)
        # One product with a block-diagonal matrix of the heads' questions, so that the keys need not be reordered. They
        # are normalised after it, where each head has one number instead of `_KEY_DIM`.
        asked = torch.diag_embed(F.normalize(asked, dim=-1).transpose(1, 2)).transpose(1, 2).flatten(1, 2)
        norms = torch.linalg.vector_norm(key.view(batch, records, self.heads, _KEY_DIM), dim=-1).clamp_min(1e-12)
        scores = (key @ asked / norms).transpose(1, 2)  # (batch, heads, records)
        scores = scores / self.log_temperature.exp()[:, None]
        if days is not None:
            months = torch.log1p(days / _DAYS_IN_MONTH)
            scores = scores - F.softplus(self.decay)[:, None] * months[:, None]
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
        null = self.null_score[None, :, None].expand(batch, -1, 1)
        return torch.cat((scores, null), dim=-1).softmax(-1)[..., :-1]

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """The user's part of the soft prompt, over s.  # (batch, n_tokens, llm_hidden)"""
        tokens, _ = self.read(keys, values, mask, query, days)
        return tokens

    def read(
        self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The result of `forward`, and the mixed outputs of all heads.

        Returns:
            # (batch, n_tokens, llm_hidden), (batch, width)
        """
        records = self.records(keys, values, mask, query, days)
        state = self.state_of(records)
        tokens = self.tokens_of(state, records)
        new = ~mask.any(1)
        if bool(new.any()):
            tokens = tokens + new[:, None, None] * self.new_user
        return tokens, state[:, : self.sizes[0]]

    def tokens_of(self, state: Tensor, records: Records | None) -> Tensor:
        """The tokens of users with records; tokens that read nothing else are given None for these.

        Returns:
            (batch, n_tokens, llm_hidden)
        """
        mixed, targets = torch.split(state, self.sizes, dim=1)
        if self.tokens is None:
            tokens: Tensor = self.last(mixed).view(len(mixed), *self.shape)
        else:
            tokens = self.tokens(mixed, records)
        if self.has_answer:
            tokens[:, self.answer_tokens] += self.echo(targets).view(len(mixed), -1, self.shape[1])
        return tokens

    def state_of(self, records: Records) -> Tensor:
        """What the tokens of some users are made from.  # (batch, size of a state)"""
        state = self.dense_state(records)
        return state if self.state is None else cast(Tensor, self.state(state, records.mask.sum(1)))

    def dense_state(self, records: Records) -> Tensor:
        """[mixed heads, usual answer], before the part `state` keeps it.  # (batch, size of a state)"""
        parts = self._heads(records) if self.with_heads else []
        parts += [pooling(records) for pooling in self.poolings]
        if self.with_question:
            # A question's vector has length 1, the parts of a value about 1 per dimension.
            query = records.query
            asked = records.hidden.new_zeros(len(records.mask), records.hidden.shape[2])
            parts.append(asked if query is None else self.question(query * query.shape[1] ** 0.5))
        kept = [self.mix(torch.cat(parts, dim=1))]
        if self.has_answer:
            targets = self.targets(records.values, records.mask, records.weights, records.null_records)
            kept.append(torch.einsum("h,bhd->bd", self.echo_gates, targets))
        return torch.cat(kept, dim=1) if self.has_answer else kept[0]

    def records(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Records:
        """The records of some users, as parts read them."""
        hidden = _of_records(self._hidden, values, mask)  # (batch, records, width)
        weights = self.weights(keys, mask, query, days)
        null_records = self.log_null_records.exp()
        return Records(hidden, keys, values, mask, query, days, weights, self.null_value, null_records)

    def _heads(self, records: Records) -> list[Tensor]:
        """The heads and the mean head.  # (batch, heads * width), (batch, width)"""
        weights, mask = records.weights, records.mask
        rest = 1 - weights.sum(-1, keepdim=True)
        # The sum for the mean head is one more row of weights: one pass over the records for all heads.
        sums = torch.cat((weights, torch.ones_like(weights[:, :1])), dim=1) @ records.hidden
        attended = sums[:, :-1] + rest * self.null_value  # (batch, heads, width)
        count = mask.sum(1, keepdim=True) + records.null_records
        mean = (sums[:, -1] + records.null_records * self.null_value) / count
        return [attended.flatten(1), mean]

    def targets(self, values: Tensor, mask: Tensor, weights: Tensor, null_records: Tensor) -> Tensor:
        """Each head's mean of the targets, less the usual target; the mean head's last.  # (batch, heads + 1, dim)"""
        dim = self.blocks[0]
        targets = values[..., dim : 2 * dim]  # (batch, records, dim)
        # A record without a target has zeros there.
        has = (targets.any(-1) & mask)[..., None].to(targets.dtype)
        rows = torch.cat((weights, mask[:, None].to(weights.dtype)), dim=1)  # (batch, heads + 1, records)
        beyond = rows @ targets - (rows @ has) * self.null_target
        mean = beyond[:, -1:] / (has.sum(1, keepdim=True) + null_records)
        return torch.cat((beyond[:, :-1], mean), dim=1)

    def _hidden(self, values: Tensor) -> Tensor:
        """g_i of some records; each part of a value is normalised (layer norm).  # (some, width)

        Normalised after the product, with the same result and fewer operations: W norm(v) = V v / sd with the rows of
        W less their means for V; and the mean of v, for its sd, is one more row of the product.
        """
        hidden: Tensor = self.value.bias
        weights = torch.split(self.value.weight, self.blocks, dim=1)
        if self.gates is not None:
            weights = tuple(gate * weight for gate, weight in zip(self.gates, weights, strict=True))
        for part, weight in zip(torch.split(values, self.blocks, dim=1), weights, strict=True):
            size = part.shape[1]
            centred = weight - weight.mean(1, keepdim=True)
            product = part @ torch.cat((centred, torch.full_like(weight[:1], 1 / size))).T  # (some, width + 1)
            mean = product[:, -1:]
            # Values are of the order of 1, so the difference loses no precision; `var_mean` takes twice the time.
            square = torch.linalg.vector_norm(part, dim=1, keepdim=True).square() / size
            deviation = (square - mean.square()).clamp_min(0) + _EPSILON
            hidden = torch.addcmul(hidden, product[:, :-1], torch.rsqrt(deviation))
        return F.gelu(hidden)


class VectorMap(nn.Module):
    """One linear map from a user's vector to soft tokens; several vectors of one user are averaged."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        self.shape = (config.n_tokens, config.llm_hidden)
        self.map = nn.Linear(config.encoder_dim, config.n_tokens * config.llm_hidden, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """(batch, n_tokens, llm_hidden)"""
        mean = (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        tokens: Tensor = self.map(mean)
        return tokens.view(len(mean), *self.shape)


def _of_records(layer: Callable[[Tensor], Tensor], values: Tensor, mask: Tensor) -> Tensor:
    """`layer` of the values under `mask`, zeros elsewhere.  # (batch, records, out)

    Padding is not computed, unless there is so little of it that selecting the records would take longer.
    """
    if int(mask.sum()) >= _NEARLY_FULL * mask.numel():
        whole = layer(values.flatten(0, 1)).view(*mask.shape, -1)
        return whole if bool(mask.all()) else whole.masked_fill(~mask[..., None], 0)
    some = layer(values[mask])
    hidden = some.new_zeros((*mask.shape, some.shape[-1]))
    hidden[mask] = some
    return hidden
