"""How often a judge is wrong, and scores that allow for it.

A judge that passes a share ``a`` of wrong answers and fails a share ``r`` of right ones reports ``p = t (1 - r) +
(1 - t) a`` where ``t`` is right, so ``t = (p - a) / (1 - a - r)`` (Rogan and Gladen, 1978). Both rates are measured on
few answers: each resample of the users draws them anew from what their counts leave open, ``Beta(errors + 1/2,
others + 1/2)``, so that the interval carries the users' luck and the check's.

>>> round(Rates(passed=20, wrong=100, failed=5, golds=100).corrected(0.5), 6)
0.4
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from os import PathLike

import numpy as np

from persona.errors import EvaluationError
from persona.eval.benchmarks.reading import read_json
from persona.eval.metrics import Array, Metric

CORRECTED = " corrected"
"""Ends the name of a metric that allows for a judge's errors."""

_LEAST_POWER = 1e-3
"""The least difference between how often right and wrong answers pass: a draw with less says next to nothing."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a check of a judge counted; undecided verdicts are no passes.

    Attributes:
        passed: how many wrong answers passed.
        wrong: of how many, at least 1.
        failed: how many right answers failed.
        golds: of how many, at least 1.
        seed: of the draws.

    Raises:
        EvaluationError: if the numbers are no such counts.
    """

    passed: int
    wrong: int
    failed: int
    golds: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.passed <= self.wrong and 0 <= self.failed <= self.golds and self.wrong and self.golds):
            raise EvaluationError(f"a judge's rates must be counts of at least one answer each, were: {asdict(self)}")

    @property
    def a(self) -> float:
        """The share of wrong answers that passed."""
        return self.passed / self.wrong

    @property
    def r(self) -> float:
        """The share of right answers that failed."""
        return self.failed / self.golds

    def corrected(self, measured: float) -> float:
        """The share that is right, by the share that passed. It may lie outside of 0 to 1.

        Raises:
            EvaluationError: if the judge passes wrong answers as often as right ones, and so says nothing.
        """
        power = 1 - self.a - self.r
        if power <= _LEAST_POWER:
            raise EvaluationError(
                f"the judge passes {self.a:.0%} of the wrong answers and {1 - self.r:.0%} of the right ones: its "
                "scores say nothing, take another one"
            )
        return (measured - self.a) / power

    def redrawn(self, measured: Array) -> Array:
        """The same for resampled shares, with rates drawn anew for each resample.  # (systems, resamples)"""
        generator = np.random.default_rng(self.seed)
        resamples = measured.shape[-1]
        a = generator.beta(self.passed + 0.5, self.wrong - self.passed + 0.5, resamples)
        r = generator.beta(self.failed + 0.5, self.golds - self.failed + 0.5, resamples)
        corrected: Array = (measured - a) / np.maximum(1 - a - r, _LEAST_POWER)
        return corrected

    @classmethod
    def read(cls, path: str | PathLike[str], prompt: str) -> Rates:
        """Those of one prompt in the ``results.json`` of a judge's check.

        Raises:
            DataFormatError: if the file is no such results, or the prompt was not checked.
        """
        whole = read_json(path)
        if not isinstance(whole.value, Mapping) or "rates" not in whole.value:
            whole.refuse("the file must be the results.json of `persona eval judge-check`")
        counts = whole["rates"][prompt]
        try:
            return cls(*(counts[name].number for name in ("passed", "wrong", "failed", "golds")))
        except EvaluationError as error:
            counts.refuse(str(error))


def allowing_for(metric: Metric, rates: Rates | None) -> tuple[Metric, ...]:
    """A judged metric as measured, and behind it the same corrected for the judge's errors, where they are known."""
    if rates is None:
        return (metric,)
    return metric, replace(metric, name=f"{metric.name}{CORRECTED}", correction=rates)
