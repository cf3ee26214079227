"""The people of the demonstration are asked: plain, with their own history, and with somebody else's.

    report = ask_people(load_llm("smollm2"), out=Path("runs/demo/people"))
    print(report.count("better"), "of", report.requests, "better,", report.count("worse"), "worse")

Each trade is a benchmark of its own (`TradeBenchmark`) and goes through `persona.eval.run.evaluate`, so the answers
are those of the `Personalizer` that serves. Somebody else is the other person of the same trade.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from persona.channels import Ask
from persona.eval.benchmarks.baselines import NEAREST_RECORD
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.controls import OTHER_USER, OtherUser
from persona.eval.demo.people import LEAST_DIFFERENCE, HeldOut, Person, Trade, trades
from persona.eval.methods import Method
from persona.eval.options import NONE, EvaluationOptions
from persona.eval.report import Report
from persona.eval.run import Progress, evaluate
from persona.personalizer import Personalizer
from persona.prompts import PROMPT, TURNS, PromptBuilder
from persona.protocols import Choices, GenerationOptions, LanguageModel
from persona.records import ScoredRecord
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.registry import make_retriever
from persona.store.profile_store import ProfileStore

Change = Literal["better", "worse", "same"]

RETRIEVER, K = "bm25", 4
"""Which records go with a request, and how many."""

PROFILES = "profiles.db"
"""The store with all histories, for ``persona ask --store``."""

OPTIONS = GenerationOptions(max_new_tokens=24, stop=("\n",))
"""Headlines and subject lines are one short line, whoever is asked."""


class TradeBenchmark(LampBenchmark):
    """The requests of a trade in plain words, scored as its LaMP task is.

    Args:
        trade: whose.
    """

    def __init__(self, trade: Trade) -> None:
        super().__init__(trade.split())
        self.name = trade.name
        self.questions = tuple(replace(each, prompt=trade.request(each.query)) for each in self.questions)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and what the task's first metric says of it alone: right or wrong, points off, or ROUGE-1."""

    text: str
    value: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and its answers.

    Attributes:
        question: what was asked.
        gold: what the person would answer.
        records: the records behind `own`, best first.
        plain: the LLM's answer without a history.
        own: its answer with the person's history.
        other: its answer with somebody else's.
        change: of `own` against `plain`.
    """

    question: HeldOut
    gold: str
    records: tuple[ScoredRecord, ...]
    plain: Answer
    own: Answer
    other: Answer
    change: Change

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(replace(self, records=())), "records": [each.as_dict() for each in self.records]}


@dataclass(frozen=True, slots=True)
class PersonReport:
    """What one person got.

    Attributes:
        trade: the person's.
        person: who.
        metric: the task's first one.
        scores: on all requests: ``plain``, ``own``, ``other``, and ``copied``, of the target of the nearest record.
        asked: the requests.
    """

    trade: Trade
    person: Person
    metric: str
    scores: Mapping[str, float]
    asked: tuple[Asked, ...]

    def count(self, change: Change) -> int:
        """How many requests came out so."""
        return sum(each.change == change for each in self.asked)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the history, ready for JSON."""
        return {
            "trade": self.trade.name,
            "user_id": self.person.user_id,
            "task": self.trade.task.name,
            "metric": self.metric,
            "scores": self.scores,
            "better": self.count("better"),
            "worse": self.count("worse"),
            "asked": [each.as_dict() for each in self.asked],
        }


@dataclass(frozen=True)
class PeopleReport:
    """What the people got.

    Attributes:
        people: the five.
        others: the other person of each trade, with the requests put to them.
        llm: the LLM's fingerprint.
        seconds: how long it took.
    """

    people: tuple[PersonReport, ...]
    others: tuple[PersonReport, ...]
    llm: str
    seconds: float

    @property
    def requests(self) -> int:
        """How many were put to the five."""
        return sum(len(each.asked) for each in self.people)

    def count(self, change: Change) -> int:
        """How many of them came out so."""
        return sum(each.count(change) for each in self.people)

    @cached_property
    def opening(self) -> tuple[PersonReport, Asked]:
        """The person and request that were chosen before any answer was seen."""
        return next((person, each) for person in self.people for each in person.asked if each.question.opening)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "llm": self.llm,
            "retriever": RETRIEVER,
            "k": K,
            "seconds": self.seconds,
            "requests": self.requests,
            "better": self.count("better"),
            "worse": self.count("worse"),
            "least_difference": LEAST_DIFFERENCE,
            "people": [each.as_dict() for each in self.people],
            "others": [each.as_dict() for each in self.others],
        }


def ask_people(
    llm: LanguageModel,
    *,
    out: Path,
    chosen: Sequence[Trade] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> PeopleReport:
    """Put all requests to an LLM.

    Args:
        llm: the frozen LLM.
        out: folder for the store, and for answers and results by trade; an interrupted run goes on from there.
        chosen: the trades; None takes all.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        GenerationError: if the LLM does not answer.
    """
    begun = time.perf_counter()
    chosen = trades() if chosen is None else chosen
    channel = RecordsChannel(make_retriever(RETRIEVER), K)
    builder = PromptBuilder.of(llm, placement=TURNS if getattr(llm, "chats", False) else PROMPT)
    people, others = [], []
    out.mkdir(parents=True, exist_ok=True)
    with ProfileStore(f"sqlite:///{out / PROFILES}") as store:
        both = [person for trade in chosen for person in (trade.person, trade.other)]
        store.upsert((person.user_id, record) for person in both for record in person.profile)
        for trade in chosen:
            benchmark = TradeBenchmark(trade)
            plain = Personalizer(llm, store, (), options=OPTIONS)
            personal = Personalizer(llm, store, [channel], builder=builder, options=OPTIONS)
            report = evaluate(
                benchmark,
                [Method(NONE, (plain,)), Method(RETRIEVER, (personal,), K)],
                [OtherUser()],
                options=EvaluationOptions(resamples=1, calibration="none"),
                out=out / trade.name,
                progress=partial(named_stage, progress, trade.name),
            )
            people.append(_person(trade, trade.person, benchmark, report, personal))
            others.append(_person(trade, trade.other, benchmark, report, personal))
    return PeopleReport(tuple(people), tuple(others), llm.fingerprint, time.perf_counter() - begun)


def named_stage(progress: Progress, part: str, stage: str, done: int, total: int) -> None:
    """Report a stage of one part of the demonstration."""
    progress(f"{part} {stage}", done, total)


def _person(
    trade: Trade, person: Person, benchmark: TradeBenchmark, report: Report, personal: Personalizer
) -> PersonReport:
    """One person's part of an evaluation."""
    questions = [each for each in benchmark.questions if each.user_id == person.user_id]
    metric = benchmark.metrics[0]
    own = f"{RETRIEVER} k={K}"
    answers, totals = {}, {}
    rows = {"plain": NONE, "own": own, "other": f"{own}, {OTHER_USER}", "copied": NEAREST_RECORD}
    for name, row in rows.items():
        texts = [report[row].predictions[question.id] for question in questions]
        samples = benchmark.score(questions, texts)
        totals[name] = metric.value(samples)
        values = metric.recorded(samples)[:, 0].tolist()
        answers[name] = [Answer(text, value) for text, value in zip(texts, values, strict=True)]
    asks = [Ask(each.profile, each.prompt, each.query, Choices.of(each.choices)) for each in questions]
    prepared = personal.prepare(asks)
    asked = []
    for number, question in enumerate(questions):
        before, after, others = (answers[name][number] for name in ("plain", "own", "other"))
        change = changed(before, after, metric.higher_is_better, least=LEAST_DIFFERENCE if trade.labels is None else 0)
        records = prepared[number].generation.records
        asked.append(Asked(trade.questions[number], question.gold or "", records, before, after, others, change))
    return PersonReport(trade, person, metric.name, totals, tuple(asked))


def changed(before: Answer, after: Answer, higher_is_better: bool, least: float) -> Change:
    """Whether `after` is better than `before`, by at least `least`."""
    gain = round((after.value - before.value) * (1 if higher_is_better else -1), 9)
    if not gain or abs(gain) < least:
        return "same"
    return "better" if gain > 0 else "worse"
