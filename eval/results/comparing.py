"""Two runs of one benchmark, compared on the questions that both have scored.

::

    compare(Path("runs/small"), Path("runs/large")).markdown()

Each row that both have is compared: a's score minus b's, paired over users, with Holm's correction where there are
several. Two runs with another order or another choice of questions share those with the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from persona.errors import EvaluationError
from persona.eval.benchmarks.reading import read_json
from persona.eval.bootstrap import Bootstrap, holm
from persona.eval.metrics import Metric, Samples
from persona.eval.report import Report, Row
from persona.eval.results.samples import KeptSamples, read_samples

RESULTS = "results.json"


def compare(a: Path, b: Path, *, resamples: int = 2000, seed: int = 0) -> Report:
    """Compare two runs: of each row a's score, b's, and a's minus b's, with Holm's correction for all rows.

    `Report.config` says whether questions, histories and golds of both were the same to the last character.

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
    bootstrap = Bootstrap([whose[each] for each in shared], resamples=resamples, seed=seed)
    pairs = [[_of(each, name, metric, shared) for each in (ours, theirs)] for name in rows]
    differences = [bootstrap.paired(metric, *pair) for pair in pairs]
    p_values = holm([each.p_value for each in differences])
    compared = []
    for name, pair, difference, p_value in zip(rows, pairs, differences, p_values, strict=True):
        first, second = (bootstrap.interval(metric, samples) for samples in pair)
        scores = {metric.name: first, f"{metric.name} of b": second}
        compared.append(Row(name, 0, None, scores, difference, corrected=p_value))
    return Report(
        benchmark=names[0],
        questions=len(shared),
        users=bootstrap.users,
        llm="",
        config={"llms": [each["llm"] for each in about], "same_data": about[0]["data"] == about[1]["data"]},
        rows=tuple(compared),
        data=about[0]["data"],
    )


def _of(kept: KeptSamples, row: str, metric: Metric, ids: Sequence[str]) -> Samples:
    """A row's samples of some questions; several seeds are averaged, question by question."""
    recorded = metric.recorded(kept.rows[row])
    runs = np.mean(recorded.reshape(-1, len(kept.ids), recorded.shape[1]), axis=0)
    place = {each: index for index, each in enumerate(kept.ids)}
    return {metric.name: runs[[place[each] for each in ids]]}


def _results(folder: Path) -> dict[str, str]:
    about = read_json(folder / RESULTS)
    return {name: about[name].text for name in ("benchmark", "llm", "data")}
