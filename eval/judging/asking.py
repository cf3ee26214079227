"""What the answers of a benchmark are worth by its judges: the names of judged measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from persona.errors import InvalidOptionError
from persona.eval.judging.judge import Judge
from persona.eval.metrics import Array


def named_for(metric: str, judge: Judge, judges: Sequence[Judge]) -> str:
    """What a measure is called by one of several judges: with the judge's prompt, or its name if prompts are alike.

    A single judge adds nothing.
    """
    if len(judges) == 1:
        return metric
    prompts = [each.name.rpartition(" ")[2] for each in judges]
    short = judge.name.rpartition(" ")[2] if len(set(prompts)) == len(prompts) else judge.name
    return f"{metric} by {short}"


def check_judges(judges: Sequence[Judge]) -> tuple[Judge, ...]:
    """The judges, if there are any and they can be told apart.

    Raises:
        InvalidOptionError: if there is none, or two have one name.
    """
    names = [judge.name for judge in judges]
    if not names or len(set(names)) < len(names):
        raise InvalidOptionError(f"there must be judges with different names, were: {', '.join(names) or 'none'}")
    return tuple(judges)


def column(values: Sequence[float]) -> Array:
    """One value for each question, as a metric's record.  # (questions, 1)"""
    return np.array(values, dtype=np.float64)[:, None]
