"""Retrieval by itself: how much of the evidence is among the first k records. No LLM is asked.

::

    report = evaluate_retrieval(benchmark, {"bm25": make_retriever("bm25")}, ks=(5, 10))
    report["bm25"].scores["recall@10"].value   # e.g. 0.54

===============  =======================================================================================================
``recall@k``     share of a question's evidence among the first k records
``all@k``        whether all of it is there
``any@k``        whether any of it is
``nDCG@k``       gain of the evidence at its ranks, each discounted by the logarithm of its rank plus one, of the best
===============  =======================================================================================================

Each is the mean over the questions that name evidence; the others are left out. ``official recall@k`` is the published
one of a benchmark with a method `official_recall`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.bootstrap import Bootstrap, Interval, PairedDifference, holm
from persona.eval.metrics import Metric, Samples, mean_of_sums
from persona.eval.report import OFFICIAL, interval_cell, markdown, table
from persona.eval.results.environment import environment
from persona.eval.results.sums import column, unlabelled
from persona.protocols import Retriever
from persona.records import ScoredRecord
from persona.version import __version__

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class RetrieverRow:
    """One retriever.

    Attributes:
        name: its name.
        scores: measure -> value with its interval.
        difference: recall at the largest k, this row minus the first one, paired over users; None for the first.
        corrected: the p-value of it by Holm's correction; None where two retrievers are compared.
        kinds: recall at the largest k by the kind of questions.
        milliseconds: mean time of a question, what is made once for all (an index, vectors) included.
    """

    name: str
    scores: Mapping[str, Interval]
    difference: PairedDifference | None
    corrected: float | None
    kinds: Mapping[str, Interval]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What retrievers found.

    Attributes:
        benchmark: its name.
        questions: how many name evidence.
        users: whose they are.
        ks: how many records were looked at.
        data: hash of questions, profiles and golds.
        rows: one for each retriever.
        config: what decides the numbers besides.
    """

    benchmark: str
    questions: int
    users: int
    ks: tuple[int, ...]
    data: str
    rows: tuple[RetrieverRow, ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> RetrieverRow:
        """The row of that name.

        Raises:
            KeyError: if there is none.
        """
        return {row.name: row for row in self.rows}[name]

    def as_dict(self) -> dict[str, Any]:
        """Itself, ready for JSON."""
        return {"persona": __version__, "environment": environment(), **asdict(self)}

    def cells(self) -> list[list[str]]:
        """Header and rows as strings."""
        most = max(self.ks)
        shown = [f"recall@{k}" for k in self.ks] + [f"{name}@{most}" for name in ("all", "nDCG")]
        shown += [name for name in self.rows[0].scores if name.startswith(OFFICIAL) and name.endswith(f"@{most}")]
        header = ["retriever", *shown, f"recall@{most} to {self.rows[0].name}", "p (Holm)", "ms a question"]
        rows = []
        for row in self.rows:
            apart = row.difference
            change = "-" if apart is None else f"{apart.difference:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]"
            p_value = "-" if row.corrected is None else f"{row.corrected:.3f}"
            scores = [interval_cell(row.scores[name]) for name in shown]
            rows.append([row.name, *scores, change, p_value, f"{row.milliseconds:.1f}"])
        return [header, *rows]

    def by_kind(self) -> list[list[str]]:
        """Recall by the kind of questions, header and rows as strings; empty for one kind."""
        kinds = list(self.rows[0].kinds)
        rows = [[row.name, *(interval_cell(row.kinds[kind]) for kind in kinds)] for row in self.rows]
        return [[f"recall@{max(self.ks)}", *kinds], *rows] if len(kinds) > 1 else []

    def markdown(self) -> str:
        """The report as a Markdown table."""
        return markdown(self.cells())

    def table(self) -> Table:
        """The report as a `rich` table."""
        return table(
            self.cells(),
            title=f"{self.benchmark}, retrieval: {self.questions} questions with evidence, of {self.users} users",
            caption="intervals: 95 %, bootstrap over users; no LLM was asked",
        )


def evaluate_retrieval(
    benchmark: Benchmark,
    retrievers: Mapping[str, Retriever],
    ks: Sequence[int] = (1, 5, 10),
    *,
    resamples: int = 2000,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> RetrievalReport:
    """How much of the evidence of a benchmark's questions each retriever finds.

    Args:
        benchmark: some of whose questions name evidence.
        retrievers: by name; the others are compared with the first one.
        ks: numbers of records.
        resamples: bootstrap resamples over users.
        seed: of it.
        config: what decides the numbers besides, for the report.

    Raises:
        EvaluationError: if no question names evidence.
        InvalidOptionError: if there is no retriever, or a `k` below 1.
    """
    if not retrievers or not ks or min(ks) < 1:
        raise InvalidOptionError(f"there must be a retriever, and each k at least 1, were: {list(retrievers)}, {ks}")
    ks = tuple(sorted(set(ks)))
    questions = [question for question in benchmark.questions if question.evidence]
    if not questions:
        raise EvaluationError(f"no question of {benchmark.name} names evidence: there is nothing to find")
    official = getattr(benchmark, "official_recall", None)
    asked = list(benchmark.questions) if official is not None else questions
    place = [index for index, question in enumerate(asked) if question.evidence]
    scored: dict[str, tuple[Samples, Samples, float]] = {}
    for name, retriever in retrievers.items():
        begun = time.perf_counter()
        profiles, queries = [each.profile for each in asked], [each.query for each in asked]
        found = retriever.retrieve_batch(profiles, queries, max(ks))
        spent = 1000 * (time.perf_counter() - begun) / len(asked)
        samples = _samples(questions, [found[index] for index in place], ks)
        published: Samples = {}
        if official is not None:
            pairs = list(zip(asked, found, strict=True))
            published = {
                f"{OFFICIAL}recall@{k}": column([official(each, _ids(some[:k])) for each, some in pairs]) for k in ks
            }
        scored[name] = (samples, published, spent)
    bootstraps = [
        Bootstrap([each.user_id for each in some], resamples=resamples, seed=seed) for some in (questions, asked)
    ]
    rows = _rows(scored, questions, bootstraps, _metric(f"recall@{max(ks)}"))
    users = len({question.user_id for question in questions})
    data = data_hash(benchmark.questions)
    return RetrievalReport(benchmark.name, len(questions), users, ks, data, rows, config or {})


def _rows(
    scored: Mapping[str, tuple[Samples, Samples, float]],
    questions: Sequence[Question],
    bootstraps: Sequence[Bootstrap],
    compared: Metric,
) -> tuple[RetrieverRow, ...]:
    first = next(iter(scored))
    apart = {
        name: bootstraps[0].paired(compared, samples, scored[first][0])
        for name, (samples, _, _) in scored.items()
        if name != first
    }
    corrected = dict(zip(apart, holm([each.p_value for each in apart.values()]), strict=True))
    rows = []
    for name, (samples, published, spent) in scored.items():
        scores = {
            measure: bootstrap.interval(_metric(measure), some)
            for bootstrap, some in zip(bootstraps, (samples, published), strict=True)
            for measure in some
        }
        kinds = _by_kind(compared, samples, questions, bootstraps[0])
        p_value = corrected.get(name) if len(apart) > 1 else None
        rows.append(RetrieverRow(name, scores, apart.get(name), p_value, kinds, spent))
    return tuple(rows)


def _by_kind(metric: Metric, samples: Samples, questions: Sequence[Question], like: Bootstrap) -> dict[str, Interval]:
    found = {}
    for kind in sorted({question.kind for question in questions}):
        where = [index for index, question in enumerate(questions) if question.kind == kind]
        users = [questions[index].user_id for index in where]
        bootstrap = Bootstrap(users, resamples=like.resamples, seed=like.seed)
        found[kind] = bootstrap.interval(metric, {metric.name: metric.recorded(samples)[where]})
    return found


def _samples(
    questions: Sequence[Question], found: Sequence[tuple[ScoredRecord, ...]], ks: Sequence[int]
) -> dict[str, Any]:
    """The measures of each question, by their names.  # (questions, 1) each"""
    values: dict[str, list[float]] = {}
    for question, records in zip(questions, found, strict=True):
        for k in ks:
            for name, value in measures(question.evidence, _ids(records[:k]), k).items():
                values.setdefault(f"{name}@{k}", []).append(value)
    return {name: column(some) for name, some in values.items()}


def measures(evidence: Sequence[str], found: Sequence[str], k: int) -> dict[str, float]:
    """The measures of one question.

    Args:
        evidence: ids of the records that the answer needs, at least one.
        found: ids of the first k records, best first.
        k: how many could be found.
    """
    wanted = set(evidence)
    hits = [each in wanted for each in found]
    gain = sum(1 / np.log2(rank + 1) for rank, hit in enumerate(hits, start=1) if hit)
    best = sum(1 / np.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
    return {
        "recall": sum(hits) / len(wanted),
        "all": float(sum(hits) == len(wanted)),
        "any": float(any(hits)),
        "nDCG": float(gain / best),
    }


def _ids(records: Sequence[ScoredRecord]) -> list[str]:
    return [scored.record.id for scored in records]


def _metric(name: str) -> Metric:
    return Metric(name, True, unlabelled, mean_of_sums)
