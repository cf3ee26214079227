"""Evaluation: does what is known of a user help? Methods answer benchmarks, beside controls that can prove they do not.

>>> from persona.eval import LampBenchmark, evaluate
>>> report = evaluate(LampBenchmark.read("LaMP_3"), {"none": plain, "mine": personalizer})  # doctest: +SKIP

The names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from persona.lazy import lazy

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

_MODULES = {
    "benchmark": ("Benchmark", "Question"),
    "benchmarks.lamp": ("LampBenchmark",),
    "benchmarks.named": ("MethodOptions", "evaluate_benchmark"),
    "benchmarks.registry": ("load_benchmark",),
    "controls": ("Control", "EmptyHistory", "OtherUser", "TrainedWithoutUser"),
    "lamp": ("evaluate_lamp",),
    "methods": ("Method",),
    "options": ("EvaluationOptions", "LampOptions"),
    "report": ("Report",),
    "run": ("evaluate",),
}

__all__ = sorted(name for names in _MODULES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _MODULES)
