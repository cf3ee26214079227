"""Baselines of LaMP: what a user's own records say without an LLM, the least that personalization has to beat.

>>> liked = [Record("a", target="4", time="2004"), Record("b", target="2", time="2006")]
>>> mean_score(liked, default="5"), median_score(liked, default="5")
('3', '2')

Each reads only the profile of the question that it answers, gives a string in the task's own form, and breaks ties in
favour of what the user did last (undated records count as the oldest, later ones in a profile as newer). Where a
profile has nothing to go by, the answer is a default that the caller declares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from persona.eval.benchmark import Question
from persona.eval.metrics import ACCURACY, HIGHEST_SCORE, LOWEST_SCORE, MAE
from persona.lamp.tasks import LampTask
from persona.records import Record, ScoredRecord
from persona.retrievers.registry import RetrieverOptions, make_retriever

_SCALE = range(int(LOWEST_SCORE), int(HIGHEST_SCORE) + 1)
NEAREST_RECORD = "nearest record"
"""The baseline that answers with the target of the record that is most like the question."""

_MIDDLE = str((_SCALE[0] + _SCALE[-1]) // 2)
_LABELLED_BY_USERS = ("LaMP_2", "LaMP_2N")


def most_frequent_label(records: Sequence[Record], default: str) -> str:
    """The target that the user gave most often; among equals the one given last."""
    counts: Counter[str] = Counter()
    last: dict[str, int] = {}
    for position, record in enumerate(_oldest_first(records)):
        if record.target is not None:
            label = record.target.strip()
            counts[label] += 1
            last[label] = position
    return max(counts, key=lambda label: (counts[label], last[label]), default=default)


def mean_score(records: Sequence[Record], default: str) -> str:
    """The score of the scale with the least squared error on the user's own: the best constant guess for RMSE."""
    return _best_constant(records, 2, default)


def median_score(records: Sequence[Record], default: str) -> str:
    """The score of the scale with the least absolute error on the user's own: the best constant guess for MAE."""
    return _best_constant(records, 1, default)


def nearest_records(questions: Sequence[Question]) -> list[Record | None]:
    """Of each question's history the record that shares the most words with its query, by BM25; None where there is
    none."""
    found = make_retriever("bm25").retrieve_batch(
        [question.profile for question in questions], [question.query for question in questions], 1
    )
    return [records[0].record if records else None for records in found]


def nearest_record_target(ranked: Sequence[ScoredRecord], default: str) -> str:
    """The target of the record that is most like the question; among equal scores that of the latest.

    Args:
        ranked: records with a retriever's scores, in any order.
        default: the answer if none has a target.
    """
    scores = {id(scored.record): scored.score for scored in ranked}
    latest_first = reversed(_oldest_first([scored.record for scored in ranked]))
    with_target = [record for record in latest_first if record.target is not None]
    best = max(with_target, key=lambda record: scores[id(record)], default=None)
    return default if best is None or best.target is None else best.target


def lamp_baselines(
    task: LampTask, questions: Sequence[Question], *, default: str | None = None
) -> dict[str, list[str]]:
    """All baselines that the task allows.

    Ratings: the mean and the median score; labels: the most frequent one; these and texts with a title: the target of
    the record nearest by BM25 as LaMP ranks it. For paraphrases, whose records have no target, the question itself.
    None for citations.

    Args:
        task: what is asked.
        questions: each with its profile.
        default: the answer where a profile has nothing to go by. None takes what all profiles together say (their
            median score or most frequent label); for texts, nothing.

    Returns:
        The name of each baseline and its answers, in the order of `questions`.
    """
    if task.target_field is None:
        return {"question itself": [question.query for question in questions]}
    everybody = [record for question in questions for record in question.profile]
    constants = {}
    fallback = default
    if MAE.name in task.metrics:
        constants = {"mean score": mean_score, "median score": median_score}
        fallback = median_score(everybody, _MIDDLE) if default is None else default
    elif ACCURACY.name in task.metrics:
        if task.name not in _LABELLED_BY_USERS:
            return {}
        constants = {"most frequent label": most_frequent_label}
        fallback = most_frequent_label(everybody, (task.labels or ("",))[0]) if default is None else default
    answer = fallback or ""
    answers = {
        name: [predict(question.profile.records, answer) for question in questions]
        for name, predict in constants.items()
    }
    profiles = [question.profile for question in questions]
    longest = max(map(len, profiles), default=0)
    retriever = make_retriever("bm25-lamp", RetrieverOptions(view=task.view))
    ranked = retriever.retrieve_batch(profiles, [question.query for question in questions], max(longest, 1))
    answers[NEAREST_RECORD] = [nearest_record_target(each, answer) for each in ranked]
    return answers


def _best_constant(records: Sequence[Record], power: int, default: str) -> str:
    scores = [score for record in _oldest_first(records) if (score := _score(record)) is not None]
    if not scores:
        return default
    costs = {guess: sum(abs(guess - score) ** power for score in scores) for guess in _SCALE}
    return str(min(_SCALE, key=lambda guess: (costs[guess], abs(guess - scores[-1]))))


def _score(record: Record) -> float | None:
    """The record's score; None where it has none on the scale."""
    try:
        score = float(record.target or "")
    except ValueError:
        return None
    return score if math.isfinite(score) and LOWEST_SCORE <= score <= HIGHEST_SCORE else None


def _oldest_first(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.time or "")
