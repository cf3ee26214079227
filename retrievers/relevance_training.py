"""Fits a relevance filter to the training users of a LaMP task.

Pairs of a query and a record, each with its similarity:

- *relevant*: a question and the records of its own user that are nearest to it, which a retriever would find; each
  question in two forms, bare and in the task's words, as a prompt asks it (`Personalizer`). The text of a record, too,
  stands as a question to the rest of its profile, since questions are few and records are of the same kind: on training
  users kept aside this let 6 instead of 14 % of the film reviews pass a filter for news that kept 93 % of own
  questions, and 13 instead of 51 % of the papers, which it was never shown;
- *not relevant*: a general question and the records of a user that are nearest to it, as many of each kind; and a
  user's question with general questions in the place of records, that is with text on other topics. (Other users'
  records of the same task will not do: two critics write of the same films, and a record that fits is no less fitting
  because another wrote it.)

Users and general questions are dealt into five folds. For each, three networks are fitted to the other four by binary
cross-entropy, each to pairs of its own draw, and stop when they get no better on their own fold. The mean of networks
is one network again, and more certain than any of them (area under the curve of news against film reviews 0.967 for the
mean of four, 0.959 for one, on training users kept aside). The threshold is chosen by questions, each judged by the
mean of the networks that were not fitted to it: a question *keeps* its records if the nearest of them passes
(`persona.retrievers.relevance.RelevanceRetriever`). It is the highest threshold at which the wanted share of the users'
questions keep theirs in either form (*recall*): as strict as that allows, since domains that the training has not seen
lie between. If fewer than the wanted share of general questions, each kind as frequent as the others, are left alone by
it (*restraint*), it is raised until they are: restraint goes before recall. Or, if so wanted, it is the lowest at which
users' questions are the wanted share of those that keep records (*precision*). All questions have a say in it: chosen
on one fold of them, where a few decide, it let 7 or 32 % of the film reviews pass, by the draw. Nothing of the split
that a report is made on is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError
from persona.lamp.tasks import LampSplit, Question
from persona.llm.checks import check_seed
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import vector_fingerprint

from .background import GENERAL_QUESTIONS, LONG_REQUESTS
from .ranking import view_texts
from .record_vectors import Placed, RecordVectors
from .relevance import CosineAdapter, read_queries

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

TOP = 4
"""The records of a user that count as found for a question."""
OTHERS = 2
"""Texts on other topics that stand beside them."""
GENERAL: Mapping[str, Sequence[str]] = MappingProxyType({"questions": GENERAL_QUESTIONS, "requests": LONG_REQUESTS})
"""The kinds of general questions that come with persona."""

BARE, WHOLE = "bare", "whole"
"""The forms of a user's question: what it asks about alone (`LampTask.query`), and the whole input."""

LEAST_GENERAL = 10
"""Fewest general questions of a kind."""

_OWN, _OTHER = -1, -2
_SAME = 0.999
"""From this similarity on a record is a copy of the one that stands as a question (vectors are float16)."""


@dataclass(frozen=True, slots=True)
class RelevanceTraining:
    """How to train.

    Attributes:
        recall: wanted share of the users' questions that keep records, above 0 and below 1.
        restraint: least share of the general questions that keep none, above 0 and below 1; goes before `recall`.
        precision: wanted share of users' questions among those that keep records, above 0 and below 1, in place of
            both; None wants none.
        folds: parts into which the users are dealt, each left out by other networks; 2 to 10.
        members: networks for each fold; all are averaged in the end.
        width: hidden units of each.
        epochs: at most.
        questions: at most so many of the split.
        records: at most so many records that stand as questions, drawn from all training users; 0 for none. In views
            with the target, which no question has, there are none.
        view: the view of a record that is compared.
        seed: of everything random.

    Raises:
        InvalidOptionError: if a number is out of range.
    """

    recall: float = 0.97
    restraint: float = 0.9
    precision: float | None = None
    folds: int = 5
    members: int = 3
    width: int = 32
    epochs: int = 200
    questions: int = 1_000
    records: int = 4_000
    view: str = "text"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("recall", "restraint", "precision"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise InvalidOptionError(f"`{name}` must be above 0 and below 1, was: {value}")
        if not 2 <= self.folds <= LEAST_GENERAL:
            raise InvalidOptionError(f"`folds` must be from 2 to {LEAST_GENERAL}, was: {self.folds}")
        for name in ("members", "width", "epochs", "questions"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")
        if self.records < 0:
            raise InvalidOptionError(f"`records` must be at least 0, was: {self.records}")
        check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class RelevanceReport:
    """What a training came to, each question judged by the networks that were not fitted to it.

    These are estimates of what all networks together do, which are more certain: those that judge a question are three
    of them, and ended where they did best on its fold.

    Attributes:
        questions: of the split, that were used.
        records: that stood as questions.
        general: general questions that were used.
        pairs: of all networks, those kept aside included.
        threshold: chosen.
        precision: of the questions that keep records, the share of users' ones, all kinds being equally frequent.
        recall: of the users' questions, the share that keep records, in the form that keeps fewer.
        general_kept: of the general questions of each kind, the share that keep records.
    """

    questions: int
    records: int
    general: int
    pairs: int
    threshold: float
    precision: float
    recall: float
    general_kept: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A user's question, or a record that stands as one.

    Attributes:
        user_id: whose.
        placed: the user's records and the question.
        read: what a network reads of the question (`read_queries`).  # (dim + STYLE_DIM,)
        nearest: similarities of the `TOP` nearest records, those of a record itself and of its copies left out.
    """

    user_id: str
    placed: Placed
    read: NDArray[np.float32]
    nearest: list[float]

    @classmethod
    def of(cls, user_id: str, placed: Placed, similarities: NDArray[np.float32]) -> _Asked:
        """By the similarities of the records that count."""
        (read,) = read_queries(placed.query[None], [placed.text])
        nearest: list[float] = np.sort(similarities)[::-1][:TOP].tolist()
        return cls(user_id, placed, read, nearest)


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pairs: of which query each is, its similarity, its label (1 is relevant), of which question, what kind.

    A kind is the number of the general questions' kind, `_OWN`, or `_OTHER` for a user's question with another text.
    `read` (queries, dim + STYLE_DIM) has each query once (`read_queries`), the others have a row for each pair.
    """

    read: NDArray[np.float32]
    queries: NDArray[np.intp]
    similarities: NDArray[np.float32]
    labels: NDArray[np.float32]
    questions: NDArray[np.intp]
    kinds: NDArray[np.intp]


def training_questions(split: LampSplit, options: RelevanceTraining) -> list[Question]:
    """The questions that `train_relevance` takes: those with records, or so many of them drawn at random."""
    asked = [question for question in split.questions if question.profile.records]
    draw = np.random.default_rng(options.seed)
    return [asked[place] for place in sorted(draw.permutation(len(asked))[: options.questions].tolist())]


def train_relevance(
    split: LampSplit,
    encoder: RecordEncoder,
    options: RelevanceTraining | None = None,
    *,
    general: Sequence[str] | Mapping[str, Sequence[str]] = GENERAL,
    store: ProfileStore | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> tuple[CosineAdapter, RelevanceReport]:
    """A filter for the users of a task.

    Args:
        split: the training users' questions with their profiles; golds are not looked at.
        encoder: makes the vectors.
        options: how.
        general: questions for which nobody's records are relevant, of one kind or by kind; at least 10 of each.
        store: where the vectors of the users' records are (`persona.encoders.embedding.embed_users`); None makes them now.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        EvaluationError: if there are fewer than 5 users with records, fewer than 10 general questions of a kind, or no
            threshold at which any question keeps records.
    """
    options = options or RelevanceTraining()
    asked = training_questions(split, options)
    draw = np.random.default_rng(options.seed)
    users = sorted({question.user_id for question in asked})
    kinds = general if isinstance(general, Mapping) else {"general": general}
    fewest = min(map(len, kinds.values()), default=0)
    if len(users) < 5 or fewest < LEAST_GENERAL:
        raise EvaluationError(
            f"a filter needs at least 5 users with records and {LEAST_GENERAL} general questions of each kind, "
            f"was: {len(users)} and {fewest}"
        )
    # Bare, as evaluations ask it, and in the task's words, as it comes in a prompt.
    texts = [*(split.task.query(one.input) for one in asked), *(one.input for one in asked)]
    profiles: list[Profile] = [one.profile for one in asked]
    placed = RecordVectors(encoder, store, options.view).place([*profiles, *profiles], texts)
    bare, whole = placed[: len(asked)], placed[len(asked) :]
    own = {
        form: [_Asked.of(one.user_id, some, some.similarities) for one, some in zip(asked, asked_so, strict=True)]
        for form, asked_so in ((BARE, bare), (WHOLE, whole))
    }
    by_user = {one.user_id: (one.profile, some) for one, some in zip(asked, bare, strict=True)}
    stand_ins = [] if "target" in options.view else _records_as_questions(by_user, options, draw)
    unrelated = [read_queries(encoder.encode(list(texts)), texts) for texts in kinds.values()]

    folds = min(options.folds, len(users))
    fold_of = {user: place % folds for place, user in enumerate(draw.permutation(users).tolist())}
    general_folds = [draw.permutation(len(texts)) % folds for texts in unrelated]
    networks: list[dict[str, NDArray[np.float32]]] = []
    n_pairs = 0
    # For each question the greatest f of its records, by networks not fitted to it.
    mine: dict[str, list[NDArray[np.float64]]] = {form: [] for form in own}
    theirs: list[list[NDArray[np.float64]]] = [[] for _ in kinds]
    for fold in range(folds):
        others = [texts[those != fold] for texts, those in zip(unrelated, general_folds, strict=True)]
        aside = [texts[those == fold] for texts, those in zip(unrelated, general_folds, strict=True)]
        inside = [one for some in (*own.values(), stand_ins) for one in some if fold_of[one.user_id] != fold]
        left = {form: [one for one in some if fold_of[one.user_id] == fold] for form, some in own.items()}
        outside = _pairs([one for some in left.values() for one in some], aside, draw)
        n_pairs += len(outside.labels)
        for _ in range(options.members):
            fitted = _pairs(inside, others, draw)
            n_pairs += len(fitted.labels)
            networks.append(_fit(fitted, outside, options, len(networks)))
            if progress is not None:
                progress("networks", len(networks), folds * options.members)
        values = _values(CosineAdapter(_mean(networks[-options.members :]), 0.5, "", options.view), outside)
        for form, best in zip(mine, np.split(_best(values, outside, _OWN), [len(left[BARE])]), strict=True):
            mine[form].append(best)
        for kind, found in enumerate(theirs):
            found.append(_best(values, outside, kind))
    kept = {form: np.concatenate(some) for form, some in mine.items()}
    general_kept = [np.concatenate(some) for some in theirs]
    everyone = np.concatenate(list(kept.values()))
    threshold = (
        max(
            min(_for_recall(values, options.recall) for values in kept.values()),
            _for_restraint(general_kept, options.restraint),
        )
        if options.precision is None
        else _for_precision(everyone, general_kept, options.precision)
    )
    if not _share(everyone, threshold):
        wish = "restraint" if options.precision is None else "precision"
        raise EvaluationError(
            "no threshold leaves general questions alone and lets a user's keep records: the general questions are as "
            f"near to the records as the users' own; give others, or a lower `{wish}`, was: {getattr(options, wish)}"
        )
    adapter = CosineAdapter(_mean(networks), threshold, vector_fingerprint(encoder, options.view), options.view)
    report = RelevanceReport(
        questions=len(asked),
        records=len(stand_ins),
        general=sum(map(len, kinds.values())),
        pairs=n_pairs,
        threshold=adapter.threshold,
        precision=_precision(everyone, general_kept, threshold),
        recall=min(_share(values, threshold) for values in kept.values()),
        general_kept={name: _share(values, threshold) for name, values in zip(kinds, general_kept, strict=True)},
    )
    adapter.notes = {"options": asdict(options), "report": asdict(report)}
    return adapter, report


def _records_as_questions(
    users: Mapping[str, tuple[Profile, Placed]], options: RelevanceTraining, draw: np.random.Generator
) -> list[_Asked]:
    """Records that stand as questions to the rest of their profile, one profile a user."""
    every = [(name, row) for name, (profile, _) in users.items() if len(profile) > 1 for row in range(len(profile))]
    texts = {name: view_texts(profile, options.view) for name, (profile, _) in users.items()}
    made = []
    for place in sorted(draw.permutation(len(every))[: options.records].tolist()):
        name, row = every[place]
        _, one = users[name]
        asked = Placed(one.records, one.records[row].astype(np.float32), texts[name][row])
        similarities = asked.similarities
        copies = similarities >= _SAME
        copies[row] = True
        made.append(_Asked.of(name, asked, similarities[~copies]))
    return made


def _pairs(own: Sequence[_Asked], general: Sequence[NDArray[np.float32]], draw: np.random.Generator) -> _Pairs:
    """Pairs of users' questions, and of general ones as `read_queries` gives them, by kind."""
    rows: list[tuple[int, float, float, int, int]] = []
    begins = np.cumsum([len(own), *map(len, general)]).tolist()
    asked = len(own)
    for place, one in enumerate(own):
        query = one.placed.query
        rows += [(place, value, 1.0, place, _OWN) for value in one.nearest]
        for _ in range(OTHERS):
            texts = general[int(draw.integers(len(general)))]
            text = texts[int(draw.integers(len(texts)))]
            rows.append((place, float(text[: len(query)] @ query), 0.0, place, _OTHER))
        wide = one.placed.wide
        for kind, texts in enumerate(general):
            number = int(draw.integers(len(texts)))
            found = np.sort(wide @ texts[number, : wide.shape[1]])[::-1][:TOP]
            rows += [(begins[kind] + number, value, 0.0, asked, kind) for value in found.tolist()]
            asked += 1
    queries, similarities, labels, questions, kinds = zip(*rows, strict=True)
    return _Pairs(
        np.concatenate([np.stack([one.read for one in own]), *general]),
        np.array(queries),
        np.array(similarities, np.float32),
        np.array(labels, np.float32),
        np.array(questions),
        np.array(kinds),
    )


def _mean(members: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    """One network whose outputs are the mean of those of `members`: all their hidden units side by side."""
    count = np.float32(len(members))
    return {
        "hidden.weight": np.concatenate([one["hidden.weight"] for one in members]),
        "hidden.bias": np.concatenate([one["hidden.bias"] for one in members]),
        "out.weight": np.concatenate([one["out.weight"] for one in members], axis=1) / count,
        "out.bias": np.sum([one["out.bias"] for one in members], axis=0) / count,
    }


def _fit(fitted: _Pairs, aside: _Pairs, options: RelevanceTraining, member: int) -> dict[str, NDArray[np.float32]]:
    """The weights of one network that do best on the pairs kept aside."""
    import torch
    from torch import nn
    from torch.nn import functional

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed + 1_000 * member)
        hidden, out = nn.Linear(fitted.read.shape[1], options.width), nn.Linear(options.width, 2)
        model = nn.ModuleDict({"hidden": hidden, "out": out})
        with torch.no_grad():
            # The line of an untrained reader: 0.5 at a similarity of 0.3, whatever the query.
            out.bias.copy_(torch.tensor([10.0, -3.0]))
            out.weight.mul_(0.1)

        def loss(pairs: _Pairs) -> Any:
            line = out(torch.tanh(hidden(torch.from_numpy(pairs.read))))[torch.from_numpy(pairs.queries)]
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
    lines = np.array([adapter.line(read) for read in pairs.read])[pairs.queries]
    return np.asarray(1 / (1 + np.exp(-(lines[:, 0] * pairs.similarities + lines[:, 1]))), dtype=np.float64)


def _best(values: NDArray[np.float64], pairs: _Pairs, kind: int) -> NDArray[np.float64]:
    """For each question of a kind the greatest f of its records: what decides whether it keeps them.  # (questions,)"""
    best: dict[int, float] = {}
    for place in np.flatnonzero(pairs.kinds == kind).tolist():
        question = int(pairs.questions[place])
        best[question] = max(best.get(question, 0.0), float(values[place]))
    return np.array(list(best.values()), dtype=np.float64)


def _share(values: NDArray[np.float64], threshold: float) -> float:
    return float((values >= threshold).mean())


def _precision(mine: NDArray[np.float64], others: Sequence[NDArray[np.float64]], threshold: float) -> float:
    """The share of users' questions among those that pass, each kind of general ones being equally frequent."""
    own, general = _share(mine, threshold), float(np.mean([_share(values, threshold) for values in others]))
    return own / (own + general) if own + general else 0.0


def _for_recall(mine: NDArray[np.float64], recall: float) -> float:
    """The highest threshold at which at least the wanted share of `mine` pass."""
    descending = np.sort(mine)[::-1]
    return float(descending[math.ceil(round(recall * len(mine), 9)) - 1])


def _for_restraint(others: Sequence[NDArray[np.float64]], restraint: float) -> float:
    """The lowest threshold at which at least the wanted share of all others, each kind as frequent, do not pass."""
    tried = np.unique(np.nextafter(np.concatenate(others), np.inf))
    passing = [float(np.mean([_share(values, value) for values in others])) for value in tried.tolist()]
    return float(tried[np.flatnonzero(np.array(passing) <= 1 - restraint + 1e-9)[0]])


def _for_precision(mine: NDArray[np.float64], others: Sequence[NDArray[np.float64]], precision: float) -> float:
    """The lowest threshold with the wanted precision; the highest of all if none has it."""
    tried = np.unique(np.concatenate([mine, *others]))
    good = [value for value in tried.tolist() if _precision(mine, others, value) >= precision]
    return float(good[0] if good else tried[-1])
