"""What metrics record of questions, and a file with it beside the results, so that two runs can be compared.

    {"ids": ["q0", "q1"], "groups": ["ana", "ben"], "metrics": {"f1": "mean"},
     "rows": {"none": {"f1": [[0.5], [1.0]]}}}

`metrics` names the way from sums to a value (`OF_SUMS`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.errors import DataFormatError, EvaluationError
from persona.eval.benchmarks.reading import read_json
from persona.eval.metrics import Answer, Array, Metric, Samples, macro_f1, mean_of_sums, ratio_of_sums, root_mean
from persona.files import write_atomically

if TYPE_CHECKING:
    from persona.eval.report import Report

SAMPLES = "samples.json"
"""The file's name."""

OF_SUMS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": mean_of_sums,
    "ratio": ratio_of_sums,
    "root mean": root_mean,
    "macro F1": macro_f1,
}
"""The ways to a value, by the name under which files keep them."""


def unlabelled(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    """What stands in `Metric.measure` where an answer and its gold are not enough: `Benchmark.score` measures.

    Raises:
        EvaluationError: always.
    """
    raise EvaluationError("this metric needs the benchmark's questions: ask its `score`")


def column(values: Sequence[float]) -> Array:
    """One value for each question, as a metric's record.  # (questions, 1)"""
    return np.array(values, dtype=np.float64)[:, None]


@dataclass(frozen=True, slots=True)
class KeptSamples:
    """The samples of a run.

    Attributes:
        ids: the questions.
        groups: whose they are, in the same order.
        metrics: the measures, the first one first; they can compute values, not measure answers.
        rows: row -> metric -> what was recorded of each question; of further seeds, one after the other.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: Mapping[str, Samples]


def write_samples(folder: Path, report: Report, metrics: Sequence[Metric]) -> None:
    """Write the samples of `report` into a folder."""
    names = {function: name for name, function in OF_SUMS.items()}
    kept = {metric.name: names[metric.of_sums] for metric in metrics if metric.of_sums in names}
    rows = {row.name: {name: row.samples[name].tolist() for name in kept if name in row.samples} for row in report.rows}
    content = {"ids": report.ids, "groups": report.groups, "metrics": kept, "rows": rows}
    write_atomically(folder / SAMPLES, json.dumps(content, ensure_ascii=False) + "\n")


def read_samples(folder: Path) -> KeptSamples:
    """The samples that `write_samples` wrote into a folder.

    Raises:
        DataFormatError: if there are none, or they are of another form.
    """
    path = folder / SAMPLES
    content = read_json(path).mapping
    try:
        ids, groups = tuple(map(str, content["ids"])), tuple(map(str, content["groups"]))
        metrics = tuple(Metric(name, True, unlabelled, OF_SUMS[way]) for name, way in content["metrics"].items())
        rows = {name: {key: _array(some) for key, some in each.items()} for name, each in content["rows"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataFormatError(f"these are no samples of a run ({error!r:.80})", source=path) from None
    sizes = {len(each) for samples in rows.values() for each in samples.values()}
    if len(groups) != len(ids) or not ids or any(not size or size % len(ids) for size in sizes):
        raise DataFormatError(f"each row must have a value for each of {len(ids)} questions", source=path)
    return KeptSamples(ids, groups, metrics, rows)


def _array(values: Any) -> Array:
    found = np.array(values, dtype=np.float64)
    if found.ndim != 2:
        raise ValueError("a list of lists is needed")
    return found
