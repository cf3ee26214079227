"""What the store costs: one profile out of many users, a user's vectors, an ingest, a forget; and how they grow.

    python benchmarks/store.py [--users 100000] [--records 20] [--samples 5000] [--folder DIR] [--json]

Two SQLite stores are built, one of 1,000 users and one of `--users`, with the same records for each user (texts of 60
to 700 characters), and read in turns, so that whatever else the machine does falls on both alike. Vectors are kept
for the first 10,000 users of each (384 dimensions, so 38 KB for a user with 50 records). The disk is never cold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors, inner_products

SMALL = 1_000
DIM = 384
VECTOR_USERS = 10_000
FORGOTTEN = 10
FINGERPRINT = "benchmark"


def histories(n_users: int, n_records: int) -> Iterator[tuple[str, Record]]:
    """Made-up records: their words do not matter here, only how long they are."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(5_000)]
    texts = [" ".join(chance.choices(words, k=chance.randrange(8, 80))) for _ in range(4_000)]
    for user in range(n_users):
        for place in range(n_records):
            text = f"{texts[(user * 31 + place * 7) % len(texts)]} {user}"
            yield f"user-{user}", Record(text, target="5", time=f"20{10 + place % 14}-01-02", id=f"record-{place}")


def vectors(store: ProfileStore, users: range, matrix: np.ndarray) -> Iterator[UserVectors]:
    for user in users:
        profile = store.profile(f"user-{user}")
        ids = tuple(record.id for record in profile)
        hashes = tuple(record.content_hash for record in profile)
        yield UserVectors(profile.user_id, FINGERPRINT, ids, hashes, matrix, profile.revision)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def microseconds(samples: Iterable[float]) -> dict[str, float]:
    p50, p99 = np.percentile(list(samples), [50, 99]) * 1e6
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def build(path: Path, n_users: int, n_records: int) -> tuple[ProfileStore, dict[str, float]]:
    store = ProfileStore(f"sqlite:///{path}")
    made = seconds(lambda: sum(1 for _ in histories(n_users, n_records)))
    first = seconds(lambda: store.upsert(histories(n_users, n_records)))
    total = n_users * n_records
    figures = {
        "users": n_users,
        "records": total,
        "ingest_s": round(first[0], 2),
        # Less the time that it takes to make up the records.
        "records_per_s": round(total / (first[0] - made[0])),
        "records_per_cpu_s": round(total / (first[1] - made[1])),
        "megabytes": round(path.stat().st_size / 1e6, 1),
    }
    return store, figures


def measure(folder: Path, n_users: int, n_records: int, n_samples: int) -> dict[str, dict[str, float]]:
    stores, results = [], {}
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((n_records, DIM)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    for name, size in (("small", SMALL), ("large", n_users)):
        store, results[name] = build(folder / f"{name}.db", size, n_records)
        embedded = min(size, VECTOR_USERS)
        for start in range(0, embedded, 1_000):
            chunk = range(start, min(start + 1_000, embedded))
            store.put_vectors(vectors(store, chunk, matrix.astype(np.float16)))
        stores.append((name, store, size, embedded))

    timed: dict[str, dict[str, list[float]]] = {name: {"profile": [], "vectors_top_4": []} for name in results}
    chance, query = random.Random(1), matrix[0]
    for _ in range(n_samples):
        for name, store, size, embedded in stores:
            user_id, embedded_id = f"user-{chance.randrange(size)}", f"user-{chance.randrange(embedded)}"
            begun = time.perf_counter()
            profile = store.profile(user_id)
            timed[name]["profile"].append(time.perf_counter() - begun)
            assert len(profile) == n_records
            begun = time.perf_counter()
            found = store.vectors(embedded_id, FINGERPRINT)
            assert found is not None
            np.argpartition(inner_products(found.matrix, query), -4)[-4:]
            timed[name]["vectors_top_4"].append(time.perf_counter() - begun)

    for name, store, size, _ in stores:
        for what, samples in timed[name].items():
            results[name] |= {f"{what}_{key}": value for key, value in microseconds(samples).items()}
        spent = []
        for user in chance.sample(range(size), FORGOTTEN):
            begun = time.perf_counter()
            store.forget(f"user-{user}")
            spent.append(time.perf_counter() - begun)
        results[name]["forget_s"] = round(float(np.median(spent)), 3)
        store.close()
    keys = [key for key in results["small"] if key.endswith(("_us", "forget_s", "per_s", "cpu_s"))]
    results["growth"] = {key: round(results["large"][key] / results["small"][key], 2) for key in keys}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--records", type=int, default=20, help="of each user")
    parser.add_argument("--samples", type=int, default=5_000, help="users read from each store")
    parser.add_argument("--folder", type=Path, help="where to build the stores (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments.users, arguments.records, arguments.samples)
    load = os.getloadavg()[0]
    if arguments.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": round(load, 1)}
        print(json.dumps({"records_per_user": arguments.records, **results, "machine": machine}, indent=2))
        return
    print(
        f"{arguments.records} records for each user; load of the machine at the end {load:.1f} on {os.cpu_count()} cpus"
    )
    print(f"{'':24}{'small':>12}{'large':>12}{'growth':>10}")
    for key, value in results["small"].items():
        growth = results["growth"].get(key)
        print(f"{key:24}{value:12,}{results['large'][key]:12,}{'' if growth is None else f'{growth:9.2f}x'}")


if __name__ == "__main__":
    main()
