"""Every channel on a real LLM: SmolLM2 in chat form on three LaMP-style sets, with all controls.

    python examples/real_llm.py FOLDER --out runs/real [--only news] [--list]

FOLDER holds LaMP folders `LaMP_2_news`, `LaMP_3_film` and `LaMP_5_acl`. Of each the script writes a part into OUT: a
few questions of every user of the development split, and the newest records of every profile, so that all of it ends
within four hours of one core. Then it runs the commands that a user would type, in an order in which every step adds a
row to a table. What is done is not done again; a step that was stopped goes on. The tables stand in OUT/logs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLM = "smollm2"
RECORDS = 30
SETS: dict[str, tuple[str, str, int, int]] = {
    "news": ("LaMP_2_news", "dev", 4, 44),
    "films": ("LaMP_3_film", "dev", 1, 52),
    "titles": ("LaMP_5_acl", "dev", 1, 60),
    "news-choosing": ("LaMP_2_news", "train", 1, 40),
    "films-choosing": ("LaMP_3_film", "train", 1, 40),
}
"""By short name: the folder, the split whose questions are asked, questions of a user, and questions in all. What a
default is chosen by is asked of training users."""

EMBEDDER: dict[str, Any] = {
    "training.steps": 30,
    "training.batch": 8,
    "training.ks": 0,
    "training.leave_one_out": 4,
    "training.validation_questions": 32,
    "training.evaluate_every": 15,
    "embedder.copies": "false",
}
ADAPTERS: dict[str, Any] = {
    "task.examples": 160,
    "task.epochs": 1,
    "epochs": 1,
    "min_steps": 4,
    "refit": "false",
    "lora.r": 4,
    "lora.targets": "q_proj,v_proj",
}
EVAL: dict[str, Any] = {"calibration_questions": 24, "files.markdown": "true"}
TRAINED: dict[str, dict[str, Any]] = {
    "news": {"calibration": "none"},
    "films": {"calibration": "prior"},
    "titles": {"max_new_tokens": 32},
}
"""Of rows with something trained: the calibration that the rows of retrieval chose, not chosen again for each."""


@dataclass(frozen=True)
class Step:
    """A command, and the file that is there when it is done.

    Attributes:
        name: e.g. ``"news/embedder-0"``.
        command: arguments of ``persona``.
        done: written at its end.
        needs: names of the steps before it.
    """

    name: str
    command: tuple[str, ...]
    done: Path


def settings(values: dict[str, Any]) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def write_part(source: Path, target: Path, asked_split: str, per_user: int, most: int) -> None:
    """A LaMP folder with fewer questions and shorter profiles; the questions of `asked_split` are its ``dev``."""
    if (target / "written").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev") if asked_split == "dev" else ("dev",):
        read = asked_split if split == "dev" else split
        questions = json.loads((source / f"{read}_questions.json").read_text())
        outputs = json.loads((source / f"{read}_outputs.json").read_text())
        if split == "dev":
            asked: dict[str, int] = {}
            kept: list[dict[str, Any]] = []
            for question in questions:
                user = question.get("user_id", question["id"])
                asked[user] = asked.get(user, 0) + 1
                if asked[user] <= per_user and len(kept) < most:
                    kept.append(question)
            questions = kept
        for question in questions:
            dated = sorted(question["profile"], key=lambda record: record.get("date", ""))
            question["profile"] = dated[-RECORDS:]
        ids = {question["id"] for question in questions}
        outputs["golds"] = [gold for gold in outputs["golds"] if gold["id"] in ids]
        (target / f"{split}_questions.json").write_text(json.dumps(questions))
        (target / f"{split}_outputs.json").write_text(json.dumps(outputs))
    (target / "written").touch()


def evaluation(out: Path, name: str, row: str, methods: str, ks: str, *more: str, **values: Any) -> Step:
    folder = out / name / row
    command = ("eval", "lamp", str(out / "data" / name), "--llm", LLM, "--methods", methods, "--k", ks)
    extra = (*more, *settings({**EVAL, **values}), "--out", str(folder))
    return Step(f"{name}/{row}", (*command, *extra), folder / "results.json")


def embedder(out: Path, name: str, seed: int, *, without: bool) -> Step:
    kind = "without" if without else "embedder"
    folder = out / name / f"{kind}-{seed}"
    values = {**EMBEDDER, "training.seed": seed, "sources.vectors": str(out / name / "vectors.db")}
    values |= {"training.without_user": "true"} if without else {"training.new_user_steps": 8}
    command = ("train", "user-embedder", str(out / "data" / name), "--llm", LLM, "--out", str(folder))
    return Step(f"{name}/{kind}-{seed}", (*command, *settings(values)), folder / "training.json")


def task_adapter(out: Path, name: str, seed: int) -> Step:
    folder = out / name / f"adapter-{seed}"
    command = ("train", "adapters", str(out / "data" / name), "--llm", LLM, "--out", str(folder))
    return Step(
        f"{name}/adapter-{seed}", (*command, *settings({**ADAPTERS, "seed": seed})), folder / "task_adapter.json"
    )


def embedders_evaluated(out: Path, name: str, seeds: int) -> Step:
    folders = [str(out / name / f"embedder-{seed}") for seed in range(seeds)]
    without = ",".join(str(out / name / f"without-{seed}") for seed in range(seeds))
    given = ("--user-embedder", ",".join(folders))
    values = {**TRAINED[name], "user_embedder_controls": without}
    return evaluation(out, name, f"embedders-{seeds}", "none,user-embedder", "1", *given, **values)


def adapters_evaluated(out: Path, name: str, seeds: int) -> Step:
    folders = ",".join(str(out / name / f"adapter-{seed}") for seed in range(seeds))
    given = ("--adapters", folders)
    values = {**TRAINED[name], "adapters_once": "true"}
    return evaluation(out, name, f"adapters-{seeds}", "none,lora+task", "1", *given, **values)


def steps(out: Path) -> Iterator[Step]:
    """All steps, the rows that cost least first."""
    yield evaluation(out, "news", "retrieval", "none,bm25-lamp,bm25,recency", "1,4", answers="auto,generate")
    yield evaluation(out, "films", "retrieval", "none,bm25-lamp,recency", "1,4")
    yield evaluation(out, "news", "summaries", "none,stats,summary", "1", summary_form="sentence")
    for name in ("news-choosing", "films-choosing"):
        for placement in ("prompt", "system", "turns"):
            yield evaluation(out, name, placement, "none,bm25", "4", placement=placement, mask="true")
    folder = out / "news" / "filter"
    yield Step(
        "news/filter", ("train", "filter", str(out / "data" / "news"), "--out", str(folder)), folder / "config.json"
    )
    yield evaluation(out, "news", "filtered", "none,bm25-lamp", "4", **{"retrieval.relevance": str(folder)})
    for name in ("news", "films"):
        yield embedder(out, name, 0, without=False)
        yield embedder(out, name, 0, without=True)
        yield embedders_evaluated(out, name, 1)
        yield task_adapter(out, name, 0)
        yield adapters_evaluated(out, name, 1)
    yield evaluation(out, "titles", "retrieval", "none,bm25-lamp", "1", max_new_tokens=32)
    yield embedder(out, "titles", 0, without=False)
    yield embedder(out, "titles", 0, without=True)
    yield embedders_evaluated(out, "titles", 1)
    for seed in (1, 2):
        yield embedder(out, "news", seed, without=False)
        yield embedder(out, "news", seed, without=True)
        yield task_adapter(out, "news", seed)
    yield embedders_evaluated(out, "news", 3)
    yield adapters_evaluated(out, "news", 3)


def run(step: Step, log: Path) -> float:
    """Run a step, its lines in a file; its seconds."""
    begun = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"$ persona {' '.join(step.command)}\n")
        file.flush()
        subprocess.run([sys.executable, "-m", "persona", *step.command], stdout=file, stderr=file, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the LaMP folders")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--only", default="", help="only steps whose name begins so")
    parser.add_argument("--list", action="store_true", help="only say what is done and what is not")
    options = parser.parse_args()
    for name, (folder, split, per_user, most) in SETS.items():
        write_part(options.folder / folder, options.out / "data" / name, split, per_user, most)
    for step in steps(options.out):
        if not step.name.startswith(options.only):
            continue
        if step.done.exists() or options.list:
            print(f"{step.name}: {'done' if step.done.exists() else 'to do'}")
            continue
        print(f"{step.name} ...", flush=True)
        seconds = run(step, options.out / "logs" / f"{step.name.replace('/', '-')}.log")
        print(f"{step.name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
