"""BM25 top-4 of one query inside one profile, beside rank_bm25 as LaMP's code uses it, in the same run.

    python benchmarks/bm25.py [--profiles 20] [--rounds 15] [--cpu] [--json]

The arms take turns; a number is the median over the profiles of the best round of each, since other programs on the
machine only ever add to a time, and most to the longest. All arms are handed the records. Turns are taken in two ways:

- ``in a row``: an arm answers the questions of all profiles, one after another, then the next arm does: what a service
  or an evaluation does with whichever it uses. The targets are for these.
- ``alone``: rank_bm25 answers something else before every single question, so that an arm finds nothing of its own in
  the processor's caches. With times of some 50 microseconds most of one is then spent on fetching code and data.

- ``rank_bm25``: cut every record, build the index, ask it: what LaMP's code does for each question.
- ``fresh text``: `LampBM25Retriever`, nothing prepared.
- ``store``: the user's index is read from an SQLite store for each query (`build_indexes` put it there).
- ``memory``: the same, from the second query of a user on: the retriever keeps what it read.
- ``bm25``: `BM25Retriever` on fresh text; its ranking is another one.

The rankings of the first four are asserted to be equal. The texts are those of the shared data folder (PERSONA_SHARED,
or ../shared beside the checkout): film reviews of 20 words and blog posts of 180, in profiles of one user each where
there are enough that long (column "users"), else of several put together. Without the folder they are made up.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rank_bm25 import BM25Okapi

from persona.records import Profile, Record
from persona.retrievers import BM25Retriever, LampBM25Retriever, build_indexes
from persona.store.profile_store import ProfileStore

SIZES = (50, 200)
K = 4
TARGETS = {"fresh text": 2.5, "store": 20.0, "memory": 20.0}
Question = tuple[list[str], str]
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="BM25 beside rank_bm25")
    parser.add_argument("--profiles", type=int, default=20, help="profiles of each kind and size")
    parser.add_argument("--rounds", type=int, default=15, help="times each profile is asked")
    parser.add_argument("--cpu", action="store_true", help="time of this thread, not of the clock: for a busy machine")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.cpu else time.perf_counter
    results = []
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        for source, users in sources().items():
            for size in SIZES:
                questions, mixed = profiles(users, size, arguments.profiles)
                result = measure(store, f"{source} {size}", questions, arguments.rounds, clock)
                results.append({"texts": source, "records": size, "users": "several" if mixed else "one", **result})
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(
        f"{'texts':10} {'records':>7} {'users':>7} {'words':>5} {'query':>5}  {'arm':10} "
        f"{'in a row':>8} {'ratio':>7}  {'target':8} {'alone':>8} {'ratio':>7}"
    )
    for result in results:
        about = (result[name] for name in ("texts", "records", "users", "words", "query_words"))
        head = "{:10} {:7} {:>7} {:5.0f} {:5.0f}".format(*about)
        row, alone = result["milliseconds"], result["milliseconds alone"]
        for arm in row:
            target = f">= {TARGETS[arm]}x" if arm in TARGETS else ""
            print(
                f"{head}  {arm:10} {row[arm]:8.3f} {row['rank_bm25'] / row[arm]:6.1f}x  {target:8} "
                f"{alone[arm]:8.3f} {alone['rank_bm25'] / alone[arm]:6.1f}x"
            )


def measure(
    store: ProfileStore, name: str, questions: Sequence[Question], rounds: int, clock: Callable[[], float]
) -> Result:
    """Ask every question of every arm, `rounds` times."""
    histories = {f"{name} {number}": texts for number, (texts, _) in enumerate(questions)}
    # The place as id and time: a store then gives the records in the order that the peer gets them.
    store.upsert(
        (user_id, Record(text, id=str(place), time=f"{1000 + place}"))
        for user_id, texts in histories.items()
        for place, text in enumerate(texts)
    )
    build_indexes(store, histories, [LampBM25Retriever()])
    asked = [(store.profile(user_id), query) for user_id, (_, query) in zip(histories, questions, strict=True)]
    arms: dict[str, Callable[[Profile, str], list[str]]] = {
        "rank_bm25": as_lamp_does,
        "fresh text": asking(LampBM25Retriever()),
        "store": asking(LampBM25Retriever(store=store, cache_bytes=0)),
        "memory": asking(LampBM25Retriever(store=store)),
        "bm25": asking(BM25Retriever()),
    }
    for profile, query in asked:
        rankings = [arms[arm](profile, query) for arm in ("rank_bm25", "fresh text", "store", "memory")]
        assert all(ranking == rankings[0] for ranking in rankings), (profile.user_id, query)
    best = {arm: [float("inf")] * len(asked) for arm in arms}
    best_alone = {arm: [float("inf")] * len(asked) for arm in arms}

    def once(arm: str, number: int, best: dict[str, list[float]]) -> None:
        profile, query = asked[number]
        ask = arms[arm]
        begun = clock()
        ask(profile, query)
        best[arm][number] = min(best[arm][number], clock() - begun)

    for _ in range(rounds):
        for arm in arms:
            for number in range(len(asked)):
                once(arm, number, best)
        for number, (profile, query) in enumerate(asked):
            for arm in arms:
                as_lamp_does(profile, query)
                once(arm, number, best_alone)
    return {
        "profiles": len(asked),
        "words": statistics.mean(len(record.text.split()) for profile, _ in asked for record in profile),
        "query_words": statistics.mean(len(query.split()) for _, query in asked),
        "milliseconds": {arm: 1000 * statistics.median(times) for arm, times in best.items()},
        "milliseconds alone": {arm: 1000 * statistics.median(times) for arm, times in best_alone.items()},
    }


def as_lamp_does(profile: Profile, query: str) -> list[str]:
    records = list(profile)
    index = BM25Okapi([record.text.split() for record in records])
    return [record.id for record in index.get_top_n(query.split(), records, n=K)]


def asking(retriever: LampBM25Retriever | BM25Retriever) -> Callable[[Profile, str], list[str]]:
    return lambda profile, query: [one.record.id for one in retriever.retrieve(profile, query, K)]


def profiles(users: Mapping[str, Sequence[str]], size: int, wanted: int) -> tuple[list[Question], bool]:
    """Questions to profiles of `size` records, and whether these had to be put together from several users."""
    whole = [list(texts) for texts in users.values() if len(texts) > size]
    mixed = len(whole) < wanted
    if mixed:
        pool = [text for texts in users.values() for text in texts]
        whole = [pool[start : start + size + 1] for start in range(0, len(pool) - size, size + 1)]
    return [(texts[:size], texts[size]) for texts in whole[:wanted]], mixed


def sources() -> dict[str, dict[str, list[str]]]:
    """Texts of users, by source."""
    shared = Path(os.environ.get("PERSONA_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    if not (shared / "data").is_dir():
        return {"generated": generated()}
    films: dict[str, list[str]] = {}
    for question in json.loads((shared / "data/lampstyle/LaMP_3_film/train_questions.json").read_text("utf-8")):
        texts = [entry["text"] for entry in question["profile"]]
        if len(texts) > len(films.get(question["user_id"], ())):
            films[question["user_id"]] = texts
    posts: dict[str, list[str]] = {}
    with gzip.open(shared / "data/histories/blogs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            post = json.loads(line)
            posts.setdefault(post["user_id"], []).append(post["text"])
    return {"films": films, "blogs": posts}


def generated(users: int = 40, records: int = 201) -> dict[str, list[str]]:
    """Made-up texts of 60 words whose frequencies fall as those of a language do (Zipf)."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return {
        f"user {user}": [" ".join(draw.choices(words, weights, k=60)) for _ in range(records)] for user in range(users)
    }


if __name__ == "__main__":
    main()
