"""The names of benchmarks: here a name becomes questions that are read from the user's own files.

::

    load_benchmark("locomo", "locomo10.json").questions[0].kind   # "temporal"

No data come with persona. Each class says where its authors publish them and under which licence; a page of the
documentation says what each measures, and its traps (docs/benchmarks.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError, UnknownPartError
from persona.eval.benchmark import Benchmark
from persona.eval.judging.judge import Judge

BENCHMARKS: Mapping[str, str] = {
    "longlamp": "profiles.longlamp:LongLamp",
    "lamp-qa": "profiles.lamp_qa:LampQa",
    "rpeval": "profiles.rpeval:RpEval",
    "bespoke": "profiles.bespoke:Bespoke",
    "probes": "profiles.probes:Probes",
    "locomo": "conversations.locomo:Locomo",
    "prefeval": "conversations.prefeval:PrefEval",
    "longmemeval": "conversations.longmemeval:LongMemEval",
    "personamem": "conversations.personamem:PersonaMem",
    "personamem-v3": "conversations.personamem_v3:PersonaMem3",
}
"""The class of each benchmark that is read from files, as ``module:name``.

A class has `Options`, a frozen dataclass; `read`, a class method of a path and the fields of `Options`; and `source`:
how its data are had.
"""


def benchmark_class(name: str) -> Any:
    """The class of a benchmark.

    Raises:
        UnknownPartError: if there is none of that name.
    """
    if name not in BENCHMARKS:
        raise UnknownPartError(f"a benchmark must be one of {', '.join(BENCHMARKS)}, was: {name!r}")
    module, _, kind = BENCHMARKS[name].partition(":")
    return getattr(import_module(f"persona.eval.benchmarks.{module}"), kind)


def load_benchmark(name: str, path: str | PathLike[str], *, judges: Sequence[Judge] = (), **options: Any) -> Benchmark:
    """The questions of a benchmark.

    Args:
        name: one of `BENCHMARKS`.
        path: its file or folder, in the layout in which it is published.
        judges: who judges its answers, where they are judged.
        **options: fields of its `Options`.

    Raises:
        UnknownPartError: if there is no benchmark of that name.
        InvalidOptionError: if it has no such option, or a value is out of range.
        DataFormatError: if its files cannot be read; the message names the place.
    """
    kind = benchmark_class(name)
    if not Path(path).exists():
        licence = f" ({kind.licence}{'' if kind.commercial else ', no commercial use'})" if kind.licence else ""
        raise DataFormatError(f"there is no such file or folder; {kind.source}{licence}", source=fspath(path))
    known = [each.name for each in fields(kind.Options)]
    for option in options:
        if option not in known:
            raise InvalidOptionError(f"{name} has the options {', '.join(known) or 'none'}, was given: {option!r}")
    try:
        benchmark = cast(Benchmark, kind.read(path, **options))
    except InvalidUserIdError as error:
        raise DataFormatError(str(error), source=fspath(path)) from None
    counted = Counter(question.id for question in benchmark.questions)
    if (twice := next((name for name, count in counted.items() if count > 1), None)) is not None:
        raise DataFormatError(f"each question must have an id of its own, two have {twice!r:.80}", source=fspath(path))
    return benchmark.judged_by(judges) if judges else benchmark
