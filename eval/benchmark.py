"""Benchmarks: questions of users with their histories, and how answers to them are scored.

>>> class Capitals(Benchmark):
...     name, metrics = "capitals", (ACCURACY,)
...     questions = (Question("0", "ana", Profile("ana"), "The capital of Norway?", "Norway", gold="Oslo"),)
>>> Capitals().score(Capitals.questions, ["Oslo"])["accuracy"].tolist()
[[1.0]]

A question carries the profile as it was when the question was asked, so that two questions of one user may see
different histories: the records that are older, or the turns of a conversation up to this one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from persona.errors import InvalidOptionError
from persona.eval.judging.judge import Judge
from persona.eval.metrics import ACCURACY as ACCURACY
from persona.eval.metrics import Answer, Metric, Samples
from persona.files import write_atomically
from persona.protocols import Choices
from persona.records import Profile


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question of a benchmark.

    Attributes:
        id: unique within the benchmark.
        user_id: who asks.
        profile: the user's records as they are to be seen.
        prompt: what the LLM is asked.
        query: what of it records are sought by.
        gold: the right answer; None where it is not known.
        choices: the legal answers; None where any text is.
        time: when it was asked, ISO 8601; None where that is not known.
        kind: of which kind it is, for a table of its own; empty where there is one kind.
        evidence: ids of the records of `profile` that the answer needs; empty where that is not known.
    """

    id: str
    user_id: str
    profile: Profile = field(repr=False)
    prompt: str
    query: str
    gold: str | None = None
    choices: Choices | tuple[str, ...] | None = None
    time: str | None = None
    kind: str = ""
    evidence: tuple[str, ...] = ()


class Benchmark(Protocol):
    """What methods are evaluated on. Any object with these members fits; a subclass inherits what has a default.

    Attributes:
        name: of the benchmark, or of its task.
        questions: those to be answered.
        metrics: the measures; the first one is compared. Where a published scorer is wrong, its measure stands beside
            the corrected one as ``official NAME``.
        licence: of the data, as their authors name it; empty where it is not known.
        commercial: whether that licence allows commercial use.
        defects: by the name of an official metric, what is wrong with it.
    """

    name: str
    questions: Sequence[Question]
    metrics: Sequence[Metric]
    licence: str = ""
    commercial: bool = True
    defects: Mapping[str, str] = MappingProxyType({})

    @property
    def training(self) -> Benchmark | None:
        """The questions of other users that a method may learn from; None if there are none."""
        return None

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """What each metric records of each answer, in the order of `questions`, which have golds."""
        labels = sorted({label for question in questions for label in _labels(question)})
        given = [
            Answer(question.id, (question.gold or "").strip(), answer.strip())
            for question, answer in zip(questions, answers, strict=True)
        ]
        return {metric.name: metric.measure(given, labels) for metric in self.metrics}

    def judged_by(self, judges: Sequence[Judge]) -> Benchmark:
        """Itself, its answers judged by each of `judges`; one whose answers are judged has no metrics before.

        Raises:
            InvalidOptionError: if no answer of it is judged.
        """
        raise InvalidOptionError(f"the answers of {self.name} are not judged: leave the judges out")

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """Answers that need no LLM, by the name of what gives them: the least that personalization has to beat."""
        return {}

    def save(self, path: Path, answers: Mapping[str, str]) -> None:
        """Write answers, question id -> answer, in the benchmark's own form; by default as one JSON object."""
        write_atomically(path, json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def _labels(question: Question) -> tuple[str, ...]:
    choices = Choices.of(question.choices)
    return (question.gold or "",) if choices is None else choices.texts


def data_hash(questions: Sequence[Question]) -> str:
    """BLAKE2b of all that the questions, their profiles and the golds say, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for question in questions:
        records = [record.content_hash for record in question.profile]
        content = [question.id, question.user_id, question.prompt, question.gold, records]
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()


def earliest_profiles(questions: Sequence[Question]) -> dict[str, Profile]:
    """By user the profile of the earliest question, which holds nothing that a later question does not know either."""
    earliest: dict[str, Question] = {}
    for question in questions:
        first = earliest.setdefault(question.user_id, question)
        if (question.time or "", len(question.profile)) < (first.time or "", len(first.profile)):
            earliest[question.user_id] = question
    return {user_id: question.profile for user_id, question in earliest.items()}
