"""Fits a relevance filter to the training users of a LaMP task.

Users and general questions are dealt into five folds. For each, three networks are fitted to the other four by binary
cross-entropy on pairs of their own draw (`persona.retrievers.relevance.pairs`), and stop when they get no better on the
fold. The mean of networks is one network again, and more certain than any of them. The threshold is chosen by
questions, each judged by the mean of the networks that were not fitted to it: a question *keeps* its records if the
nearest of them passes (`persona.retrievers.relevance.retriever`). It is

- the highest threshold at which the wanted share of the users' questions keep theirs in either form (*recall*): as
  strict as that allows, since domains that the training has not seen lie between;
- raised until the wanted share of general questions, each kind as frequent as the others, are left alone
  (*restraint* goes before recall).

All questions have a say in it: chosen on one fold, where a few decide, it let 7 or 32 % of the film reviews pass, by
the draw. Nothing of the split that a report is made on is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError, check_fraction, check_least
from persona.lamp.tasks import LampSplit, Question
from persona.llm.checks import check_seed
from persona.llm.optimization import EarlyStopping
from persona.protocols import RecordEncoder
from persona.store.vectors import HasVectors, vector_fingerprint

from ..vectors.record_vectors import RecordVectors
from .filters import TrainedFilter, read_queries
from .general import GENERAL
from .pairs import OWN, OwnQuestion, Pairs, records_as_questions

LEAST_GENERAL = 10
"""Fewest general questions of a kind."""

_PATIENCE = 20

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class RelevanceTraining:
    """How to train.

    Attributes:
        recall: wanted share of the users' questions that keep records, above 0 and below 1.
        restraint: least share of the general questions that keep none, above 0 and below 1; goes before `recall`.
        folds: parts into which the users are dealt, each left out by other networks; 2 to 10.
        members: networks for each fold; all are averaged in the end.
        width: hidden units of each.
        epochs: at most.
        questions: most questions of the split.
        records: most records that stand as questions, drawn from all training users; 0 for none. In views with the
            target, which no question has, there are none.
        view: the view of a record that is compared.
        seed: of everything random.

    Raises:
        InvalidOptionError: if a number is out of range.
    """

    recall: float = 0.97
    restraint: float = 0.9
    folds: int = 5
    members: int = 3
    width: int = 32
    epochs: int = 200
    questions: int = 1_000
    records: int = 4_000
    view: str = "text"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fraction(recall=self.recall, restraint=self.restraint)
        if not 2 <= self.folds <= LEAST_GENERAL:
            raise InvalidOptionError(f"`folds` must be from 2 to {LEAST_GENERAL}, was: {self.folds}")
        check_least(1, members=self.members, width=self.width, epochs=self.epochs, questions=self.questions)
        check_least(0, records=self.records)
        check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class RelevanceReport:
    """The outcome of a training, each question judged by the networks that were not fitted to it.

    These are estimates of what all networks together do, which are more certain.

    Attributes:
        questions: of the split, that were used.
        records: that stood as questions.
        general: general questions that were used.
        threshold: chosen.
        recall: of the users' questions, the share that keep records, in the form that keeps fewer.
        general_kept: of the general questions of each kind, the share that keep records.
    """

    questions: int
    records: int
    general: int
    threshold: float
    recall: float
    general_kept: Mapping[str, float]


class _Questions(NamedTuple):
    """All questions of a training: users' own bare and in the words of the task, records that stand as questions, and
    what a network reads of general ones, by kind.  # each (questions, dim + STYLE_DIM)"""

    bare: list[OwnQuestion]
    worded: list[OwnQuestion]
    stand_ins: list[OwnQuestion]
    general: list[NDArray[np.float32]]


class _CrossFit(NamedTuple):
    """The networks of all folds, and the greatest f of each question's records by those not fitted to it: of users'
    questions by form, of general ones by kind.  # each (questions,)"""

    networks: list[Weights]
    own: list[NDArray[np.float64]]
    general: list[NDArray[np.float64]]


def training_questions(split: LampSplit, options: RelevanceTraining) -> list[Question]:
    """The questions that `train_relevance` takes: those with records, at most `options.questions`, drawn at random."""
    asked = [question for question in split.questions if question.profile.records]
    draw = np.random.default_rng(options.seed)
    return [asked[number] for number in sorted(draw.permutation(len(asked))[: options.questions].tolist())]


def train_relevance(
    split: LampSplit,
    encoder: RecordEncoder,
    options: RelevanceTraining | None = None,
    *,
    general: Sequence[str] | Mapping[str, Sequence[str]] = GENERAL,
    store: HasVectors | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> tuple[TrainedFilter, RelevanceReport]:
    """A filter for the users of a task.

    Args:
        split: the training users' questions with their profiles; golds are not read.
        encoder: makes the vectors.
        options: how.
        general: questions for which nobody's records are relevant, of one kind or by kind; at least 10 of each.
        store: where the vectors of the users' records are (`persona.encoders.embedding.embed_users`); None makes them.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        EvaluationError: if there are fewer than 5 users with records, fewer than 10 general questions of a kind, or no
            threshold at which any question keeps records.
    """
    options = options or RelevanceTraining()
    kinds = general if isinstance(general, Mapping) else {"general": general}
    asked = training_questions(split, options)
    _check_enough(asked, kinds)
    draw = np.random.default_rng(options.seed)
    questions = _embedded(split, asked, RecordVectors(encoder, store, options.view), options, draw, kinds)
    fit = _cross_fit(questions, options, draw, progress)
    threshold = _threshold(fit, options)
    trained = TrainedFilter(_mean(fit.networks), threshold, vector_fingerprint(encoder, options.view), options.view)
    report = RelevanceReport(
        questions=len(asked),
        records=len(questions.stand_ins),
        general=sum(map(len, kinds.values())),
        threshold=threshold,
        recall=min(_share(values, threshold) for values in fit.own),
        general_kept={name: _share(values, threshold) for name, values in zip(kinds, fit.general, strict=True)},
    )
    trained.notes = {"options": asdict(options), "report": asdict(report)}
    return trained, report


def _check_enough(asked: Sequence[Question], kinds: Mapping[str, Sequence[str]]) -> None:
    users = len({question.user_id for question in asked})
    fewest = min(map(len, kinds.values()), default=0)
    if users < 5 or fewest < LEAST_GENERAL:
        raise EvaluationError(
            f"a filter needs at least 5 users with records and {LEAST_GENERAL} general questions of each kind, "
            f"was: {users} and {fewest}"
        )


def _embedded(
    split: LampSplit,
    asked: Sequence[Question],
    vectors: RecordVectors,
    options: RelevanceTraining,
    draw: np.random.Generator,
    kinds: Mapping[str, Sequence[str]],
) -> _Questions:
    """All questions with their vectors and those of the users' records."""
    texts = [*(split.task.query(question.input) for question in asked), *(question.input for question in asked)]
    embedded = vectors.embed([question.profile for question in asked] * 2, texts)
    own = [
        OwnQuestion.of(question.user_id, profile, profile.similarities)
        for question, profile in zip([*asked, *asked], embedded, strict=True)
    ]
    users = {question.user_id: (question.profile, profile) for question, profile in zip(asked, embedded, strict=False)}
    with_target = "target" in options.view
    stand_ins = [] if with_target else records_as_questions(users, options.view, options.records, draw)
    general = [read_queries(vectors.encoder.encode(list(kind)), kind) for kind in kinds.values()]
    return _Questions(own[: len(asked)], own[len(asked) :], stand_ins, general)


def _cross_fit(
    questions: _Questions,
    options: RelevanceTraining,
    draw: np.random.Generator,
    progress: Callable[[str, int, int], object] | None,
) -> _CrossFit:
    """Fit networks for each fold, and judge the fold by them."""
    users = sorted({question.user_id for question in questions.bare})
    folds = min(options.folds, len(users))
    fold_of = {user: number % folds for number, user in enumerate(draw.permutation(users).tolist())}
    general_folds = [draw.permutation(len(texts)) % folds for texts in questions.general]
    networks: list[Weights] = []
    # For bare and worded questions, then for each kind of general ones: an array for each fold.
    judged: list[list[NDArray[np.float64]]] = [[] for _ in range(2 + len(general_folds))]
    for fold in range(folds):
        by_kind = list(zip(questions.general, general_folds, strict=True))
        own = [*questions.bare, *questions.worded]
        inside = [question for question in (*own, *questions.stand_ins) if fold_of[question.user_id] != fold]
        left_out = [question for question in own if fold_of[question.user_id] == fold]
        outside = Pairs.drawn(left_out, [texts[those == fold] for texts, those in by_kind], draw)
        for _ in range(options.members):
            pairs = Pairs.drawn(inside, [texts[those != fold] for texts, those in by_kind], draw)
            networks.append(_fitted(pairs, outside, options, options.seed + 1_000 * len(networks)))
            if progress is not None:
                progress("networks", len(networks), folds * options.members)
        values = _values(TrainedFilter(_mean(networks[-options.members :]), 0.5, "", options.view), outside)
        # Each user asks every question in both forms: the first half of those left out is bare.
        halves = np.split(outside.greatest(values, OWN), 2)
        kinds = [outside.greatest(values, kind) for kind in range(len(general_folds))]
        for greatest, of_fold in zip(judged, (*halves, *kinds), strict=True):
            greatest.append(of_fold)
    bare, worded, *general = map(np.concatenate, judged)
    return _CrossFit(networks, [bare, worded], general)


def _fitted(pairs: Pairs, validation: Pairs, options: RelevanceTraining, seed: int) -> Weights:
    """The weights of one network that do best on the validation pairs."""
    import torch
    from torch import nn
    from torch.nn import functional

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden, out = nn.Linear(pairs.read.shape[1], options.width), nn.Linear(options.width, 2)
        model = nn.ModuleDict({"hidden": hidden, "out": out})
        with torch.no_grad():
            # The line of an untrained reader: 0.5 at a similarity of 0.3, whatever the query.
            out.bias.copy_(torch.tensor([10.0, -3.0]))
            out.weight.mul_(0.1)

        def loss(pairs: Pairs) -> Any:
            line = out(torch.tanh(hidden(torch.from_numpy(pairs.read))))[torch.from_numpy(pairs.queries)]
            logits = functional.softplus(line[:, 0]) * torch.from_numpy(pairs.similarities) + line[:, 1]
            return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(pairs.labels))

        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
        stopping = EarlyStopping(_PATIENCE)
        best: Weights = {}
        for epoch in range(options.epochs):
            optimizer.zero_grad()
            loss(pairs).backward()
            optimizer.step()
            with torch.no_grad():
                better = stopping.improved(float(loss(validation)), epoch)
            if better:
                best = {name: tensor.detach().clone().numpy() for name, tensor in model.state_dict().items()}
            elif stopping.exhausted:
                break
    return best


def _mean(networks: Sequence[Mapping[str, NDArray[np.float32]]]) -> Weights:
    """One network whose outputs are the mean of those of several: all their hidden units side by side."""
    count = np.float32(len(networks))
    return {
        "hidden.weight": np.concatenate([network["hidden.weight"] for network in networks]),
        "hidden.bias": np.concatenate([network["hidden.bias"] for network in networks]),
        "out.weight": np.concatenate([network["out.weight"] for network in networks], axis=1) / count,
        "out.bias": np.sum([network["out.bias"] for network in networks], axis=0) / count,
    }


def _values(judge: TrainedFilter, pairs: Pairs) -> NDArray[np.float64]:
    """f of each pair.  # (pairs,)"""
    lines = np.array([judge.line(read) for read in pairs.read])[pairs.queries]
    return np.asarray(1 / (1 + np.exp(-(lines[:, 0] * pairs.similarities + lines[:, 1]))), dtype=np.float64)


def _threshold(fit: _CrossFit, options: RelevanceTraining) -> float:
    """The threshold that has the wanted shares.

    Raises:
        EvaluationError: if no question of a user keeps records at it.
    """
    recall = min(_for_recall(values, options.recall) for values in fit.own)
    threshold = max(recall, _for_restraint(fit.general, options.restraint))
    if not _share(np.concatenate(fit.own), threshold):
        raise EvaluationError(
            "no threshold leaves general questions alone and lets a user's keep records: the general questions are as "
            f"near to the records as the users' own; give others, or a lower `restraint`, was: {options.restraint}"
        )
    return threshold


def _share(values: NDArray[np.float64], threshold: float) -> float:
    return float((values >= threshold).mean())


def _for_recall(own: NDArray[np.float64], recall: float) -> float:
    """The highest threshold at which at least the wanted share of `own` pass."""
    descending = np.sort(own)[::-1]
    return float(descending[math.ceil(round(recall * len(own), 9)) - 1])


def _for_restraint(general: Sequence[NDArray[np.float64]], restraint: float) -> float:
    """The lowest threshold at which at least the wanted share of all others, each kind as frequent, do not pass."""
    tried = np.unique(np.nextafter(np.concatenate(general), np.inf))
    passing = [float(np.mean([_share(values, value) for values in general])) for value in tried.tolist()]
    return float(tried[np.flatnonzero(np.array(passing) <= 1 - restraint + 1e-9)[0]])
