"""What share of the gap each row of an evaluation closed, on sets of the generated world.

    python -m benchmarks.world_gap RUN [RUN ...] [--world 0] [--split dev]

RUN is a folder that `persona eval lamp` wrote for questions of `World.write_lamp`. The gap is that between the best
that can be had without the user (0 %) and the oracle that knows the user's habits (100 %), both exact, for the
questions asked (`examples.world.bounds`). Intervals are 95 %, bootstrap over users; seeds count together. What is
printed is Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from examples.world.bounds import no_user_score, oracle_score
from examples.world.world import World
from persona.eval.bootstrap import Bootstrap
from persona.eval.metrics import METRICS, score_lamp
from persona.lamp.tasks import lamp_task


def difference(found: dict[str, Any] | None) -> str:
    """A paired difference as tables have it."""
    return "-" if found is None else f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def answers(folder: Path, name: str, seeds: int) -> list[dict[str, str]]:
    """The answers of a row, one mapping for each seed."""
    stem = name.replace(" ", "_").replace(",", "").replace("=", "").replace("+", "plus")
    files = [f"{stem}_run{number + 1}.json" if seeds > 1 else f"{stem}.json" for number in range(seeds)]
    runs = [json.loads((folder / "predictions" / file).read_text(encoding="utf-8")) for file in files]
    return [{one["id"]: one["output"] for one in run["golds"]} for run in runs]


def table(folder: Path, world: int, split: str) -> str:
    """The rows of a run with their shares, as Markdown."""
    report = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    task = lamp_task(report["benchmark"])
    metric = METRICS[task.metrics[0]]
    asked = list(World(world).questions(task.name, split, report["questions"], 0))
    golds = {one.question.id: one.gold for one in asked}
    floor = fmean(no_user_score(one.content) for one in asked)
    ceiling = fmean(oracle_score(one.content, one.user.traits) for one in asked)
    lines = [
        f"{folder}: {task.name}, {len(asked)} questions, without the user {floor:.3f}, oracle {ceiling:.3f}",
        "",
        f"| method | {metric.name} | share of the gap | difference to `none` | to task adapter alone | tokens added |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        scored = [score_lamp(task, golds, run) for run in answers(folder, row["name"], row["seeds"])]
        samples = {name: np.concatenate([each.samples[name] for each in scored]) for name in scored[0].samples}
        users = [one.user.user_id for one in asked] * row["seeds"]
        share = Bootstrap(users).gap_share(metric, samples, floor=floor, ceiling=ceiling)
        cells = [
            row["name"],
            f"{metric.value(samples):.3f}",
            f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})",
            difference(row["difference"]),
            difference(row["gain"]),
            f"{row['tokens_added']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--world", type=int, default=0, help="the world's seed")
    parser.add_argument("--split", default="dev")
    arguments = parser.parse_args()
    print("\n\n".join(table(folder, arguments.world, arguments.split) for folder in arguments.runs))


if __name__ == "__main__":
    main()
