"""How much of a user's interests the k retrieved records cover, by retriever.

    python -m benchmarks.coverage $PERSONA_SHARED/data/lampstyle/LaMP_2_news --labels

*Clusters* are those of the user's own records, found with another seed than the retriever's; a cluster counts by its
share of the records, and is covered if one of the k records lies in it. *Labels* are covered likewise; no retriever but
key_value looks at them. *Similarity* is the mean cosine of the records to the question: what coverage is paid with.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.cluster import KMeans

from benchmarks.shared_interests import SharedInterestRetriever, SharedInterests
from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.readers import read_split
from persona.retrievers import EntityRetriever, MultiInterestRetriever
from persona.retrievers.base import positions
from persona.retrievers.registry import make_retrievers
from persona.retrievers.vectors.record_vectors import RecordVectors
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint

METHODS = ("dense", "diverse", "key_value", "random")


def covered(groups: Sequence[object], chosen: Sequence[int]) -> float:
    """The share of the records whose group one of the chosen ones belongs to."""
    sizes = Counter(groups)
    return sum(sizes[group] for group in {groups[position] for position in chosen}) / len(groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("PERSONA_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    parser.add_argument("data", type=Path, nargs="?", default=shared / "data/lampstyle/LaMP_2_news")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, default=None, help="questions")
    parser.add_argument("--ks", default="1,4,8")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument(
        "--vectors", default="/tmp/persona-coverage.db", help="SQLite file for vectors, made if missing"
    )
    parser.add_argument("--labels", action="store_true", help="labels repeat: say how many are covered")
    options = parser.parse_args()
    split = read_split(options.data, options.split)
    questions = [question for question in split.questions if len(question.profile) >= 8][: options.limit]
    encoder = load_encoder(options.encoder)
    ks = [int(k) for k in options.ks.split(",")]
    with TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{options.vectors or Path(folder) / 'v.db'}") as store:
        store.upsert((question.user_id, record) for question in questions for record in question.profile)
        embed_users(store, encoder)
        profiles = [question.profile for question in questions]
        queries = [split.task.query(question.input) for question in questions]
        embedded = RecordVectors(encoder, store).embed(profiles, queries)
        groups = [KMeans(5, n_init=1, random_state=1).fit_predict(own.wide).tolist() for own in embedded]
        retrievers = make_retrievers(METHODS, encoder=encoder, store=store)
        fingerprint = vector_fingerprint(encoder, "text")
        users = [vectors.matrix for user in store.user_ids() if (vectors := store.vectors(user, fingerprint))]
        many = SharedInterests.from_matrices(fingerprint, users)
        retrievers["multi_interest"] = MultiInterestRetriever(encoder, store)
        retrievers["multi_interest, neighbours"] = SharedInterestRetriever(many, encoder, store)
        retrievers["entities"] = EntityRetriever()
        print(f"{len(questions)} questions of {len({question.user_id for question in questions})} users")
        print("| retriever | k | clusters covered | labels covered | similarity |")
        print("|---|---:|---:|---:|---:|")
        for name, retriever in retrievers.items():
            found = retriever.retrieve_batch(profiles, queries, max(ks))
            for k in ks:
                rows = []
                for profile, ranking, clusters_of, own in zip(profiles, found, groups, embedded, strict=True):
                    chosen = list(positions(profile, ranking[:k]))
                    labels = [record.target for record in profile]
                    rows.append(
                        (covered(clusters_of, chosen), covered(labels, chosen), own.similarities[chosen].mean())
                    )
                clusters, labels_, similarity = np.mean(rows, axis=0)
                shown = f"{labels_:.3f}" if options.labels else "-"
                print(f"| {name} | {k} | {clusters:.3f} | {shown} | {similarity:.3f} |", flush=True)


if __name__ == "__main__":
    main()
