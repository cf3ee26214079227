"""BM25 top-4 of one question, beside rank_bm25 as LaMP's code uses it and beside the whole request.

    python benchmarks/bm25.py [--sizes 50,1000,10000] [--rounds 30] [--json]

Profiles of generated texts of 50 words are read from an SQLite store. The arms take turns; a number is the median.

- ``profile``: the store reads the records, which every request does before anything is ranked.
- ``rank_bm25``: cut every record, build the index, ask it: what LaMP's code does for each question.
- ``bm25-lamp``, ``bm25``: the first question about a profile, whose words have to be counted.
- ``bm25, again``: a further question while the counts are kept in memory; the records are read anew.

The share is that of ``bm25`` in a request whose LLM call takes 100 ms.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable

from rank_bm25 import BM25Okapi

from persona.records import Profile, Record
from persona.retrievers import BM25Retriever, LampBM25Retriever
from persona.store.profile_store import ProfileStore

K = 4
LLM_CALL_MS = 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="50,1000,10000", help="records of a profile")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {int(size): measure(int(size), options.rounds) for size in options.sizes.split(",")}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    arms = next(iter(results.values()))
    print(f"| records | {' | '.join(f'{arm} (ms)' for arm in arms)} | share of a request |")
    print(f"|---:|{'---:|' * (len(arms) + 1)}")
    for size, times in results.items():
        share = times["bm25"] / (times["profile"] + times["bm25"] + LLM_CALL_MS)
        print(f"| {size} | {' | '.join(f'{ms:.2f}' for ms in times.values())} | {share:.1%} |")


def measure(size: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each arm."""
    draw = random.Random(size)
    words = [f"w{number}" for number in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]  # frequencies fall as those of a language do (Zipf)
    texts = [" ".join(draw.choices(words, weights, k=50)) for _ in range(size + rounds)]
    kept = BM25Retriever()
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        # The number as id and time: the store gives the records in this order.
        records = (Record(text, id=str(number), time=f"{10_000 + number}") for number, text in enumerate(texts[:size]))
        store.upsert(("ana", record) for record in records)
        profile = store.profile("ana")
        arms: dict[str, Callable[[str], object]] = {
            "profile": lambda query: store.profile("ana"),
            "rank_bm25": lambda query: as_lamp_does(profile, query),
            "bm25-lamp": lambda query: LampBM25Retriever().retrieve(profile, query, K),
            "bm25": lambda query: BM25Retriever().retrieve(profile, query, K),
            "bm25, again": lambda query: kept.retrieve(store.profile("ana"), query, K),
        }
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for query in texts[size:]:
            found = [scored.record.id for scored in LampBM25Retriever().retrieve(profile, query, K)]
            assert found == as_lamp_does(profile, query)
            for arm, ask in arms.items():
                begun = time.perf_counter()
                ask(query)
                times[arm].append(1_000 * (time.perf_counter() - begun))
    return {arm: statistics.median(some) for arm, some in times.items()}


def as_lamp_does(profile: Profile, query: str) -> list[str]:
    """The ids of the best records by rank_bm25."""
    index = BM25Okapi([record.text.split() for record in profile])
    return [record.id for record in index.get_top_n(query.split(), list(profile), n=K)]


if __name__ == "__main__":
    main()
