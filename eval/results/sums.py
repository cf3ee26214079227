"""Ways from summed records to a value, besides those of `persona.eval.metrics`, and the names of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from persona.errors import EvaluationError
from persona.eval.metrics import Answer, Array, macro_f1, mean_of_sums, ratio_of_sums, root_mean


def unlabelled(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    """What stands in `Metric.measure` where an answer and its gold are not enough: `Benchmark.score` measures.

    Raises:
        EvaluationError: always.
    """
    raise EvaluationError("this metric needs the benchmark's questions: ask its `score`")


def column(values: Sequence[float]) -> Array:
    """One value for each question, as a metric's record.  # (questions, 1)"""
    return np.array(values, dtype=np.float64)[:, None]


OF_SUMS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": mean_of_sums,
    "ratio": ratio_of_sums,
    "root mean": root_mean,
    "macro F1": macro_f1,
}
"""The ways to a value, by the name under which files keep them."""
