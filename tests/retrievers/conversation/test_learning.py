"""Weights learned from evidence: found where they were hidden, held back by few questions, read by an LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest

from examples.learned_weights import Evidence, _loss, evidence_by_reader, learn_weights
from persona.errors import GenerationError, InvalidOptionError
from persona.protocols import Request
from persona.records import Profile, Record
from persona.retrievers import ConversationRetriever
from persona.retrievers.conversation.retriever import Weights
from tests import small_models
from tests.retrievers.cases import ids
from tests.retrievers.conversation.talk import TALK

WORDS = ("kayak", "weir", "choir", "kitchen", "yellow", "cellar", "sister", "Turin", "Friday", "green")


def retriever(weights: Weights | None = None) -> ConversationRetriever:
    return ConversationRetriever(small_models.multi_vector(), weights or Weights())


def questions(count: int, seed: int = 0) -> list[Evidence]:
    """Questions whose evidence is what the speaker and the words alone say."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        turns = [
            Record(
                " ".join(draw.choice(WORDS, int(draw.integers(2, 12)))),
                id=str(number),
                time=f"2023-05-{number // 4 + 1:02}",
                speaker=str(draw.choice(["Ana", "Ben"])),
            )
            for number in range(16)
        ]
        profile = Profile("ana", tuple(turns))
        query = f"{draw.choice(['Ana', 'Ben'])} {draw.choice(WORDS)}"
        best = retriever(Weights(0, 1, 4, 0, 0)).retrieve(profile, query, 1)
        found.append(Evidence.of(profile, query, ids(best)))
    return found


def test_learned_weights_find_new_questions_evidence() -> None:
    learned = learn_weights(retriever(Weights(1, 0, 0, 1, 1)), questions(40), strength=0.1)
    assert learned.speaker > 1
    assert learned.words > 1
    right = [
        ids(retriever(learned).retrieve(each.profile, each.query, 1))[0] in each.shares
        for each in questions(20, seed=1)
    ]
    assert sum(right) >= 17


def test_the_weights_are_where_the_objective_is_flat() -> None:
    lessons = [(retriever().signals(each.profile, each.query), np.eye(16)[0]) for each in questions(5)]
    learned = np.array(astuple(learn_weights(retriever(), _first(questions(5)), strength=0.3)))
    start = np.array(astuple(Weights()))
    value, slope = _loss(learned, lessons, start, 0.3)
    assert np.abs(slope).max() < 1e-2
    for number in range(5):  # the gradient is that of the value
        nudge = np.eye(5)[number] * 1e-4
        higher, lower = (_loss(start + sign * nudge, lessons, start, 0.3)[0] for sign in (1, -1))
        assert (higher - lower) / 2e-4 == pytest.approx(_loss(start, lessons, start, 0.3)[1][number], abs=1e-4)
        assert min(_loss(learned + sign * nudge, lessons, start, 0.3)[0] for sign in (1, -1)) >= value - 1e-6


def _first(found: Sequence[Evidence]) -> list[Evidence]:
    return [Evidence.of(each.profile, each.query, ["0", "no such id"]) for each in found]


def test_few_questions_move_the_weights_little() -> None:
    held, free = (learn_weights(retriever(), questions(3), strength=strength) for strength in (1e4, 1e-2))
    assert astuple(held) == pytest.approx(astuple(Weights()), abs=0.01)
    assert astuple(free) != pytest.approx(astuple(Weights()), abs=0.1)
    for evidence in ([], [Evidence.of(TALK, "x", ["gone"])]):
        with pytest.raises(InvalidOptionError, match="was given none"):
            learn_weights(retriever(), evidence)
    with pytest.raises(InvalidOptionError, match="`strength` must be a number above 0, was: 0"):
        learn_weights(retriever(), questions(1), strength=0)


class Reader:
    """Finds an answer likely after a turn that has it."""

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float] | GenerationError]:
        return [self._score(request) for request in requests]

    def _score(self, request: Request) -> list[float] | GenerationError:
        assert request.choices is not None
        (answer,) = request.choices.texts
        return GenerationError("out of order") if answer == "?" else [0.0 if answer in request.prompt else -3.0]


def test_a_reader_says_what_the_evidence_is() -> None:
    (found,) = evidence_by_reader(Reader(), [(TALK, "Where does the choir sing?", "Turin")], retriever(), depth=6)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["6"] == pytest.approx(1 / (1 + 5 * np.exp(-3)))
    (none,) = evidence_by_reader(Reader(), [(Profile("ana"), "Where?", "Turin")], retriever())
    assert none.shares == {}
    with pytest.raises(GenerationError, match="out of order"):
        evidence_by_reader(Reader(), [(TALK, "Where?", "?")], retriever())
