"""Evaluation: does what is known of a user help? Methods answer benchmarks, beside controls that can prove they do not.

>>> from persona.eval import LampBenchmark, evaluate
>>> report = evaluate(LampBenchmark.read("LaMP_3"), {"none": plain, "mine": personalizer})  # doctest: +SKIP

The names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persona.eval.benchmark import Benchmark as Benchmark
    from persona.eval.benchmark import Question as Question
    from persona.eval.benchmarks.lamp import LampBenchmark as LampBenchmark
    from persona.eval.benchmarks.named import MethodOptions as MethodOptions
    from persona.eval.benchmarks.named import evaluate_benchmark as evaluate_benchmark
    from persona.eval.benchmarks.registry import load_benchmark as load_benchmark
    from persona.eval.controls import Control as Control
    from persona.eval.controls import EmptyHistory as EmptyHistory
    from persona.eval.controls import OtherUser as OtherUser
    from persona.eval.controls import TrainedWithoutUser as TrainedWithoutUser
    from persona.eval.lamp import evaluate_lamp as evaluate_lamp
    from persona.eval.methods import Method as Method
    from persona.eval.options import EvaluationOptions as EvaluationOptions
    from persona.eval.options import LampOptions as LampOptions
    from persona.eval.report import Report as Report
    from persona.eval.run import evaluate as evaluate

_PLACES = {
    "Benchmark": "benchmark",
    "Control": "controls",
    "EmptyHistory": "controls",
    "EvaluationOptions": "options",
    "LampBenchmark": "benchmarks.lamp",
    "LampOptions": "options",
    "Method": "methods",
    "MethodOptions": "benchmarks.named",
    "OtherUser": "controls",
    "Question": "benchmark",
    "Report": "report",
    "TrainedWithoutUser": "controls",
    "evaluate": "run",
    "evaluate_benchmark": "benchmarks.named",
    "evaluate_lamp": "lamp",
    "load_benchmark": "benchmarks.registry",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    module = _PLACES.get(name)
    if module is None:
        raise AttributeError(f"module 'persona.eval' has no attribute {name!r}")
    return getattr(import_module(f"persona.eval.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
