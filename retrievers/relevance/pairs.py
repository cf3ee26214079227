"""Pairs of a query and a record, of which a relevance filter learns.

- *Relevant*: a question and the records of its own user that are nearest to it, which a retriever would find; each
  question in two forms, bare and in the task's words, as a prompt asks it (`Personalizer`). The text of a record, too,
  stands as a question to the rest of its profile, since questions are few and records are of the same kind: on
  validation users this let 6 instead of 14 % of the film reviews pass a filter for news that kept 93 % of own
  questions, and 13 instead of 51 % of the papers, which it was never shown.
- *Not relevant*: a general question and the records of a user that are nearest to it, as many of each kind; and a
  user's question with general questions in the place of records, that is with text on other topics. (Other users'
  records of the same task will not do: two critics write of the same films, and a record that fits is no less fitting
  because another wrote it.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.records import Profile

from ..base import view_texts
from ..vectors.record_vectors import EmbeddedProfile
from .filters import read_queries

NEAREST = 4
"""The records of a user that count as found for a question."""

OTHER_TOPICS = 2
"""Texts on other topics that stand beside them."""

OWN, OTHER_TOPIC = -1, -2
"""Kinds of pairs: a user's question with an own record, and with a text on another topic. Further kinds are the numbers
of the kinds of general questions."""

_SAME = 0.999
"""From this similarity on a record is a copy of the one that stands as a question (vectors are float16)."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnQuestion:
    """A user's question, or a record that stands as one.

    Attributes:
        user_id: whose.
        embedded: the user's records and the question.
        read: what a network reads of the question (`read_queries`).  # (dim + STYLE_DIM,)
        nearest: similarities of the `NEAREST` records, those of a record itself and of its copies left out.
    """

    user_id: str
    embedded: EmbeddedProfile
    read: NDArray[np.float32]
    nearest: list[float]

    @classmethod
    def of(cls, user_id: str, embedded: EmbeddedProfile, similarities: NDArray[np.float32]) -> OwnQuestion:
        """By the similarities of the records that count."""
        (read,) = read_queries(embedded.query[None], [embedded.text])
        nearest: list[float] = np.sort(similarities)[::-1][:NEAREST].tolist()
        return cls(user_id, embedded, read, nearest)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of a query and a record.

    Attributes:
        read: what a network reads of each query, every query once.  # (queries, dim + STYLE_DIM)
        queries: the query of each pair.  # (pairs,)
        similarities: of query and record, float32.  # (pairs,)
        labels: 1 where the record is relevant, else 0, float32.  # (pairs,)
        questions: to which asking of a question a pair belongs.  # (pairs,)
        kinds: `OWN`, `OTHER_TOPIC`, or the number of the general question's kind.  # (pairs,)
    """

    read: NDArray[np.float32]
    queries: NDArray[np.intp]
    similarities: NDArray[np.float32]
    labels: NDArray[np.float32]
    questions: NDArray[np.intp]
    kinds: NDArray[np.intp]

    @classmethod
    def drawn(
        cls, own: Sequence[OwnQuestion], general: Sequence[NDArray[np.float32]], draw: np.random.Generator
    ) -> Pairs:
        """Pairs of users' questions, and of general ones as `read_queries` gives them, by kind."""
        rows: list[tuple[int, float, float, int, int]] = []
        begins = np.cumsum([len(own), *map(len, general)]).tolist()
        asked = len(own)
        for number, question in enumerate(own):
            query = question.embedded.query
            rows += [(number, value, 1.0, number, OWN) for value in question.nearest]
            for _ in range(OTHER_TOPICS):
                texts = general[int(draw.integers(len(general)))]
                text = texts[int(draw.integers(len(texts)))]
                rows.append((number, float(text[: len(query)] @ query), 0.0, number, OTHER_TOPIC))
            wide = question.embedded.wide
            for kind, texts in enumerate(general):
                row = int(draw.integers(len(texts)))
                found = np.sort(wide @ texts[row, : wide.shape[1]])[::-1][:NEAREST]
                rows += [(begins[kind] + row, value, 0.0, asked, kind) for value in found.tolist()]
                asked += 1
        queries, similarities, labels, questions, kinds = zip(*rows, strict=True)
        return cls(
            np.concatenate([np.stack([question.read for question in own]), *general]),
            np.array(queries),
            np.array(similarities, np.float32),
            np.array(labels, np.float32),
            np.array(questions),
            np.array(kinds),
        )

    def greatest(self, values: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
        """For each question of a kind the greatest of the pairs' `values`, which decides for it.  # (questions,)"""
        best: dict[int, float] = {}
        for pair in np.flatnonzero(self.kinds == kind).tolist():
            question = int(self.questions[pair])
            best[question] = max(best.get(question, 0.0), float(values[pair]))
        return np.array(list(best.values()), dtype=np.float64)


def records_as_questions(
    users: Mapping[str, tuple[Profile, EmbeddedProfile]], view: str, at_most: int, draw: np.random.Generator
) -> list[OwnQuestion]:
    """Records as questions to the rest of their profile, at most `at_most` of them, drawn at random."""
    every = [
        (user_id, row) for user_id, (profile, _) in users.items() if len(profile) > 1 for row in range(len(profile))
    ]
    texts = {user_id: view_texts(profile, view) for user_id, (profile, _) in users.items()}
    questions = []
    for number in sorted(draw.permutation(len(every))[:at_most].tolist()):
        user_id, row = every[number]
        records = users[user_id][1].records
        embedded = EmbeddedProfile(records, records[row].astype(np.float32), texts[user_id][row])
        similarities = embedded.similarities
        copies = similarities >= _SAME
        copies[row] = True
        questions.append(OwnQuestion.of(user_id, embedded, similarities[~copies]))
    return questions
