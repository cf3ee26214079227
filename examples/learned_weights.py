"""Weights of `ConversationRetriever` from questions whose evidence is known, or from what helps a reader.

The weights w maximise the log-likelihood of the evidence under a softmax over the records of each profile,

    sum over questions of  sum over records j of  share_j log softmax(signals @ w)_j   -   strength / 2 |w - w0|^2

by BFGS: five numbers and a concave function. w0 are the retriever's own weights, so a few questions move them little.
On long conversations the default weights were as good as learned ones.

Where nobody marked evidence, a reader does (`evidence_by_reader`): the shares are the softmax of the log-likelihood
that an LLM gives the known answer after each of the turns found first (Izacard et al., arXiv 2208.03299).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from persona.errors import GenerationError, InvalidOptionError, check_positive
from persona.protocols import Choices, Request, Retriever, ScoresChoices
from persona.records import Profile
from persona.retrievers.base import check_k
from persona.retrievers.conversation.retriever import ConversationRetriever, Weights


@dataclass(frozen=True, slots=True)
class Evidence:
    """A question about a profile, and the records that answer it.

    Attributes:
        profile: the records as they were when it was asked.
        query: the question.
        shares: how much of the answer is in which record, by record id, above 0; scaled to a sum of 1 when they are
            learned from. Ids that the profile does not have are left out.
    """

    profile: Profile
    query: str
    shares: Mapping[str, float]

    @classmethod
    def of(cls, profile: Profile, query: str, record_ids: Iterable[str]) -> Evidence:
        """With equal shares."""
        return cls(profile, query, dict.fromkeys(record_ids, 1.0))


def learn_weights(retriever: ConversationRetriever, evidence: Iterable[Evidence], *, strength: float = 1.0) -> Weights:
    """The weights with which `retriever` finds the evidence best.

    Args:
        retriever: gives the signals, and the weights to begin from.
        evidence: questions; those without a record of their profile are skipped.
        strength: how strongly the weights are held at those of `retriever`, above 0.

    Raises:
        InvalidOptionError: if no question has evidence, or `strength` is not above 0.
    """
    check_positive(strength=strength)
    lessons = []
    for each in evidence:
        shares = np.array([each.shares.get(record.id, 0.0) for record in each.profile])
        if shares.sum() > 0:
            lessons.append((retriever.signals(each.profile, each.query), shares / shares.sum()))
    if not lessons:
        raise InvalidOptionError("weights are learned from questions with evidence in their profile, was given none")
    return Weights(*_fitted(lessons, np.array(astuple(retriever.weights)), strength).tolist())


def evidence_by_reader(
    reader: ScoresChoices, asked: Iterable[tuple[Profile, str, str]], retriever: Retriever, *, depth: int = 16
) -> list[Evidence]:
    """Evidence from an LLM that is told the answers.

    Args:
        reader: says how likely an answer is.
        asked: profile, question and its answer.
        retriever: finds the turns that the reader is shown, one at a time.
        depth: how many, at least 1.

    Raises:
        InvalidOptionError: if `depth` is below 1, or an answer is blank.
        GenerationError: if the reader cannot score an answer.
    """
    found = []
    for profile, query, answer in asked:
        turns = [scored.record for scored in retriever.retrieve(profile, query, check_k(depth))]
        requests = [Request(f"{turn.view('turn')}\n\n{query}\n", choices=Choices((answer,))) for turn in turns]
        scores = [_only(each) for each in reader.choice_scores(requests)] if requests else []
        likely = np.exp(np.array(scores) - max(scores, default=0.0))
        shares = {turn.id: float(share) for turn, share in zip(turns, likely / (likely.sum() or 1), strict=True)}
        found.append(Evidence(profile, query, shares))
    return found


def _only(scores: list[float] | GenerationError) -> float:
    if isinstance(scores, GenerationError):
        raise scores
    return scores[0]


Lesson = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Signals (records, signals) and shares (records,) of one question."""


def _fitted(lessons: Sequence[Lesson], start: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """The weights of the greatest objective.  # (signals,)"""
    from scipy.optimize import minimize

    return np.asarray(minimize(_loss, start, (lessons, start, strength), jac=True, method="BFGS").x, dtype=np.float64)


def _loss(
    weights: NDArray[np.float64], lessons: Sequence[Lesson], start: NDArray[np.float64], strength: float
) -> tuple[float, NDArray[np.float64]]:
    """The objective and its gradient (signals,), both negative."""
    away = weights - start
    value, slope = strength / 2 * float(away @ away), strength * away
    for signals, shares in lessons:
        scores = signals @ weights
        powers = np.exp(scores - scores.max())
        value += float(np.log(powers.sum())) - float(shares @ (scores - scores.max()))
        slope = slope + powers / powers.sum() @ signals - shares @ signals
    return value, slope
