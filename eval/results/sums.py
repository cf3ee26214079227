"""Ways from summed records to a value, besides those of `persona.eval.metrics`, and the names of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from persona.errors import EvaluationError
from persona.eval.metrics import Answer, Array, macro_f1, mean_of_sums, root_mean


def ratio_of_sums(sums: Array, count: Array) -> Array:
    """The first column's sum over the second's, as `Metric.of_sums`: the mean over the samples that count.

    0 where none does.
    """
    result: Array = np.divide(
        sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=np.not_equal(sums[..., 1], 0)
    )
    return result


def unlabelled(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    """What stands in `Metric.measure` where an answer and its gold are not enough: `Benchmark.score` measures.

    Raises:
        EvaluationError: always.
    """
    raise EvaluationError("this metric needs the benchmark's questions: ask its `score`")


OF_SUMS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": mean_of_sums,
    "ratio": ratio_of_sums,
    "root mean": root_mean,
    "macro F1": macro_f1,
}
"""The ways to a value, by the name under which files keep them."""
