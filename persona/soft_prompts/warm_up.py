"""The warm-up of a user embedder: where to look in a history, and how to say it, before the LLM computes anything.

First the gates of the echo (`persona.soft_prompts.embedder`) are set by least squares, which is most of what labels and scores need.
Then, from what the heads found and the question, a small head that is thrown away afterwards tells the answer's vector
from those of the other answers, and its style: where to look in a history is learned there. And the soft tokens learn
to say it: those in the slot become the answer's embeddings, as far as the history tells them, and the others stay the
words that they are. With x_t soft token t over the LLM's scale, I_t the instruction's and y_t the answer's embedding in
place t of a slot of s tokens, that loss is

    (sum over the slot |x_t - y_t|^2 + sum over the rest |x_t - I_t|^2) / s

so that the slot becomes the mean of what the answer may be. The LLM then only has to listen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from persona.encoders.style import STYLE_DIM, style_vector
from persona.llm.transformers import TransformersLM
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.examples import Example, Examples, UserEmbedderTraining
from persona.soft_prompts.histories import History, HistoryBatch, ReadsHistories
from persona.soft_prompts.instruction import answer_ids, in_slot

Progress = Callable[[int, int, float, float], None]
"""Called after a step with the steps done, all steps, the step's loss and the best dev loss so far."""

_WARM_RATE, _WARM_BATCH, _WARM_LOOK, _WARM_TEMPERATURE = 2e-3, 64, 25, 0.05

_NULL_RECORDS = (1.0, 3.0, 10.0, 30.0, 100.0)
_CALIBRATION, _GATE_RIDGE = 2048, 0.01
_PADDED_RECORDS = 2**16
"""Records of one batch of users kept aside, padding included: with vectors of 384 numbers half a gigabyte."""


def warm_up(
    embedder: UserEmbedder,
    examples: Examples,
    reader: ReadsHistories,
    llm: TransformersLM,
    options: UserEmbedderTraining,
    progress: Progress | None = None,
) -> None:
    """Teach the heads of `embedder` where to look and its soft tokens to say it; see the module. The best step is kept.

    With p the head's guess and a_j the vectors of the answers in the batch, the loss is that of the slot, plus
    ``-log softmax_j(p . a_j / 0.05)`` of the right one, plus 10 times the mean squared error of its style.
    """
    pooling: Any = embedder.pooling
    device = next(embedder.parameters()).device
    answers = _Answers.of(examples.golds(), embedder, reader, llm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        width, dim = embedder.config.width, embedder.config.encoder_dim
        head = nn.Sequential(nn.Linear(width + dim, width), nn.GELU(), nn.Linear(width, dim + STYLE_DIM)).to(device)
    parameters = [*pooling.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_WARM_RATE, weight_decay=options.weight_decay, betas=(0.9, 0.98))

    if answers.slot_tokens:
        _set_echo(embedder, examples, answers, options)

    def loss_of(some: Sequence[Example], histories: Sequence[History], asked: bool = True) -> torch.Tensor:
        batch = HistoryBatch.of(histories, embedder.config, np.stack([one.query for one in some]), device)
        assert batch.query is not None
        tokens, found = pooling.read(batch.keys, batch.values, batch.mask, batch.query if asked else None, batch.days)
        guess = head(torch.cat((found, batch.query * dim**0.5), dim=1))
        return answers.loss([one.gold for one in some], guess, tokens)

    best, best_state, rounds, report = math.inf, copied_state(pooling.state_dict()), 0, progress or (lambda *_: None)
    aside = [(one, examples.shown(one, options)) for one in examples.dev]
    parts = list(_parts([history for _, history in aside], np.random.default_rng((options.seed, 8))))
    for step in range(options.warm_up + 1):
        if step % _WARM_LOOK == 0 or step == options.warm_up:
            with torch.no_grad():
                losses = [
                    float(loss_of([aside[place][0] for place in part], [aside[place][1] for place in part]))
                    for part in parts
                ]
            found = float(np.average(losses, weights=[len(part) for part in parts]))
            rounds = 0 if found < best else rounds + 1
            if found < best:
                best, best_state = found, copied_state(pooling.state_dict())
            if rounds >= options.patience:
                break
        if step == options.warm_up:
            break
        draw = np.random.default_rng((options.seed, 6, step))
        some = [examples.warm_up(place) for place in draw.integers(0, examples.n_warm_up, _WARM_BATCH)]
        histories = [examples.shown(one, options, draw) for one in some]
        for group in optimizer.param_groups:
            group["lr"] = _WARM_RATE * rate_share(step, options.warm_up)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(some, histories, asked=bool(draw.random() >= options.query_dropout))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        report(step + 1, options.warm_up, float(loss.detach()), best)
    pooling.load_state_dict(best_state)


def _parts(histories: Sequence[History], draw: np.random.Generator) -> Iterator[list[int]]:
    """The histories in parts that fit into memory when padded to their longest; small sets are one part."""
    part: list[int] = []
    longest = 1
    for place in draw.permutation(len(histories)).tolist():
        longest = max(longest, len(histories[place]))
        if part and longest * (len(part) + 1) > _PADDED_RECORDS:
            yield part
            part, longest = [], max(1, len(histories[place]))
        part.append(place)
    if part:
        yield part


@torch.no_grad()
def _set_echo(embedder: UserEmbedder, examples: Examples, answers: _Answers, options: UserEmbedderTraining) -> None:
    """Set the echo's gates, and how many records outweigh the null record, by least squares on training examples.

    For a given m the gates e that bring ``sum_h e_h echo_h`` nearest to the answers' embeddings solve normal equations
    of one row per head; m is the one of a few whose gates come nearest.
    """
    pooling: Any = embedder.pooling
    device = answers.vectors.device
    draw = np.random.default_rng((options.seed, 7))
    drawn = [examples.warm_up(place) for place in draw.permutation(examples.n_warm_up)[:_CALIBRATION]]
    heads = len(pooling.echo_gates)
    gram = torch.zeros(len(_NULL_RECORDS), heads, heads, device=device)
    right = torch.zeros(len(_NULL_RECORDS), heads, device=device)
    for start in range(0, len(drawn), _WARM_BATCH):
        some = drawn[start : start + _WARM_BATCH]
        batch = HistoryBatch.of(
            [examples.shown(one, options) for one in some],
            embedder.config,
            np.stack([one.query for one in some]),
            device,
        )
        aims = answers.aims([one.gold for one in some]).flatten(1)
        weights = pooling.weights(batch.keys, batch.mask, batch.query, batch.days)
        for place, null_records in enumerate(_NULL_RECORDS):
            targets = pooling.targets(batch.values, batch.mask, weights, torch.tensor(null_records, device=device))
            echoes = pooling.echo(targets)  # (batch, heads + 1, slot_tokens * llm_hidden)
            gram[place] += torch.einsum("bhd,bgd->hg", echoes, echoes)
            right[place] += torch.einsum("bhd,bd->h", echoes, aims)
    if not bool(gram.any()):
        return  # nobody has a record with a target
    ridge = _GATE_RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(heads, device=device)
    gates = torch.linalg.solve(gram + ridge, right)
    nearness = torch.einsum("mh,mh->m", gates, 2 * right) - torch.einsum("mh,mhg,mg->m", gates, gram, gates)
    best = int(nearness.argmax())
    pooling.echo_gates.copy_(gates[best])
    pooling.log_null_records.fill_(math.log(_NULL_RECORDS[best]))


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """What the warm-up aims at: each answer as the record encoder, the style and the LLM's embeddings see it.

    Attributes:
        places: answer -> its row.
        vectors: of the record encoder.  # (answers, encoder_dim)
        styles: (answers, STYLE_DIM)
        ids: token ids of each answer.
        embedder: the user embedder that is to say them.
        llm: the LLM that is to hear them.
    """

    places: Mapping[str, int]
    vectors: torch.Tensor
    styles: torch.Tensor
    ids: Sequence[Sequence[int]]
    embedder: UserEmbedder
    llm: TransformersLM

    @classmethod
    def of(cls, golds: Sequence[str], embedder: UserEmbedder, reader: ReadsHistories, llm: TransformersLM) -> _Answers:
        """Of different answers."""
        device = next(embedder.parameters()).device
        return cls(
            {gold: place for place, gold in enumerate(golds)},
            torch.from_numpy(reader.questions(golds)).to(device),
            torch.from_numpy(np.stack([style_vector(gold) for gold in golds])).to(device),
            answer_ids(llm, list(golds)),
            embedder,
            llm,
        )

    @property
    def slot_tokens(self) -> int:
        """Length of the slot; 0 for none."""
        start, end = self.embedder.config.slot
        return end - start

    def aims(self, golds: Sequence[str]) -> torch.Tensor:
        """What answers add to the instruction in the slot, over the LLM's scale.  # (golds, slot_tokens, llm_hidden)"""
        filled = in_slot(self.llm, [self.ids[self.places[gold]] for gold in golds], self.slot_tokens)
        instruction = self.embedder.instruction.detach()[slice(*self.embedder.config.slot)]
        return filled.to(instruction.device) / self.embedder.config.embedding_scale - instruction

    def loss(self, golds: Sequence[str], guess: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The loss of `warm_up`.

        Args:
            golds: the right answers.
            guess: the head's.  # (golds, encoder_dim + STYLE_DIM)
            tokens: what the users add to the instruction.  # (golds, n_tokens, llm_hidden)
        """
        right = torch.tensor([self.places[gold] for gold in golds], device=guess.device)
        different, answer = torch.unique(right, return_inverse=True)
        vector, style = torch.split(guess, [self.vectors.shape[1], STYLE_DIM], dim=1)
        scores = F.normalize(vector, dim=1) @ self.vectors[different].T / _WARM_TEMPERATURE
        loss = F.cross_entropy(scores, answer) + 10 * F.mse_loss(style, self.styles[right])
        if self.slot_tokens:
            start, end = self.embedder.config.slot
            aimed = F.pad(self.aims(golds), (0, 0, start, tokens.shape[1] - end))
            loss = loss + (tokens - aimed).square().sum((1, 2)).mean() / self.slot_tokens
        return loss


def rate_share(step: int, steps: int) -> float:
    """Share of the peak: 5 % of the steps warm up, then half a cosine down to 0."""
    warm = max(1, round(0.05 * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))


def copied_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
