"""`persona embed-users` with MiniLM beside `SentenceTransformer.encode` as it comes, on real blog posts.

python benchmarks/embed_users.py [--records 5000] [--part 1000] [--dtype auto] [--json]

The posts are cut into parts, and each part is run by all contestants one after another, so that whatever else the
machine does slows all of them. What is timed, with models loaded and warm:

- encode:  `SentenceTransformer.encode(texts)`, the peer;
- ours:    `embed_users` from records in an SQLite store to vectors in it: reading, tokens, model, float16, writing;
- forward: the model alone on our batches, their tensors made beforehand: what `ours` cannot be faster than;
- linear:  only the linear layers of that pass: what no way to run the model in that type can be much faster than;
- and encode and ours once more where every post is there twice, under another user.

`cosine` compares the stored vectors with the peer's, which are float32.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from persona.encoders.batches import TokenizedTexts, one_thread_workers, plan_batches
from persona.encoders.embedding import embed_users
from persona.encoders.folder import encoder_folder, load
from persona.encoders.load import SentenceTransformerEncoder
from persona.encoders.sentence import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint

POSTS = "data/histories/blogs.jsonl.gz"

Post = tuple[str, str]  # user id, text


class Encoder(SentenceTransformerEncoder):
    """Ours, with a clock."""

    seconds = 0.0

    def encode(self, texts: Sequence[str]) -> Any:
        begun = time.perf_counter()
        try:
            return super().encode(texts)
        finally:
            self.seconds += time.perf_counter() - begun


class Bare:
    """The model without anything around it."""

    def __init__(self, dtype: str, device: torch.device) -> None:
        self._model = load(encoder_folder("minilm"), device, dtype)
        self._device = device
        self._budget = GPU_BATCH_TOKENS if device.type != "cpu" else CPU_BATCH_TOKENS * (1 if dtype == "float32" else 2)
        self._linear = [one for one in self._model.modules() if isinstance(one, torch.nn.Linear)]

    def forward(self, posts: Sequence[Post]) -> float:
        batches = self._batches(posts)
        return self._time(lambda batch: self._model(dict(batch)), batches)

    def linear(self, posts: Sequence[Post]) -> float:
        batches = self._batches(posts)
        widths = {one.in_features for one in self._linear}
        dtype = self._linear[0].weight.dtype
        inputs = [
            {
                width: torch.randn(batch["input_ids"].numel(), width, dtype=dtype, device=self._device)
                for width in widths
            }
            for batch in batches
        ]

        def run(inputs: dict[int, torch.Tensor]) -> None:
            for layer in self._linear:
                layer(inputs[layer.in_features])

        return self._time(run, inputs)

    def _batches(self, posts: Sequence[Post]) -> list[dict[str, Any]]:
        tokens = TokenizedTexts.of(self._model, [text for _, text in posts])
        assert tokens is not None
        return [tokens.features(rows, self._device) for rows in plan_batches(tokens.lengths, self._budget)]

    def _time(self, work: Callable[[Any], object], batches: Sequence[Any]) -> float:
        def once(batch: Any) -> None:
            with torch.inference_mode():
                work(batch)

        cpu = self._device.type == "cpu"
        threads = torch.get_num_threads() if cpu else 1
        begun = time.perf_counter()
        if threads == 1:
            for batch in batches:
                once(batch)
        else:
            with one_thread_workers(threads) as workers:
                list(workers.map(once, batches))
        if not cpu:
            torch.accelerator.synchronize()
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--part", type=int, default=1000, help="records in a part")
    parser.add_argument("--dtype", default="auto", help="what ours computes in: auto, float32, bfloat16, float16")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    posts = read_posts(arguments.records)
    if posts is None:
        raise SystemExit("the shared data folder is missing: set PERSONA_SHARED to it")
    results = measure(posts, arguments.part, arguments.dtype)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


def read_posts(count: int) -> list[Post] | None:
    """`count` posts of all bloggers, chosen at random, no text twice; None without the shared data folder."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    path = Path(os.environ.get("PERSONA_SHARED", default)) / POSTS
    if not path.is_file():
        return None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    distinct = {row["text"]: row["user_id"] for row in rows if row["text"].strip()}
    chosen = random.Random(0).sample(sorted(distinct.items()), min(count, len(distinct)))
    return [(user_id, text) for text, user_id in chosen]


def measure(posts: Sequence[Post], size: int, dtype: str) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = Encoder("minilm", dtype=dtype, device=device.type)
    computed_in = ours.fingerprint.rsplit(":", 1)[-1]
    peer = SentenceTransformer(str(encoder_folder("minilm")), device=device.type)
    bare = Bare(computed_in, device)
    warm = posts[:16]
    peer.encode([text for _, text in warm])
    ours.encode([text for _, text in warm])
    bare.forward(warm)

    parts = []
    for start in range(0, len(posts), size):
        part = posts[start : start + size]
        half = list(part[: max(1, len(part) // 2)])
        twice = half + [(f"{user_id} again", text) for user_id, text in half]
        contestants: list[Callable[[], dict[str, float]]] = [
            lambda part=part: compare(peer, ours, part, ""),  # type: ignore[misc]
            lambda part=part: {"forward": bare.forward(part)},  # type: ignore[misc]
            lambda part=part: {"linear": bare.linear(part)},  # type: ignore[misc]
            lambda twice=twice: compare(peer, ours, twice, " twice"),  # type: ignore[misc]
        ]
        part_results: dict[str, float] = {"records": len(part)}
        for contestant in contestants:
            part_results |= contestant()
        parts.append(part_results)
    names = ["encode", "ours", "forward", "linear", "encode twice", "ours twice"]
    return {
        "dtype": computed_in,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "records": len(posts),
        "seconds": {name: sum(part[name] for part in parts) for name in names},
        "ratio": spread([part["encode"] / part["ours"] for part in parts]),
        "ratio twice": spread([part["encode twice"] / part["ours twice"] for part in parts]),
        "ours to forward": spread([part["ours"] / part["forward"] for part in parts]),
        "ours to linear": spread([part["ours"] / part["linear"] for part in parts]),
        "outside the encoder": sum(part["store"] for part in parts) / sum(part["ours"] for part in parts),
        "cosine": min(part["cosine"] for part in parts),
    }


def compare(peer: SentenceTransformer, ours: Encoder, posts: Sequence[Post], suffix: str) -> dict[str, float]:
    """Seconds of both for these posts, and the lowest cosine between their vectors."""
    texts = [text for _, text in posts]
    begun = time.perf_counter()
    theirs = peer.encode(texts, show_progress_bar=False)
    encode = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        store.upsert((user_id, Record(text, id=str(place))) for place, (user_id, text) in enumerate(posts))
        ours.seconds = 0.0
        report = embed_users(store, ours)
        cosines = []
        for user_id in store.user_ids():
            vectors = store.vectors(user_id, vector_fingerprint(ours, "text"))
            assert vectors is not None
            rows = theirs[[int(record_id) for record_id in vectors.record_ids]]
            matrix = vectors.matrix.astype(np.float32)
            products = np.einsum("rd,rd->r", rows, matrix)
            cosines.append((products / np.linalg.norm(rows, axis=1) / np.linalg.norm(matrix, axis=1)).min())
    return {
        f"encode{suffix}": encode,
        f"ours{suffix}": report.seconds,
        f"store{suffix}": report.seconds - ours.seconds,
        f"cosine{suffix}": float(min(cosines)),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def show(results: dict[str, Any]) -> None:
    print(
        f"{results['records']} posts, {results['device']}, {results['threads']} threads, load {results['load']:.1f}; "
        f"ours computes in {results['dtype']}"
    )
    print(f"{'':14} {'seconds':>9} {'records/s':>10}")
    for name, seconds in results["seconds"].items():
        print(f"{name:14} {seconds:9.2f} {results['records'] / seconds:10.1f}")
    for name, label in (
        ("ratio", "encode / ours"),
        ("ratio twice", "encode / ours, every post twice"),
        ("ours to forward", "ours / forward"),
        ("ours to linear", "ours / linear"),
    ):
        one = results[name]
        print(f"{label:32} {one['median']:5.2f}x  (parts: {one['lowest']:.2f} to {one['highest']:.2f})")
    print(f"{'outside the encoder (store)':32} {100 * results['outside the encoder']:5.2f} %")
    print(f"{'lowest cosine to float32':32} {results['cosine']:.6f}")


if __name__ == "__main__":
    main()
