"""Usefulness as a reader with a rule of its own sees it, and what is learned from that (row 3 of docs/papers.md)."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from persona.errors import EvaluationError, InvalidOptionError
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.protocols import Request
from persona.records import Profile, Record
from persona.retrievers import UsefulRetriever
from persona.retrievers.usefulness.training import UsefulnessTraining, train_usefulness
from tests.retrievers.cases import ids
from tests.retrievers.relevance.cases import split_of
from tests.retrievers.vectors.written import Written, at

REVIEWS = lamp_task("LaMP_3")


class Reader:
    """Finds an answer 6 sin(b - a) nats likelier with a record at angle b before a question at angle a."""

    fingerprint = "reader"
    tokenizer = SimpleNamespace(count=lambda text: len(text.split()), truncate=lambda text, n: text)

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float]]:
        return [[-9 + self.gain(request.prompt)] for request in requests]

    def gain(self, prompt: str) -> float:
        x, y = map(float, prompt.rpartition("review: ")[2].split())
        record = prompt.split('"')[1].split() if '"' in prompt else ("0", "0")
        return 6 * (x * float(record[1]) - y * float(record[0]))


def angles(users: int, records: int = 10) -> LampSplit:
    draw = np.random.default_rng(1)
    questions = []
    for user in map(str, range(users)):
        turned = draw.uniform(0, 2 * np.pi, records)
        written = [Record(f"{np.cos(x):.4f} {np.sin(x):.4f}", target="3", id=str(n)) for n, x in enumerate(turned)]
        questions.append(Question(user, user, REVIEWS.make_input("1 0"), Profile(user, tuple(written))))
    return LampSplit(REVIEWS, tuple(questions), None, None)


def test_what_helps_is_found_though_it_is_not_similar() -> None:
    """Row 3: what helps most is at a right angle to the question, so the two spaces are a quarter turn apart."""
    options = UsefulnessTraining(questions=150, candidates=6, learning_rate=0.05)
    spaces, report = train_usefulness(angles(20), Written(), Reader(), options)  # type: ignore[arg-type]
    assert (report.questions, report.users) == (150, 20)
    assert report.nearest < report.chosen <= report.best
    assert report.chosen > report.best - 0.2
    # The gain is the log-likelihood with the record less that without, here at most 6.
    assert abs(report.nearest) < 2 < report.best <= 6
    circle = Profile("ana", tuple(at(degrees) for degrees in range(0, 360, 45)))
    for degrees in (0, 90, 225):
        found = UsefulRetriever(Written(), spaces).retrieve(circle, at(degrees).text, 1)
        assert ids(found) == [f"{(degrees + 90) % 360}"]
    assert spaces.notes["options"]["candidates"] == 6


def test_a_real_llm_says_what_helps_and_stays_as_it_is() -> None:
    llm = load_llm("tiny")
    before = llm.fingerprint
    options = UsefulnessTraining(questions=20, candidates=3, epochs=3)
    draws = [train_usefulness(split_of(6), Written8(), llm, options)[0].weights for _ in range(2)]
    assert all((draws[0][name] == draws[1][name]).all() for name in draws[0])
    assert llm.fingerprint == before


class Written8(Written):
    """Lengths of words as vectors."""

    dim, fingerprint = 8, "lengths"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array(
            [np.bincount([len(word) % 8 for word in text.split()], minlength=8) for text in texts], np.float32
        )
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def test_what_cannot_be_learned_from_is_refused() -> None:
    reader: object = Reader()
    with pytest.raises(EvaluationError, match=r"at least 5 users with more than 8 records .* of LaMP_3, was: 4"):
        train_usefulness(angles(4), Written(), reader)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="no user has more than 8 records"):
        train_usefulness(angles(9, records=8), Written(), reader)  # type: ignore[arg-type]
    silent = SimpleNamespace(fingerprint="silent")
    with pytest.raises(InvalidOptionError, match="an LLM that says how likely an answer is, was: silent"):
        train_usefulness(angles(9), Written(), silent)
    with pytest.raises(InvalidOptionError, match="`candidates` must be at least 2, was: 1"):
        UsefulnessTraining(candidates=1)
