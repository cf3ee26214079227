"""What each metric recorded of each question, in a file beside the results, so that two runs can be compared.

    {"ids": ["q0", "q1"], "groups": ["ana", "ben"], "metrics": {"f1": "mean"},
     "rows": {"none": {"f1": [[0.5], [1.0]]}}}

`metrics` names the way from sums to a value (`persona.eval.results.sums.OF_SUMS`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.errors import DataFormatError
from persona.eval.benchmarks.reading import read_json
from persona.eval.metrics import Array, Metric, Samples
from persona.eval.results.sums import OF_SUMS
from persona.files import write_atomically

if TYPE_CHECKING:
    from persona.eval.report import Report

SAMPLES = "samples.json"
"""The file's name."""


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
        metrics = tuple(Metric(name, True, _unmeasured, OF_SUMS[way]) for name, way in content["metrics"].items())
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


def _unmeasured(answers: object, labels: object) -> Array:
    raise NotImplementedError("a metric of a file measures no answers")
