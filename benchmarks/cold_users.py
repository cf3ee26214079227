"""Users with few records: what neighbours and segments give them, against the prompt of a new user.

    python -m benchmarks.cold_users --out runs/cold [--task LaMP_3] [--train 2000] [--test 300] [--steps 200]

Users of the generated world; the vector of each is the mean of the vectors of the targets. User embedders of mode
``vectors`` are trained on users with 20 records: one on their own vectors, one on smoothed ones, one on those of a
trained smoother. Then others, with 0 to 10 records, are put beside them. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from examples.world.world import World
from persona.encoders.embedding import embed_users
from persona.encoders.load import HashingEncoder
from persona.encoders.user_vectors import UserVectorFile
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.bootstrap import Bootstrap
from persona.eval.report import Report, markdown
from persona.eval.run import evaluate
from persona.lamp.tasks import LampSplit, lamp_task
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.personalizer import Personalizer
from persona.population.fallback import SegmentVectors
from persona.population.features import Features, features_of, words_of
from persona.population.graph import UserGraph
from persona.population.segments import Segments
from persona.population.smoothing import GraphSmoother
from persona.population.training import train_smoother
from persona.population.vectors import UserTable
from persona.protocols import GenerationOptions
from persona.soft_prompts.channel import SoftPromptChannel
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import UserVectorReader
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import NOTES, new_user_embedder, train_user_embedder
from persona.store.profile_store import ProfileStore

RECORDS = (0, 1, 2, 5, 10)
WARM = 20
DIM = 128
ARMS = {"neutral": "raw", "own": "raw", "segment": "raw", "smoothed": "smoothed", "smoothed, trained": "trained"}
"""The rows, and which embedder is asked."""


def split(task: str, part: str, users: int, records: int) -> LampSplit:
    """A question of each user of the world, with so many records behind it."""
    asked = list(World(0).questions(task, part, users, records))
    return LampSplit(
        lamp_task(task), tuple(each.question for each in asked), {each.question.id: each.gold for each in asked}, None
    )


class Population:
    """The training users, and others with few records beside them; vectors, features and segments of all.

    Attributes:
        table: of the training users.
        features: of the training users.
    """

    def __init__(self, training: LampSplit, folder: Path) -> None:
        self._training, self._folder, self._encoder = training, folder, HashingEncoder(DIM)
        self.table, self.features = self.beside(None)

    def beside(self, others: LampSplit | None) -> tuple[UserTable, Features]:
        """The table with `others`, without a vector for those who have no records, and everybody's features."""
        asked = others.questions if others else ()
        questions = [*self._training.questions, *asked]
        records = {each.user_id: each.profile for each in questions}
        features: dict[str, Mapping[str, int]] = {name: features_of(profile) for name, profile in records.items()}
        features |= {each.user_id: words_of(each.input) for each in questions if not len(each.profile)}
        with ProfileStore(f"sqlite:///{self._folder}/users-{len(asked[0].profile) if asked else WARM}.db") as store:
            store.upsert((name, record) for name, profile in records.items() for record in profile)
            fingerprint = embed_users(store, self._encoder, view="target").fingerprint
            table = UserTable.from_store(store, fingerprint)
            if others is None:
                self.segments = Segments.of(store, table)
        return table.with_users(records), features


def trained(
    name: str, llm: TransformersLM, training: LampSplit, file: UserVectorFile, given: argparse.Namespace
) -> UserEmbedder:
    """The user embedder over the vectors of a file, trained or from an earlier run."""
    out = given.out / f"embedder-{name}"
    if (out / NOTES).is_file():
        return load_user_embedder(out)
    embedder = new_user_embedder(llm, training, file, UserEmbedderShape(n_tokens=8), seed=0)
    options = UserEmbedderTraining(
        steps=given.steps, evaluate_every=given.steps // 6, learning_rate=given.rate, ks=(0,), leave_one_out=0
    )
    report = train_user_embedder(embedder, training, llm, UserVectorReader(embedder.config, file), options, out=out)
    print(f"{name}: {report.validation_loss_before:.3f} -> {report.validation_loss:.3f} nats a token", flush=True)
    return embedder


def measure(given: argparse.Namespace) -> dict[int, Report]:
    """A report for each number of records, with a row for each idea."""
    llm = load_llm("tiny")
    assert isinstance(llm, TransformersLM)
    training = split(given.task, "train", given.train, WARM)
    people = Population(training, given.out)
    dim = people.table.matrix.shape[1]
    smoothers = {"smoothed": GraphSmoother(dim), "trained": GraphSmoother(dim)}
    graph = UserGraph.of(people.table, people.features)
    losses = train_smoother(smoothers["trained"], graph, people.table)
    print(f"smoother: {sum(losses[:5]) / 5:.3f} -> {sum(losses[-5:]) / 5:.3f}", flush=True)

    def written(table: UserTable, name: str) -> UserVectorFile:
        path = given.out / f"{name}.parquet"
        table.write(path)
        return UserVectorFile(path)

    plain = written(people.table, "raw")
    files = {name: written(each.smooth(graph, people.table), name) for name, each in smoothers.items()}
    embedders = {name: trained(name, llm, training, file, given) for name, file in {"raw": plain, **files}.items()}
    reports = {}
    for records in RECORDS:
        others = split(given.task, "dev", given.test, records)
        table, features = people.beside(others)
        graph = UserGraph.of(table, features)
        own = written(table, f"raw-{records}")
        sources = {
            "neutral": plain,
            "own": own,
            "segment": SegmentVectors(given.out / f"raw-{records}.parquet", people.segments),
        }
        for arm, name in (("smoothed", "smoothed"), ("smoothed, trained", "trained")):
            sources[arm] = written(smoothers[name].smooth(graph, table), f"{name}-{records}")
        with ProfileStore(f"sqlite:///{given.out / 'asked.db'}") as store:
            runs = {
                arm: Personalizer(
                    llm,
                    store,
                    [SoftPromptChannel(embedders[ARMS[arm]], llm, source)],
                    options=GenerationOptions(8, answers="likelihood" if given.task == "LaMP_3" else "generate"),
                )
                for arm, source in sources.items()
            }
            benchmark = LampBenchmark(others)
            reports[records] = evaluate(benchmark, runs, controls=(), out=given.out / "answers")
            print(f"{records} records: asked", flush=True)
    return reports


def table(task: str, reports: Mapping[int, Report], base: str) -> list[list[str]]:
    """Scores by records, with each row's difference to `base`, paired over users."""
    (metric, *_) = LampBenchmark(split(task, "dev", 1, 0)).metrics
    cells = [["records", base, *(arm for arm in ARMS if arm != base)]]
    for records, report in reports.items():
        row = [str(records), f"{report[base].scores[metric.name].value:.3f}"]
        for arm in cells[0][2:]:
            found = Bootstrap(report.groups).paired(metric, report[arm].samples, report[base].samples)
            difference = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
            row.append(f"{report[arm].scores[metric.name].value:.3f}, {difference}")
        cells.append(row)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="LaMP_3")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    reports = measure(given)
    for base in ("neutral", "own"):
        print(f"{markdown(table(given.task, reports, base))}\n")


if __name__ == "__main__":
    main()
