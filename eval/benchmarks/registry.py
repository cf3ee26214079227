"""The names of benchmarks: here a name becomes questions that are read from the user's own files.

::

    load_benchmark("locomo", "locomo10.json").questions[0].kind   # "temporal"

No data come with persona. Each entry says where its authors publish them and under which licence; a page of the
documentation says what each measures, and its traps (docs/benchmarks.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError, UnknownPartError
from persona.eval.benchmark import Benchmark
from persona.eval.judging.judge import Judge


@dataclass(frozen=True, slots=True)
class Entry:
    """A benchmark that is read from files.

    Attributes:
        path: its class as ``module:name``. The class has `Options`, a frozen dataclass, and `read`, a class method of
            a path and the fields of `Options`.
        about: what it asks, in a few words.
        source: how its data are had.
        licence: theirs.
    """

    path: str
    about: str
    source: str
    licence: str

    def load(self) -> Any:
        """The class."""
        module, _, name = self.path.partition(":")
        return getattr(import_module(f"persona.eval.benchmarks.{module}"), name)


BENCHMARKS: Mapping[str, Entry] = {
    "longlamp": Entry(
        "profiles.longlamp:LongLamp",
        "abstracts, reviews, posts and e-mails in a user's own manner",
        "save LongLaMP/LongLaMP of the Hugging Face hub, its folders TASK_SETTING; e-mails need the Avocado corpus",
        "none is named for the whole",
    ),
    "lamp-qa": Entry(
        "profiles.lamp_qa:LampQa",
        "answers to questions of people, judged by what matters to them",
        "save alireza7/LaMP-QA of the Hugging Face hub, its folders CATEGORY",
        "see the data's own page",
    ),
    "rpeval": Entry(
        "profiles.rpeval:RpEval",
        "when not to personalise (in Chinese)",
        "get benchmark_dataset of github.com/XueyangFeng/RPEval",
        "CC-BY-NC-4.0, no commercial use",
    ),
    "bespoke": Entry(
        "profiles.bespoke:Bespoke",
        "answers to people's searches, judged by their own rubrics",
        "save yonsei-dli/BESPOKE of the Hugging Face hub",
        "MIT",
    ),
    "probes": Entry(
        "profiles.probes:Probes",
        "what of a history a soft prompt carries: probes made from your own records",
        "give histories in any form that persona reads",
        "that of your records",
    ),
    "locomo": Entry(
        "conversations.locomo:Locomo",
        "questions about long conversations of two people, some of them about what was never said",
        "get data/locomo10.json of github.com/snap-research/locomo",
        "CC-BY-NC-4.0, no commercial use",
    ),
    "prefeval": Entry(
        "conversations.prefeval:PrefEval",
        "whether an answer heeds a preference that was stated, or shown, some turns ago",
        "get the folder benchmark_dataset of github.com/amazon-science/PrefEval",
        "CC-BY-NC-4.0, no commercial use",
    ),
    "longmemeval": Entry(
        "conversations.longmemeval:LongMemEval",
        "what an assistant remembers of many sessions with its user",
        "get xiaowu0162/longmemeval-cleaned of the Hugging Face hub, longmemeval_s, _m or _oracle",
        "MIT",
    ),
    "personamem": Entry(
        "conversations.personamem:PersonaMem",
        "which of four answers fits a person as of now, by long conversations",
        "get bowen-upenn/PersonaMem (version 1) or PersonaMem-v2 of the Hugging Face hub, the whole folder",
        "MIT; version 2 CC-BY-4.0",
    ),
    "personamem-v3": Entry(
        "conversations.personamem_v3:PersonaMem3",
        "what a user of five apps turns to next, and which interests an answer must leave alone",
        "get bowen-upenn/PersonaMem-v3 of the Hugging Face hub, the folders backend/USER with test.json",
        "CC-BY-NC-4.0, no commercial use",
    ),
}
"""All benchmarks by name."""


def benchmark_entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        UnknownPartError: if there is none.
    """
    if name not in BENCHMARKS:
        raise UnknownPartError(f"a benchmark must be one of {', '.join(BENCHMARKS)}, was: {name!r}")
    return BENCHMARKS[name]


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
    entry = benchmark_entry(name)
    if not Path(path).exists():
        raise DataFormatError(f"there is no such file or folder; {entry.source} ({entry.licence})", source=fspath(path))
    kind = entry.load()
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
