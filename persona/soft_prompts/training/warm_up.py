"""The warm-up of a user embedder: what to attend to in a history, and how to say it, before the LLM computes anything.

First the gates of the usual answer (`persona.soft_prompts.network`) are set by least squares, which is most of what
labels and scores need. Then the heads learn to attend: from their outputs and the question, an auxiliary network, which
is discarded afterwards, predicts the answer's vector among those of other answers, and its style. The answer tokens
learn to be the answer's embeddings, as far as the history determines them, and the other tokens stay the words that
they are. With p the prediction, a_j the vectors of the answers in a batch, y the right one, x_t soft token t over the
LLM's scale, I_t the instruction's and e_t the answer's embedding at position t of s answer tokens, the loss is

    -log softmax_j(p . a_j / 0.05)[y] + 10 * mean squared error of the style
    + (sum over the answer tokens |x_t - e_t|^2 + sum over the others |x_t - I_t|^2) / s
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.encoders.style import STYLE_DIM, style_vector
from persona.soft_prompts.histories import History, HistoryBatch, ReadsHistories
from persona.soft_prompts.instruction import answer_embeddings, answer_ids
from persona.soft_prompts.network import AttentionPooling
from persona.soft_prompts.training.answers import TrainingSetup
from persona.soft_prompts.training.examples import Example
from persona.soft_prompts.training.loop import Progress, Schedule, TrainingLoop
from persona.soft_prompts.training.options import BETAS, QUERY_DROPOUT, WEIGHT_DECAY, UserEmbedderTraining

_LEARNING_RATE, _BATCH, _EVALUATE_EVERY, _TEMPERATURE, _STYLE_WEIGHT = 2e-3, 64, 25, 0.05, 10
_NULL_RECORDS = (1.0, 3.0, 10.0, 30.0, 100.0)
_CALIBRATION, _GATE_RIDGE = 2048, 0.01
_PADDED_RECORDS = 2**16
"""Records of one batch of validation users, padding included: with vectors of 384 numbers half a gigabyte."""


def warm_up(
    setup: TrainingSetup, reader: ReadsHistories, options: UserEmbedderTraining, progress: Progress | None = None
) -> None:
    """Warm up an embedder of mode ``"attention"``; its best weights on validation users are kept."""
    stage = _WarmUp(setup, reader, options)
    if setup.embedder.config.n_answer_tokens:
        stage.set_answer_gates()
    stage.loop.run(progress)


class _WarmUp:
    """The warm-up's targets, its loss and its loop."""

    def __init__(self, setup: TrainingSetup, reader: ReadsHistories, options: UserEmbedderTraining) -> None:
        self.embedder, self.examples, self.llm, self.options = setup.embedder, setup.examples, setup.llm, options
        self.setup = setup
        assert isinstance(self.embedder.pooling, AttentionPooling)
        self.pooling = self.embedder.pooling
        self.device = next(self.embedder.parameters()).device
        golds = self.examples.golds()
        self.rows = {gold: row for row, gold in enumerate(golds)}
        self.vectors = torch.from_numpy(reader.questions(golds)).to(self.device)  # (answers, encoder_dim)
        self.styles = torch.from_numpy(np.stack([style_vector(gold) for gold in golds])).to(self.device)
        self.answer_ids = answer_ids(self.llm, golds)
        width, dim = self.embedder.config.width, self.embedder.config.encoder_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            predictor = nn.Sequential(nn.Linear(width + dim, width), nn.GELU(), nn.Linear(width, dim + STYLE_DIM))
        self.predictor = predictor.to(self.device)
        objectives = setup.objectives.parameters()
        self.trained = [*self.pooling.parameters(), *self.predictor.parameters(), *objectives]
        self.optimizer = torch.optim.AdamW(self.trained, lr=_LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS)
        self.validation = [(example, self.examples.shown(example, options)) for example in self.examples.validation]
        draw = np.random.default_rng((options.seed, 8))
        self.parts = list(_parts([history for _, history in self.validation], draw))
        schedule = Schedule(options.warm_up, _LEARNING_RATE, _EVALUATE_EVERY, options.patience, options.seed)
        self.loop = TrainingLoop(
            "warm-up", self.pooling, self.optimizer, schedule, take=self._take, validate=self._validate
        )

    @torch.no_grad()
    def set_answer_gates(self) -> None:
        """Set the gates of the usual answer and the null record's weight by least squares on training examples.

        For a given m the gates e that bring ``sum_h e_h A(t'_h - t_0)`` nearest to the answers' embeddings solve normal
        equations with one row per head; of a few m, the best is taken.
        """
        draw = np.random.default_rng((self.options.seed, 7))
        drawn = draw.permutation(self.examples.n_warm_up)[:_CALIBRATION]
        examples = [self.examples.warm_up(number) for number in drawn]
        heads = len(self.pooling.echo_gates)
        gram = torch.zeros(len(_NULL_RECORDS), heads, heads, device=self.device)
        right = torch.zeros(len(_NULL_RECORDS), heads, device=self.device)
        for start in range(0, len(examples), _BATCH):
            some = examples[start : start + _BATCH]
            batch = self._batch(some, [self.examples.shown(example, self.options) for example in some])
            wanted = self._answer_embeddings(some).flatten(1)
            weights = self.pooling.weights(batch.keys, batch.mask, batch.query, batch.days)
            for candidate, null_records in enumerate(_NULL_RECORDS):
                count = torch.tensor(null_records, device=self.device)
                usual = self.pooling.echo(self.pooling.targets(batch.values, batch.mask, weights, count))
                gram[candidate] += torch.einsum("bhd,bgd->hg", usual, usual)
                right[candidate] += torch.einsum("bhd,bd->h", usual, wanted)
        if not bool(gram.any()):
            return  # no record has a target
        unit = torch.eye(heads, device=self.device)
        ridge = _GATE_RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * unit
        gates = torch.linalg.solve(gram + ridge, right)
        explained = torch.einsum("mh,mh->m", gates, 2 * right) - torch.einsum("mh,mhg,mg->m", gates, gram, gates)
        best = int(explained.argmax())
        self.pooling.echo_gates.copy_(gates[best])
        self.pooling.log_null_records.fill_(math.log(_NULL_RECORDS[best]))

    def _take(self, step: int) -> float:
        draw = np.random.default_rng((self.options.seed, 6, step))
        some = [self.examples.warm_up(number) for number in draw.integers(0, self.examples.n_warm_up, _BATCH)]
        histories = [self.examples.shown(example, self.options, draw) for example in some]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(some, histories, asked=bool(draw.random() >= QUERY_DROPOUT))
        if (added := self.setup.added(some, histories, draw, warm_up=True)) is not None:
            loss = loss + added
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _validate(self) -> float:
        self.pooling.eval()
        losses = []
        for part in self.parts:
            some, histories = zip(*(self.validation[number] for number in part), strict=True)
            losses.append(float(self._loss(some, histories)))
        self.pooling.train()
        return float(np.average(losses, weights=[len(part) for part in self.parts]))

    def _loss(self, some: Sequence[Example], histories: Sequence[History], asked: bool = True) -> Tensor:
        """The loss of the module's docstring.  # ()"""
        config, batch = self.embedder.config, self._batch(some, histories)
        assert batch.query is not None
        query = batch.query if asked else None
        tokens, mixed = self.pooling.read(batch.keys, batch.values, batch.mask, query, batch.days)
        predicted = self.predictor(torch.cat((mixed, batch.query * config.encoder_dim**0.5), dim=1))
        right = torch.tensor([self.rows[example.gold] for example in some], device=self.device)
        different, answer = torch.unique(right, return_inverse=True)
        vector, style = torch.split(predicted, [config.encoder_dim, STYLE_DIM], dim=1)
        scores = F.normalize(vector, dim=1) @ self.vectors[different].T / _TEMPERATURE
        loss = F.cross_entropy(scores, answer) + _STYLE_WEIGHT * F.mse_loss(style, self.styles[right])
        if config.n_answer_tokens:
            padding = (0, 0, config.answer_start, config.n_tokens - config.answer_end)
            wanted = F.pad(self._answer_embeddings(some), padding)
            loss = loss + (tokens - wanted).square().sum((1, 2)).mean() / config.n_answer_tokens
        return loss

    def _batch(self, some: Sequence[Example], histories: Sequence[History]) -> HistoryBatch:
        queries = np.stack([example.query for example in some])
        return HistoryBatch.of(histories, self.embedder.config, queries, self.device)

    def _answer_embeddings(self, some: Sequence[Example]) -> Tensor:
        """The right answers' embeddings less the instruction's, over the scale.  # (some, answer tokens, llm_hidden)"""
        config = self.embedder.config
        ids = [self.answer_ids[self.rows[example.gold]] for example in some]
        wanted = answer_embeddings(self.llm, ids, config.n_answer_tokens).to(self.device)
        return wanted / config.embedding_scale - self.embedder.instruction.detach()[config.answer_tokens]


def _parts(histories: Sequence[History], draw: np.random.Generator) -> Iterator[list[int]]:
    """The histories in parts that fit into memory when padded to their longest; small sets are one part."""
    part: list[int] = []
    longest = 1
    for number in draw.permutation(len(histories)).tolist():
        longest = max(longest, len(histories[number]))
        if part and longest * (len(part) + 1) > _PADDED_RECORDS:
            yield part
            part, longest = [], max(1, len(histories[number]))
        part.append(number)
    if part:
        yield part
