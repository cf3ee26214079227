"""Fits a relevance filter to the training users of a LaMP task.

Pairs of a query and a record, each with its similarity:

- *relevant*: a question and the records of its own user that are nearest to it, which a retriever would find;
- *not relevant*: a general question and the records of a user that are nearest to it; and a user's question with
  general questions in the place of records, that is with text on other topics. (Other users' records of the same task
  will not do: two critics write of the same films, and a record that fits is no less fitting because another wrote it.)

The network is fitted by binary cross-entropy on four fifths of the users (and of the general questions), and stops when
it gets no better on the rest. On that rest the threshold is chosen: the lowest at which the wanted share of the pairs
that pass are relevant ones. Nothing of the split that a report is made on is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError
from persona.lamp import LampSplit
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.vectors import vector_fingerprint

from .background import GENERAL_QUESTIONS
from .record_vectors import Placed, RecordVectors
from .relevance import CosineAdapter

TOP = 4
"""The records of a user that count as found for a question."""
OTHERS = 2
"""Texts on other topics that stand beside them."""


@dataclass(frozen=True, slots=True)
class RelevanceTraining:
    """How to train.

    Attributes:
        precision: wanted share of relevant ones among the pairs that pass, above 0 and below 1.
        width: hidden units.
        epochs: at most.
        questions: at most so many of the split.
        view: the view of a record that is compared.
        seed: of everything random.

    Raises:
        InvalidOptionError: if a number is out of range.
    """

    precision: float = 0.95
    width: int = 32
    epochs: int = 200
    questions: int = 1_000
    view: str = "text"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.precision < 1:
            raise InvalidOptionError(f"`precision` must be above 0 and below 1, was: {self.precision}")
        for name in ("width", "epochs", "questions"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class RelevanceReport:
    """What a training came to, on the users and general questions kept aside.

    Attributes:
        questions: of the split, that were used.
        general: general questions that were used.
        pairs: all pairs, those kept aside included.
        threshold: chosen.
        precision: of the pairs that pass, the share of relevant ones.
        recall: of the relevant pairs, the share that passes.
        general_kept: of the general questions, the share that any record passes for.
        own_kept: of the users' questions, the share that any of their records passes for.
    """

    questions: int
    general: int
    pairs: int
    threshold: float
    precision: float
    recall: float
    general_kept: float
    own_kept: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pairs in rows: the query's vector (pairs, dim), similarity, label (1 is relevant), and of which question."""

    queries: NDArray[np.float32]
    similarities: NDArray[np.float32]
    labels: NDArray[np.float32]
    questions: NDArray[np.intp]
    general: NDArray[np.bool_]


def train_relevance(
    split: LampSplit,
    encoder: RecordEncoder,
    options: RelevanceTraining | None = None,
    *,
    general: Sequence[str] = GENERAL_QUESTIONS,
) -> tuple[CosineAdapter, RelevanceReport]:
    """A filter for the users of a task.

    Args:
        split: the training users' questions with their profiles; golds are not looked at.
        encoder: makes the vectors, one call for all.
        options: how.
        general: at least 10 questions for which nobody's records are relevant.

    Raises:
        EvaluationError: if there are fewer than 5 users with records, or fewer than 10 general questions.
    """
    options = options or RelevanceTraining()
    draw = np.random.default_rng(options.seed)
    asked = [question for question in split.questions if question.profile.records]
    chosen = sorted(draw.permutation(len(asked))[: options.questions].tolist())
    asked = [asked[place] for place in chosen]
    users = sorted({question.user_id for question in asked})
    if len(users) < 5 or len(general) < 10:
        raise EvaluationError(
            "a filter needs at least 5 users with records and 10 general questions, "
            f"was: {len(users)} and {len(general)}"
        )
    vectors = RecordVectors(encoder, None, options.view)
    profiles: list[Profile] = [question.profile for question in asked]
    own = vectors.place(profiles, [split.task.query(question.input) for question in asked])
    unrelated = encoder.encode(list(general))

    held_users = set(draw.permutation(users)[: max(1, len(users) // 5)].tolist())
    held_general = draw.permutation(len(general)) < len(general) // 5
    sides = []
    for held in (False, True):
        places = [place for place, question in enumerate(asked) if (question.user_id in held_users) is held]
        sides.append(_pairs([own[place] for place in places], unrelated[held_general == held], draw))
    fitted, aside = sides
    weights = _fit(fitted, aside, options)
    adapter = CosineAdapter(weights, 0.5, vector_fingerprint(encoder, options.view), options.view)
    values = _values(adapter, aside)
    adapter.threshold = _threshold(values, aside.labels, options.precision)
    passes = values >= adapter.threshold
    relevant = aside.labels == 1
    report = RelevanceReport(
        questions=len(asked),
        general=len(general),
        pairs=len(fitted.labels) + len(aside.labels),
        threshold=adapter.threshold,
        precision=float(relevant[passes].mean()) if passes.any() else 0.0,
        recall=float(passes[relevant].mean()),
        general_kept=_kept(passes, aside, aside.general),
        own_kept=_kept(passes, aside, relevant),
    )
    adapter.notes = {"options": asdict(options), "report": asdict(report)}
    return adapter, report


def _pairs(own: Sequence[Placed], general: NDArray[np.float32], draw: np.random.Generator) -> _Pairs:
    rows: list[tuple[NDArray[np.float32], float, float, int, bool]] = []
    for place, one in enumerate(own):
        rows += [(one.query, value, 1.0, place, False) for value in np.sort(one.similarities)[::-1][:TOP].tolist()]
        for text in general[draw.integers(len(general), size=OTHERS)]:
            rows.append((one.query, float(text @ one.query), 0.0, place, False))
        query = general[int(draw.integers(len(general)))]
        found = np.sort(one.wide @ query)[::-1][:TOP]
        rows += [(query, value, 0.0, len(own) + place, True) for value in found.tolist()]
    queries, similarities, labels, questions, flags = zip(*rows, strict=True)
    return _Pairs(
        np.stack(queries),
        np.array(similarities, np.float32),
        np.array(labels, np.float32),
        np.array(questions),
        np.array(flags),
    )


def _fit(fitted: _Pairs, aside: _Pairs, options: RelevanceTraining) -> dict[str, NDArray[np.float32]]:
    """The weights that do best on the pairs kept aside."""
    import torch
    from torch import nn
    from torch.nn import functional

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        hidden, out = nn.Linear(fitted.queries.shape[1], options.width), nn.Linear(options.width, 2)
        model = nn.ModuleDict({"hidden": hidden, "out": out})
        with torch.no_grad():
            # The line of an untrained reader: 0.5 at a similarity of 0.3, whatever the query.
            out.bias.copy_(torch.tensor([10.0, -3.0]))
            out.weight.mul_(0.1)

        def loss(pairs: _Pairs) -> Any:
            line = out(torch.tanh(hidden(torch.from_numpy(pairs.queries))))
            logits = functional.softplus(line[:, 0]) * torch.from_numpy(pairs.similarities) + line[:, 1]
            return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(pairs.labels))

        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
        best, kept, worse = float("inf"), {}, 0
        for _ in range(options.epochs):
            optimizer.zero_grad()
            loss(fitted).backward()
            optimizer.step()
            with torch.no_grad():
                value = float(loss(aside))
            if value < best:
                best, worse = value, 0
                kept = {name: tensor.detach().clone().numpy() for name, tensor in model.state_dict().items()}
            elif (worse := worse + 1) == 20:
                break
    return kept


def _values(adapter: CosineAdapter, pairs: _Pairs) -> NDArray[np.float64]:
    """f of each pair.  # (pairs,)"""
    lines = {place: adapter.line(pairs.queries[place]) for place in range(len(pairs.labels))}
    logits = np.array([lines[place][0] * pairs.similarities[place] + lines[place][1] for place in lines])
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)


def _threshold(values: NDArray[np.float64], labels: NDArray[np.float32], precision: float) -> float:
    """The lowest value at which at least the wanted share of what passes is relevant; the highest if none is."""
    order = np.argsort(-values, kind="stable")
    shares = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    # Pairs of one value pass or fail together: only the last of them can be a threshold.
    last = np.append(values[order][1:] != values[order][:-1], True)
    good = np.flatnonzero((shares >= precision) & last)
    return float(values[order][good[-1] if len(good) else 0])


def _kept(passes: NDArray[np.bool_], pairs: _Pairs, among: NDArray[np.bool_]) -> float:
    """The share of questions that any pair of `among` passes for."""
    questions = set(pairs.questions[among].tolist())
    kept = set(pairs.questions[among & passes].tolist())
    return len(kept) / len(questions) if questions else 0.0
