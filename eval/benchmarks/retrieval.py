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

Each is the mean over the questions that name evidence; the others are left out. All but recall are taken at the largest
k. Differences are those in recall at the largest k, to the first retriever. ``official recall@k`` is the published
one of a benchmark with a method `official_recall`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.bootstrap import Bootstrap
from persona.eval.metrics import Metric, Samples, mean_of_sums
from persona.eval.report import OFFICIAL, Report, Row
from persona.eval.results.samples import column, unlabelled
from persona.eval.results.scoring import by_kind, corrected
from persona.protocols import Retriever
from persona.records import ScoredRecord


def evaluate_retrieval(
    benchmark: Benchmark,
    retrievers: Mapping[str, Retriever],
    ks: Sequence[int] = (1, 5, 10),
    *,
    resamples: int = 2000,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Report:
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
    ks = tuple(sorted(set(ks), reverse=True))
    questions = [question for question in benchmark.questions if question.evidence]
    if not questions:
        raise EvaluationError(f"no question of {benchmark.name} names evidence: there is nothing to find")
    official = getattr(benchmark, "official_recall", None)
    asked = list(benchmark.questions) if official is not None else questions
    place = [index for index, question in enumerate(asked) if question.evidence]
    draw = partial(Bootstrap, resamples=resamples, seed=seed)
    of_found, of_asked = (draw([each.user_id for each in some]) for some in (questions, asked))
    rows: list[Row] = []
    compared = _metric(f"recall@{ks[0]}")
    for name, retriever in retrievers.items():
        begun = time.perf_counter()
        found = retriever.retrieve_batch([each.profile for each in asked], [each.query for each in asked], ks[0])
        spent = 1000 * (time.perf_counter() - begun) / len(asked)
        samples = _samples(questions, [found[index] for index in place], ks)
        scores = {measure: of_found.interval(_metric(measure), samples) for measure in samples}
        if official is not None:
            for k in ks:
                recall = [official(each, _ids(some[:k])) for each, some in zip(asked, found, strict=True)]
                scores[f"{OFFICIAL}recall@{k}"] = of_asked.mean(recall)
        apart = of_found.paired(compared, samples, rows[0].samples) if rows else None
        kinds = by_kind(compared, samples, questions, draw)
        rows.append(Row(name, 0, None, scores, apart, kinds=kinds, milliseconds=spent, samples=samples))
    return Report(
        benchmark=benchmark.name,
        questions=len(questions),
        users=len({question.user_id for question in questions}),
        llm="",
        config={"ks": ks, **(config or {})},
        rows=corrected(rows),
        data=data_hash(benchmark.questions),
    )


def _samples(questions: Sequence[Question], found: Sequence[tuple[ScoredRecord, ...]], ks: Sequence[int]) -> Samples:
    """The measures of each question, by their names: recall at each k, the others at the largest."""
    values: dict[str, list[float]] = {}
    for question, records in zip(questions, found, strict=True):
        for k in ks:
            for name, value in measures(question.evidence, _ids(records[:k]), k).items():
                if name == "recall" or k == ks[0]:
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
