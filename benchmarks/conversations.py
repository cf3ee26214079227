"""What share of the turns that answer a question stands among the first k that a retriever finds. No LLM is asked.

    python -m benchmarks.conversations locomo10.json [--benchmark locomo] [--rows bm25,conversation] [--k 5,10,20]

Any benchmark whose questions name their evidence will do. `learned` is `conversation` with weights from all other
users' questions, never the user's own; `four fused` are late interaction, `bm25`, and `bm25` and `dense` on each turn
with one neighbour on either side, by reciprocal ranks. Milliseconds are of the process, for one question after the
first on the longest history.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.learned_weights import Evidence, learn_weights
from persona.encoders.load import load_encoder
from persona.eval.benchmark import Question
from persona.eval.benchmarks.registry import load_benchmark
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, Record
from persona.retrievers import (
    BM25Retriever,
    ConversationRetriever,
    DenseRetriever,
    HybridRetriever,
    LateInteractionRetriever,
    MultiInterestRetriever,
    ProfileRetriever,
    RandomRetriever,
    RecencyRetriever,
)
from persona.retrievers.base import Ranking, positions, scored
from persona.retrievers.conversation.passages import PassageRetriever, passages


class Remembering:
    """An encoder that encodes no text twice."""

    def __init__(self, encoder: RecordEncoder) -> None:
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self._encoder, self._vectors = encoder, dict[str, NDArray[np.float32]]()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])


class WithNeighbours(ProfileRetriever):
    """A retriever that reads each turn with one neighbour on either side."""

    def __init__(self, base: Retriever) -> None:
        self.base = base
        self._read: dict[int, Profile] = {}

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        if id(profile) not in self._read:
            turns = zip(passages(profile, 1), profile, strict=True)
            self._read[id(profile)] = Profile(profile.user_id, tuple(Record(text, id=own.id) for text, own in turns))
        read = self._read[id(profile)]
        found = self.base.retrieve(read, query, k)
        places = list(positions(read, found))
        scores = np.zeros(len(profile))
        scores[places] = [each.score for each in found]
        return scored(profile, places, scores)


class Kept(ConversationRetriever):
    """Computes the signals of a question once."""

    _signals: dict[tuple[int, str], NDArray[np.float64]]

    def signals(self, profile: Profile, query: str) -> NDArray[np.float64]:
        self._signals = getattr(self, "_signals", {})
        key = id(profile), query
        if key not in self._signals:
            self._signals[key] = super().signals(profile, query)
        return self._signals[key]


class Learned(ProfileRetriever):
    """`conversation` with the weights of all users but the one who is asked about."""

    def __init__(self, questions: Sequence[Question], kept: Kept) -> None:
        self._questions, self._kept, self._first = questions, kept, kept.weights
        self.weights: dict[str, object] = {}

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        self._kept.weights = self._first
        if profile.user_id not in self.weights:
            others = [each for each in self._questions if each.user_id != profile.user_id]
            lessons = [Evidence.of(each.profile, each.query, each.evidence) for each in others]
            self.weights[profile.user_id] = learn_weights(self._kept, lessons)
        self._kept.weights = self.weights[profile.user_id]  # type: ignore[assignment]
        try:
            return self._kept.retrieve(profile, query, k)
        finally:
            self._kept.weights = self._first


def rows(questions: Sequence[Question], encoder: RecordEncoder, model: str) -> dict[str, Callable[[], Retriever]]:
    """The rows of the table, made when they are asked for."""
    late, kept = LateInteractionRetriever(model, "turn"), Kept(model)
    kept.tokens = late  # the token vectors are made once

    def fused() -> Retriever:
        dense = WithNeighbours(DenseRetriever(encoder))
        return HybridRetriever([late, BM25Retriever("turn"), WithNeighbours(BM25Retriever()), dense])

    return {
        "random": RandomRetriever,
        "recency": RecencyRetriever,
        "bm25": BM25Retriever,
        "bm25, turn": lambda: BM25Retriever("turn"),
        "bm25, neighbours": lambda: WithNeighbours(BM25Retriever()),
        "bm25, passages": PassageRetriever,
        "dense": lambda: DenseRetriever(encoder),
        "dense, turn": lambda: DenseRetriever(encoder, view="turn"),
        "dense, neighbours": lambda: WithNeighbours(DenseRetriever(encoder)),
        "hybrid, turn": lambda: HybridRetriever([BM25Retriever("turn"), DenseRetriever(encoder, view="turn")]),
        "multi_interest, turn": lambda: MultiInterestRetriever(encoder, view="turn"),
        "late_interaction, turn": lambda: late,
        "four fused": fused,
        "conversation": lambda: kept,
        "learned": lambda: Learned(questions, kept),
    }


def recalls(retriever: Retriever, questions: Sequence[Question], ks: Sequence[int]) -> NDArray[np.float64]:
    """The share of each question's evidence among the first k records.  # (questions, ks)"""
    found = []
    for question in questions:
        ids = [each.record.id for each in retriever.retrieve(question.profile, question.query, max(ks))]
        needed = set(question.evidence)
        found.append([len(needed.intersection(ids[:k])) / len(needed) for k in ks])
    return np.array(found)


def milliseconds(retriever: Retriever, questions: Sequence[Question], name: str) -> float:
    """The median time of a question on the longest history."""
    longest = max(questions, key=lambda each: len(each.profile)).profile
    times = []
    for question in [each for each in questions if each.profile is longest][:9]:
        start = time.process_time()
        retriever.retrieve(longest, f"{question.query} ({name})", 10)  # what no row was asked before
        times.append(time.process_time() - start)
    return float(np.median(times[1:])) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--benchmark", default="locomo")
    parser.add_argument("--rows", default="", help="some of the rows, with commas that no blank follows")
    parser.add_argument("--k", default="5,10,20")
    parser.add_argument("--encoder", default="minilm", help="of dense")
    parser.add_argument("--model", default="minilm", help="of late interaction")
    options = parser.parse_args()
    questions = [each for each in load_benchmark(options.benchmark, options.data).questions if each.evidence]
    users = list(dict.fromkeys(each.user_id for each in questions))
    ks = [int(k) for k in options.k.split(",")]
    print(f"{len(questions)} questions with evidence on {len(users)} histories")
    print(" | ".join(["retriever", *(f"recall@{k}" for k in ks), *users, "ms"]))
    made = rows(questions, Remembering(load_encoder(options.encoder)), options.model)
    for name in options.rows.split(",") if options.rows else made:
        name = next((known for known in made if known.replace(", ", " ") == name), name)
        retriever = made[name]()
        found = recalls(retriever, questions, ks)
        middle = found[:, ks.index(10) if 10 in ks else 0]
        own = [middle[[each.user_id == user for each in questions]].mean() for user in users]
        cells = [f"{value:.3f}" for value in (*found.mean(0), *own)]
        print(" | ".join([name, *cells, f"{milliseconds(retriever, questions, name):.1f}"]), flush=True)
        if isinstance(retriever, Learned):
            for user, weights in retriever.weights.items():
                print(f"  without {user}: {weights}")


if __name__ == "__main__":
    main()
