"""Methods: what is evaluated. A method is a name and a `Personalizer`, the same one that would serve.

    Method("bm25", (Personalizer(llm, store, [RecordsChannel(k=4)]),), k=4)
    Method("mine", tuple(partial(train, seed=seed) for seed in (0, 1)))

A run that is a function learns from the benchmark's training split. The methods that persona knows by name are made in
`persona.eval.lamp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.benchmark import Benchmark
from persona.personalizer import Personalizer
from persona.records import Profile

Run = Personalizer | Callable[[Benchmark], Personalizer]
"""A personalizer, or what makes one from the training split of a benchmark."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A way to answer all questions.

    Attributes:
        name: e.g. ``"bm25"``.
        runs: one for each seed of what was trained, else one.
        k: records asked for, for the report; 0 where there are none.
        without_user: the same trained without any user, or with only what all users share: what the gain of this one is
            measured against (`persona.eval.controls.TrainedWithoutUser`).
        control: name of the control that this is; None for the method itself.
        parts: what decides the answers, for the report: e.g. the fingerprint of each seed's user embedder.
        trains_per_user: whether something is trained for each single profile, so that no training questions are asked.
        way: how questions with choices are answered, where the same is run in several ways; empty where it is not.

    Raises:
        InvalidOptionError: if there is no run, or something else than a run.
    """

    name: str
    runs: tuple[Run, ...] = field(repr=False)
    k: int = 0
    without_user: Method | None = field(default=None, repr=False)
    control: str | None = None
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    trains_per_user: bool = False
    way: str = ""

    def __post_init__(self) -> None:
        if not self.runs or not all(isinstance(run, Personalizer) or callable(run) for run in self.runs):
            raise InvalidOptionError(
                f"the runs of the method {self.name!r} must be personalizers, or functions from the training split to "
                f"one, were: {self.runs!r:.80}"
            )
        if self.without_user is not None:
            if self.without_user.label == self.label:
                raise InvalidOptionError(
                    f"the method {self.label!r} and the one without user must differ in name or control: give that one "
                    "`control='trained without user'`"
                )
            if len(self.runs) % len(self.without_user.runs):
                raise InvalidOptionError(
                    f"the {len(self.runs)} runs of {self.label!r} cannot be paired with "
                    f"{len(self.without_user.runs)} without user: give as many, or one"
                )

    @property
    def label(self) -> str:
        """A name for tables and files, e.g. ``"bm25 k=4, other user"``."""
        return row_name(self.name, self.k, self.way, self.control)

    @property
    def personalizers(self) -> tuple[Personalizer, ...]:
        """The runs, once they are made (`made`)."""
        return tuple(run for run in self.runs if isinstance(run, Personalizer))

    @property
    def personal(self) -> bool:
        """False if it sends nothing but the prompt."""
        return any(personalizer.channels for personalizer in self.personalizers)

    def answering(self, way: str) -> Method:
        """This method, and the one without user, with questions with choices answered in that way (`Method.way`)."""
        without = None if self.without_user is None else self.without_user.answering(way)
        runs = tuple(run.answering(way) for run in self.personalizers)
        return replace(self, runs=runs, without_user=without, way=way)

    def made(self, benchmark: Benchmark) -> Method:
        """This method, and the one without user, with every run a personalizer.

        Raises:
            EvaluationError: if a run is to be made from a training split, and the benchmark has none.
        """
        without = None if self.without_user is None else self.without_user.made(benchmark)
        if len(self.personalizers) == len(self.runs):
            return self if without is self.without_user else replace(self, without_user=without)
        training = benchmark.training
        if training is None:
            raise EvaluationError(f"the method {self.name!r} learns from a training split, and the benchmark has none")
        runs = tuple(run if isinstance(run, Personalizer) else run(training) for run in self.runs)
        return replace(self, runs=runs, without_user=without)


def row_name(method: str, k: int, way: str, control: str | None) -> str:
    """What a method or a control of it is called in tables and files, e.g. ``"bm25 k=4, likelihood, other user"``."""
    return ", ".join(filter(None, (f"{method} k={k}" if k else method, way, control)))


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A method and the profile that it sees with each question: the user's own, or in a control another one."""

    method: Method
    profiles: tuple[Profile, ...] = field(repr=False)


def as_methods(methods: Mapping[str, Run] | Iterable[Method]) -> list[Method]:
    """Methods from a mapping of names to runs, or as they are."""
    return [Method(name, (run,)) for name, run in methods.items()] if isinstance(methods, Mapping) else list(methods)
