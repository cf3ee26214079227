"""What a user embedder's soft prompt carries of a history: probes of users of the generated world.

    python -m benchmarks.probes [--train 240] [--test 100] [--records 30] [--warm-up 0] [--steps 300]
                                [--batch 16] [--out FOLDER] [--json]

The embedder is trained on probes of training users, and asked about others, with the LLM `tiny` and answers by
likelihood. Beside it: the question alone, another user's soft prompt, the records as text, what all users have in
common, and a linear map from the mean of a user's record vectors, which says what an encoder's vectors hold at all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.linear_probe import linear_probe
from examples.world.world import World
from persona.encoders.load import load_encoder
from persona.eval.benchmarks.named import MethodOptions, evaluate_benchmark
from persona.eval.benchmarks.profiles.probes import Probes
from persona.eval.report import table
from persona.llm.load import load_llm
from persona.records import Profile
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import new_user_embedder, train_user_embedder

TASK = "LaMP_2"


def people(split: str, users: int, records: int) -> list[Profile]:
    """Users of the world, each with that many tagged films."""
    asked = World().questions(TASK, split, users=users, records_per_user=records)
    return [each.question.profile for each in asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("train", 240),
        ("test", 100),
        ("records", 30),
        ("warm-up", 0),
        ("steps", 300),
        ("batch", 16),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    training, asked = (
        people(split, getattr(given, split.replace("dev", "test")), given.records) for split in ("train", "dev")
    )
    labels = {record.target or "" for each in (*training, *asked) for record in each}
    probes = Probes(asked, training=Probes(training, labels=labels), labels=labels)
    llm, encoder = load_llm("tiny"), load_encoder("minilm")

    def means(profiles: Sequence[Profile]) -> NDArray[np.floating]:
        """The mean of the vectors of each user's records, and of the labels'."""
        rows = []
        for each in profiles:
            texts = [record.view("target+text") for record in each]
            rows.append(encoder.encode(texts).mean(axis=0))
        return np.array(rows)

    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        embedder = trained(probes, llm, encoder, given, out / "embedder")
        options = MethodOptions(
            methods=("none", "user-embedder", "full"), user_embedders=(embedder,), encoder=encoder, context_tokens=400
        )
        report = evaluate_benchmark(probes, llm, options, out=out)
    linear = linear_probe(probes, means)
    right = [said == each.gold for said, each in zip(linear, probes.questions, strict=True)]
    kinds = {
        kind: [ok for ok, each in zip(right, probes.questions, strict=True) if each.kind == kind]
        for kind in report.rows[0].kinds
    }
    if given.json:
        print(json.dumps({**report.as_dict(), "linear": {kind: float(np.mean(some)) for kind, some in kinds.items()}}))
        return
    console = Console(width=200)
    console.print(report.table("probes"))
    console.print(
        table(
            [*report.by_kind(), ["linear map", *(f"{np.mean(some):.3f}" for some in kinds.values())]], title="by kind"
        )
    )


def trained(probes: Probes, llm: Any, encoder: Any, given: argparse.Namespace, out: Path) -> UserEmbedder:
    """A user embedder that was trained on the probes' training users."""
    assert isinstance(probes.training, Probes)
    split = probes.training.as_split()
    embedder = new_user_embedder(llm, split, encoder, UserEmbedderShape(mode="attention", n_tokens=8, copies=False))
    options = UserEmbedderTraining(
        steps=given.steps, warm_up=given.warm_up, ks=(0,), leave_one_out=0, new_user_steps=0, batch=given.batch
    )
    train_user_embedder(embedder, split, llm, HistoryReader(embedder.config, encoder), options, out=out)
    return embedder


if __name__ == "__main__":
    main()
