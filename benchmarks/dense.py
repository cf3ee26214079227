"""Dense top-4 of one user out of 10,000, beside searches through everybody's vectors, in the same run.

    python benchmarks/dense.py [--users 10000] [--rounds 5] [--cpu] [--json]

10,000 users with 50 records each, random unit vectors of 384 numbers (timing does not see what they mean). The arms
take turns by blocks of questions, each about a user who was not asked about before:

- ``faiss post-filter``: `IndexFlatIP` over all users, asked for more and more neighbours until 4 are the user's.
- ``full scan``: numpy, all inner products, then the user's best 4.
- ``faiss selector``: `IndexFlatIP` that skips the ids of others: the best that one index for all can do.
- ``persona``: `DenseRetriever`; the user's matrix is read from an SQLite store for each question.
- ``persona + profile``: the same, and the user's records are read before it: all of a request but the encoder.
- ``bare``: the user's rows of one big matrix in memory times the query: no store, no records. Nothing can be faster.

The first three and the last hold all vectors in memory (0.8 GB). Nobody encodes: the queries' vectors are prepared.
Recall is counted against the exact ranking of the vectors as they are stored (float16) and, for persona, also of the
float32 vectors that these were made from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from persona.records import Profile, Record
from persona.retrievers import DenseRetriever
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors, vector_fingerprint

RECORDS, DIM, K = 50, 384, 4
BLOCK = {"faiss post-filter": 2, "full scan": 5}
"""Questions that the slow arms get in a round; the others get `FAST_BLOCK`."""
FAST_BLOCK = 100
TARGETS = {"faiss post-filter": 50.0, "full scan": 50.0}
P50_TARGET_MS = 0.2


class Prepared:
    """An encoder that looks its vectors up."""

    fingerprint = "prepared"
    dim = DIM

    def __init__(self, queries: NDArray[np.float32]) -> None:
        self._vectors = queries

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._vectors[list(map(int, texts))]


def main() -> None:
    parser = argparse.ArgumentParser(description="one user's vectors beside everybody's")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="time of this thread, not of the clock: for a busy machine")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.cpu else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.users, arguments.rounds, clock)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{arguments.users} users x {RECORDS} records x {DIM}")
    print(f"{'arm':18} {'questions':>9} {'p50 ms':>9} {'p90 ms':>9} {'persona is':>11}  recall  target")
    ours = result["arms"]["persona"]["p50"]
    for arm, numbers in result["arms"].items():
        target = f">= {TARGETS[arm]:.0f}x" if arm in TARGETS else f"< {P50_TARGET_MS} ms" if arm == "persona" else ""
        print(
            f"{arm:18} {numbers['questions']:9} {numbers['p50']:9.3f} {numbers['p90']:9.3f} "
            f"{numbers['p50'] / ours:10.1f}x  {numbers['recall']:6.4f}  {target}"
        )
    print(f"recall of persona against the float32 vectors: {result['recall_float32']:.4f}")


def measure(folder: Path, n_users: int, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    exact = unit(draw, n_users * RECORDS)
    queries = unit(draw, rounds * FAST_BLOCK)
    encoder = Prepared(queries)
    with ProfileStore(f"sqlite:///{folder / 'persona.db'}") as store:
        fill(store, encoder, exact)
        kept = exact.astype(np.float16).astype(np.float32)  # what the store gives back, for everybody
        index = faiss.IndexFlatIP(DIM)
        index.add(kept)
        retriever = DenseRetriever(encoder, store)
        profiles: dict[int, Profile] = {}

        def post_filter(user: int, question: int) -> list[int]:
            wanted = 10 * K
            while True:
                _, found = index.search(queries[question : question + 1], min(wanted, len(kept)))
                own = found[0][found[0] // RECORDS == user]
                if len(own) >= K or wanted >= len(kept):
                    return [int(row) % RECORDS for row in own[:K]]
                wanted *= 4

        def full_scan(user: int, question: int) -> list[int]:
            scores = kept @ queries[question]
            own = scores[user * RECORDS : (user + 1) * RECORDS]
            return list(map(int, np.argsort(-own, kind="stable")[:K]))

        def selector(user: int, question: int) -> list[int]:
            # faiss wraps this class when it is imported; a type checker sees the bare one.
            parameters: Any = faiss.SearchParameters
            own = parameters(sel=faiss.IDSelectorRange(user * RECORDS, (user + 1) * RECORDS))
            _, found = index.search(queries[question : question + 1], K, params=own)
            return [int(row) % RECORDS for row in found[0]]

        def persona(user: int, question: int) -> list[int]:
            found = retriever.retrieve(profiles[user], str(question), K)
            return [int(scored.record.id) for scored in found]

        def persona_and_profile(user: int, question: int) -> list[int]:
            found = retriever.retrieve(store.profile(f"user {user}"), str(question), K)
            return [int(scored.record.id) for scored in found]

        def bare(user: int, question: int) -> list[int]:
            own = kept[user * RECORDS : (user + 1) * RECORDS] @ queries[question]
            return list(map(int, np.argsort(-own, kind="stable")[:K]))

        arms: dict[str, Callable[[int, int], list[int]]] = {
            "faiss post-filter": post_filter,
            "full scan": full_scan,
            "faiss selector": selector,
            "persona": persona,
            "persona + profile": persona_and_profile,
            "bare": bare,
        }
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        hits = dict.fromkeys(arms, 0)
        hits_float32 = 0
        users = iter(np.tile(draw.permutation(n_users), 1 + rounds * FAST_BLOCK * len(arms) // n_users).tolist())
        for block in range(rounds):
            for arm, ask in arms.items():
                asked = [(next(users), block * FAST_BLOCK + number) for number in range(BLOCK.get(arm, FAST_BLOCK))]
                if arm == "persona":
                    profiles = {user: store.profile(f"user {user}") for user, _ in asked}
                for user, question in asked:
                    begun = clock()
                    found = ask(user, question)
                    seconds[arm].append(clock() - begun)
                    rows = slice(user * RECORDS, (user + 1) * RECORDS)
                    hits[arm] += len(best(kept[rows], queries[question]) & set(found))
                    if arm == "persona":
                        hits_float32 += len(best(exact[rows], queries[question]) & set(found))
    recall = {arm: hits[arm] / (K * len(times)) for arm, times in seconds.items()}
    assert recall["persona"] == 1.0, "an exact search must find what a full scan finds"
    return {
        "users": n_users,
        "records": RECORDS,
        "dim": DIM,
        "recall_float32": hits_float32 / (K * len(seconds["persona"])),
        "arms": {
            arm: {
                "questions": len(times),
                "p50": 1000 * statistics.median(times),
                "p90": 1000 * statistics.quantiles(times, n=10)[8],
                "recall": recall[arm],
            }
            for arm, times in seconds.items()
        },
    }


def best(matrix: NDArray[np.float32], query: NDArray[np.float32]) -> set[int]:
    """The rows with the greatest inner products, added up in float64."""
    scores = matrix.astype(np.float64) @ query.astype(np.float64)
    return set(np.argsort(-scores, kind="stable")[:K].tolist())


def fill(store: ProfileStore, encoder: Prepared, exact: NDArray[np.float32]) -> None:
    """One user for each 50 rows, some thousand users in a transaction."""
    fingerprint = vector_fingerprint(encoder, "text")
    ids = tuple(map(str, range(RECORDS)))
    # Times keep the records in the order of the rows.
    times = [f"{1000 + number}" for number in range(RECORDS)]
    for start in range(0, len(exact) // RECORDS, 1000):
        users = range(start, min(start + 1000, len(exact) // RECORDS))
        histories = {
            user: [Record(f"record {n} of user {user}", time=times[n], id=ids[n]) for n in range(RECORDS)]
            for user in users
        }
        store.upsert((f"user {user}", record) for user, records in histories.items() for record in records)
        store.put_vectors(
            UserVectors(
                f"user {user}",
                fingerprint,
                ids,
                tuple(record.content_hash for record in records),
                exact[user * RECORDS : (user + 1) * RECORDS].astype(np.float16),
                revision=1,
            )
            for user, records in histories.items()
        )


def unit(draw: np.random.Generator, n_rows: int) -> NDArray[np.float32]:
    """Random unit vectors, float32.  # (n_rows, DIM)"""
    rows = draw.standard_normal((n_rows, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


if __name__ == "__main__":
    main()
