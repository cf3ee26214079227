"""What makes a record useful: how much likelier it makes the answer that the user gave.

A record r of a training user is taken out of the profile and asked as a question x in the task's words; another record
c of the same user is useful to it by the gain in the frozen LLM's log-likelihood of r's own target y,

    gain(c) = log p(y | c, x) - log p(y | x)

Candidates c are the records nearest to r and as many drawn at random, so that useful records that are not similar are
seen as well. The spaces (`DualSpaces`) maximise the gain that is to be expected of a record drawn by its score, from
IN = OUT = the encoder's space on,

    mean over questions of  sum over candidates c of  softmax(score)_c (gain(c) - the question's mean gain)

and stop where users that are held out say so. Of the likelihoods as labels (Shi et al., REPLUG, arXiv 2301.12652) the
distribution softmax(gain) was tried first: on users held out it chose records no more useful than the nearest ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, GenerationError, InvalidOptionError, check_least
from persona.lamp.prompts import LampWording, lamp_prompt
from persona.lamp.tasks import LampSplit
from persona.llm.checks import check_seed
from persona.llm.optimization import EarlyStopping
from persona.protocols import Choices, LanguageModel, RecordEncoder, Request, ScoresChoices
from persona.store.vectors import vector_fingerprint

from ..vectors.record_vectors import RecordVectors
from .spaces import DualSpaces

_PATIENCE = 20
_SCALE = 10.0
"""What a cosine counts at first, so that the nearest candidate has some of the share that useful ones have."""


@dataclass(frozen=True, slots=True)
class UsefulnessTraining:
    """How the spaces of the retriever `useful` are learned, in place of a filter.

    Attributes:
        llm: whose answers are to become likelier (transformers: a folder, a hub id or tiny); unset trains a filter.
        questions: most records that stand as questions, drawn from all training users.
        candidates: records of the same user that each is asked with, at least 2.
        epochs: at most.
        learning_rate: of Adam.
        max_length: token budget of a prompt.
        view: the view of a record that is compared; unset takes the task's.
        seed: of everything random.

    Raises:
        InvalidOptionError: if a number is out of range.
    """

    llm: str | None = None
    questions: int = 1_000
    candidates: int = 8
    epochs: int = 200
    learning_rate: float = 3e-4
    max_length: int = 256
    view: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(5, questions=self.questions)
        check_least(2, candidates=self.candidates)
        check_least(1, epochs=self.epochs, max_length=self.max_length)
        check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class UsefulnessReport:
    """The outcome of a training; gains are means over the validation users' questions, in nats.

    Attributes:
        questions: records that stood as ones, of all users.
        users: whose they were.
        nearest: the gain of the candidate nearest to the question.
        chosen: of the one with the greatest score.
        best: of the most useful one.
        random: of all candidates.
    """

    questions: int
    users: int
    nearest: float
    chosen: float
    best: float
    random: float


class Asked(NamedTuple):
    """Records that stand as questions: their vectors, their candidates' vectors and gains, and whose they are.

    # (questions, dim), (questions, candidates, dim), (questions, candidates), (questions,)
    """

    queries: NDArray[np.float32]
    records: NDArray[np.float32]
    gains: NDArray[np.float64]
    users: NDArray[np.str_]

    def at(self, rows: NDArray[np.bool_]) -> Asked:
        """Some of them."""
        return Asked(self.queries[rows], self.records[rows], self.gains[rows], self.users[rows])


def train_usefulness(
    split: LampSplit,
    encoder: RecordEncoder,
    llm: LanguageModel,
    options: UsefulnessTraining = UsefulnessTraining(),
    *,
    progress: Callable[[str, int, int], object] | None = None,
) -> tuple[DualSpaces, UsefulnessReport]:
    """Spaces in which records are near to what they help with.

    Args:
        split: the training users' profiles; golds are not read.
        encoder: makes the vectors.
        llm: says how likely it finds the users' answers; it is not changed.
        options: how.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        EvaluationError: if records of the task answer no question, or fewer than 5 users have enough of them.
        InvalidOptionError: if the LLM does not say how likely an answer is.
    """
    view = options.view or split.task.view
    asked = _asked(split, RecordVectors(encoder, view=view), llm, options, progress)
    users = sorted(set(asked.users.tolist()))
    if len(users) < 5:
        raise EvaluationError(
            f"usefulness is learned from at least 5 users with more than {options.candidates} records that answer a "
            f"question of {split.task.name}, was: {len(users)}"
        )
    draw = np.random.default_rng(options.seed)
    held_out = np.isin(asked.users, draw.permutation(users)[: max(1, len(users) // 5)])
    inside, outside = asked.at(~held_out), asked.at(held_out)
    spaces = DualSpaces(fitted(inside, outside, options), vector_fingerprint(encoder, view), view)
    scores = np.stack([spaces.scores(*pair) for pair in zip(outside.queries, outside.records, strict=True)])
    nearest = np.einsum("qcd,qd->qc", outside.records, outside.queries)
    report = UsefulnessReport(
        questions=len(asked.users),
        users=len(users),
        nearest=_gain(outside.gains, nearest),
        chosen=_gain(outside.gains, scores),
        best=float(outside.gains.max(1).mean()),
        random=float(outside.gains.mean()),
    )
    spaces.notes = {"options": asdict(options), "report": asdict(report)}
    return spaces, report


def _gain(gains: NDArray[np.float64], scores: NDArray[Any]) -> float:
    """The mean gain of the candidates with the greatest score."""
    return float(np.take_along_axis(gains, scores.argmax(1)[:, None], 1).mean())


def _asked(
    split: LampSplit,
    vectors: RecordVectors,
    llm: LanguageModel,
    options: UsefulnessTraining,
    progress: Callable[[str, int, int], object] | None,
) -> Asked:
    if not isinstance(llm, ScoresChoices):
        raise InvalidOptionError(f"usefulness needs an LLM that says how likely an answer is, was: {llm.fingerprint}")
    draw = np.random.default_rng(options.seed)
    wording = LampWording(split.task)
    users = {question.user_id: question for question in split.questions}
    every = [
        (question, row, prompt)
        for question in users.values()
        if len(question.profile) > options.candidates
        for row, record in enumerate(question.profile)
        if (prompt := wording.question(question.input, record)) is not None
    ]
    taken = [every[number] for number in sorted(draw.permutation(len(every))[: options.questions].tolist())]
    queries = [split.task.query(prompt) for _, _, prompt in taken]
    vectors_of = vectors.embed([question.profile for question, _, _ in taken], queries)
    rows: list[tuple[NDArray[np.float32], NDArray[np.float32], list[float], str]] = []
    for number, ((question, row, prompt), embedded) in enumerate(zip(taken, vectors_of, strict=True)):
        profile = question.profile
        chosen = _candidates(embedded.similarities, row, options.candidates, draw)
        texts = [prompt]
        for each in chosen:
            built = lamp_prompt(split.task, prompt, [profile[each]], llm.tokenizer, max_length=options.max_length)
            texts.append(built.text)
        plain, *others = _likelihoods(llm, texts, profile[row].target or "")
        rows.append((embedded.query, embedded.wide[chosen], [other - plain for other in others], question.user_id))
        if progress is not None:
            progress("questions", number + 1, len(taken))
    if not rows:
        raise EvaluationError(
            f"no user has more than {options.candidates} records that answer a question of {split.task.name}"
        )
    asked, records, gains, ids = zip(*rows, strict=True)
    return Asked(np.stack(asked), np.stack(records), np.array(gains), np.array(ids))


def _candidates(similarities: NDArray[np.float32], row: int, n: int, draw: np.random.Generator) -> list[int]:
    """Positions of `n` records other than `row`: half the most similar ones, half drawn from the others."""
    others = [position for position in np.argsort(-similarities, kind="stable").tolist() if position != row]
    near = others[: n // 2]
    return [*near, *draw.choice(others[n // 2 :], n - len(near), replace=False).tolist()]


def _likelihoods(llm: ScoresChoices, prompts: Sequence[str], answer: str) -> list[float]:
    """Nats of `answer` after each prompt.

    Raises:
        GenerationError: if the LLM cannot score it.
    """
    found = []
    for scores in llm.choice_scores([Request(prompt, choices=Choices((answer,))) for prompt in prompts]):
        if isinstance(scores, GenerationError):
            raise scores
        found.append(scores[0])
    return found


def fitted(inside: Asked, outside: Asked, options: UsefulnessTraining) -> dict[str, NDArray[np.float32]]:
    """The weights of spaces that do best on the questions `outside`."""
    import torch

    dim = inside.queries.shape[1]
    named = {name: torch.nn.Parameter(_SCALE**0.5 * torch.eye(dim)) for name in ("in.weight", "out.weight")}

    def loss(asked: Asked) -> Any:
        gains = torch.from_numpy(asked.gains).float()
        wanted = torch.from_numpy(asked.queries) @ named["in.weight"].T @ named["out.weight"]
        scores = torch.einsum("qcd,qd->qc", torch.from_numpy(asked.records), wanted)
        return -(scores.softmax(1) * (gains - gains.mean(1, keepdim=True))).sum(1).mean()

    optimizer = torch.optim.Adam(named.values(), lr=options.learning_rate)
    stopping = EarlyStopping(_PATIENCE)
    best: dict[str, NDArray[np.float32]] = {}
    for epoch in range(options.epochs + 1):  # the first loss is that of the encoder's own space
        with torch.no_grad():
            better = stopping.improved(float(loss(outside)), epoch)
        if better:
            best = {name: tensor.detach().numpy().copy() for name, tensor in named.items()}
        elif stopping.exhausted:
            break
        optimizer.zero_grad()
        loss(inside).backward()
        optimizer.step()
    return best
