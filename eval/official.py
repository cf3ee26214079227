"""LaMP's official evaluator on files: golds and predictions in, metric values out, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from persona.errors import EvaluationError, UnknownTaskError
from persona.lamp.tasks import lamp_task
from persona.readers import read_golds

from .metrics import Scores, evaluate


def score_files(
    golds: Path,
    predictions: Path,
    *,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    bootstrap: bool = False,
    seed: int = 0,
) -> Scores:
    """Score a predictions file against a golds file of the official form.

    Args:
        golds: ``{"task": "LaMP_3", "golds": [{"id": ..., "output": ...}, ...]}``.
        predictions: the same form.
        task: task name; None takes that of the golds.
        labels: all labels of the task, where it does not fix them; None takes the task's own.
        bootstrap: ROUGE as the official median of bootstrap means.
        seed: of that bootstrap.

    Raises:
        DataFormatError: if a file cannot be read.
        UnknownTaskError: if no task is named, or there is none of that name.
        EvaluationError: if the ids or the task names differ, or golds stand outside the label list.
    """
    named, gold_outputs = read_golds(golds)
    answered, predicted = read_golds(predictions)
    if task is None and named is None:
        raise UnknownTaskError(f"{golds}: the file names no task: name it with --task")
    if task is None and answered is not None and named is not None and lamp_task(answered) != lamp_task(named):
        raise EvaluationError(
            f"golds and predictions must be of one task, were: {named} and {answered}; name it with --task"
        )
    chosen = lamp_task(task or named or "")
    known = labels or chosen.labels
    if known is not None and chosen.metrics[0] == "accuracy":
        strange = sorted({gold.strip() for gold in gold_outputs.values()} - set(known))
        if strange:
            raise EvaluationError(
                f"{golds}: the golds of {chosen.name} must be among its {len(known)} labels, found: "
                f"{', '.join(map(repr, strange[:5]))}; name the task with --task (the old news task is LaMP_2N) "
                "or all its labels with --labels"
            )
    return evaluate(chosen, gold_outputs, predicted, labels=labels, bootstrap=bootstrap, seed=seed)
