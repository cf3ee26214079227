"""Two runs of one benchmark, compared on the questions that both have scored.

::

    compare(Path("runs/small"), Path("runs/large")).markdown()

Each row that both have is compared: a's score minus b's, paired over users, with Holm's correction where there are
several. Two runs with another order or another choice of questions share those with the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from persona.errors import EvaluationError
from persona.eval.benchmarks.reading import read_json
from persona.eval.bootstrap import Bootstrap, Interval, PairedDifference, holm
from persona.eval.metrics import Metric, Samples
from persona.eval.report import interval_cell, markdown
from persona.eval.results.samples import KeptSamples, read_samples

RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One row of both runs.

    Attributes:
        name: the row's.
        a: the first run's score.
        b: the second's.
        difference: a minus b.
        corrected: the p-value by Holm's correction for all rows.
    """

    name: str
    a: Interval
    b: Interval
    difference: PairedDifference
    corrected: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs of one benchmark.

    Attributes:
        benchmark: its name.
        metric: what is compared.
        questions: how many both have scored.
        llms: the LLM of each.
        same_data: whether questions, histories and golds were the same to the last character.
        rows: those that both have.
    """

    benchmark: str
    metric: str
    questions: int
    llms: tuple[str, str]
    same_data: bool
    rows: tuple[ComparedRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Itself, ready for JSON."""
        return asdict(self)

    def cells(self) -> list[list[str]]:
        """Header and rows as strings."""
        header = ["method", f"{self.metric}, a", f"{self.metric}, b", "a - b", "p", "p (Holm)"]
        return [
            header,
            *(
                [
                    row.name,
                    interval_cell(row.a),
                    interval_cell(row.b),
                    f"{row.difference.difference:+.3f} [{row.difference.low:+.3f}, {row.difference.high:+.3f}]",
                    f"{row.difference.p_value:.3f}",
                    f"{row.corrected:.3f}",
                ]
                for row in self.rows
            ),
        ]

    def markdown(self) -> str:
        """The comparison as a Markdown table."""
        return markdown(self.cells())


def compare(a: Path, b: Path, *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare two runs.

    Args:
        a: a folder with ``results.json`` and ``samples.json``, or the former file in it.
        b: the other one.
        resamples: of the bootstrap over users.
        seed: of it.

    Raises:
        DataFormatError: if a file cannot be read.
        EvaluationError: if the runs are of two benchmarks, or share no question, metric or row.
    """
    folders = [each.parent if each.name == RESULTS else each for each in (a, b)]
    about = [_results(folder) for folder in folders]
    names = [each["benchmark"] for each in about]
    if names[0] != names[1]:
        raise EvaluationError(f"two runs must be of one benchmark, were of {names[0]} and {names[1]}")
    ours, theirs = map(read_samples, folders)
    known = {metric.name for metric in theirs.metrics}
    metric = next((each for each in ours.metrics if each.name in known), None)
    shared = [each for each in ours.ids if each in set(theirs.ids)]
    rows = [name for name, samples in ours.rows.items() if metric and metric.name in samples and name in theirs.rows]
    if metric is None or not shared or not rows:
        what = "metric" if metric is None else "question" if not shared else "row"
        raise EvaluationError(f"two runs must share a {what} to be compared, these share none: {a} and {b}")
    whose = dict(zip(ours.ids, ours.groups, strict=True))
    compared: list[ComparedRow] = []
    for name in rows:
        pair = [_of(each, name, metric, shared) for each in (ours, theirs)]
        bootstrap = Bootstrap([whose[each] for each in shared], resamples=resamples, seed=seed)
        first, second = (bootstrap.interval(metric, samples) for samples in pair)
        compared.append(ComparedRow(name, first, second, bootstrap.paired(metric, *pair), 1.0))
    corrected = holm([each.difference.p_value for each in compared])
    made = tuple(replace(each, corrected=p_value) for each, p_value in zip(compared, corrected, strict=True))
    llms = (about[0]["llm"], about[1]["llm"])
    return Comparison(names[0], metric.name, len(shared), llms, about[0]["data"] == about[1]["data"], made)


def _of(kept: KeptSamples, row: str, metric: Metric, ids: Sequence[str]) -> Samples:
    """A row's samples of some questions; several seeds are averaged, question by question."""
    recorded = metric.recorded(kept.rows[row])
    runs = np.mean(recorded.reshape(-1, len(kept.ids), recorded.shape[1]), axis=0)
    place = {each: index for index, each in enumerate(kept.ids)}
    return {metric.name: runs[[place[each] for each in ids]]}


def _results(folder: Path) -> dict[str, str]:
    about = read_json(folder / RESULTS)
    return {name: about[name].text for name in ("benchmark", "llm", "data")}
