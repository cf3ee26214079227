"""Benchmarks as tasks of Inspect: one method on one benchmark, answered by Inspect's model.

::

    inspect eval persona/locomo --model openai/MODEL -T data=locomo10.json -T method=bm25 -T k=5

The arguments are those of `persona.eval.exporting.row.exported_row`, its `options` by their names
(``-T limit=100``). All questions are answered in the model's own words: Inspect's models score no choices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from anyio import CapacityLimiter, to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState

from persona.eval.benchmarks.registry import BENCHMARKS
from persona.eval.exporting.row import ExportedRow, exported_row

_NAMESPACE = "" if "site-packages" in __file__ else "persona/"
"""Inspect puts the package's name before the names here, but not where an installation is editable."""


def _registered(name: str) -> Callable[..., Task]:
    """The task of a benchmark."""

    @task(name=f"{_NAMESPACE}{name}")
    def personal(
        data: str,
        method: str,
        k: int = 10,
        control: str | None = None,
        tokenizer: str | None = None,
        judge: str | None = None,
        **options: Any,
    ) -> Task:
        arguments = {"name": name, "data": data, "method": method, "k": k, "control": control, "options": options}
        given = json.dumps({**arguments, "tokenizer": tokenizer, "judge": judge})
        row = _row(given)
        return Task(
            dataset=MemoryDataset(
                [
                    Sample(
                        row.requests[id_].prompt,
                        id=id_,
                        target=question.gold or "",
                        metadata={"user_id": question.user_id, "kind": question.kind},
                    )
                    for id_, question in row.questions.items()
                ],
                name=f"{name}: {row.name}",
            ),
            scorer=personal_scores(given),
            metrics=[all_metrics(given)],
            config=GenerateConfig(max_tokens=row.max_new_tokens, temperature=0),
            metadata=dict(row.about),
        )

    return personal


@lru_cache(maxsize=4)
def _row(given: str) -> ExportedRow:
    """The row of some arguments, as JSON: a log has them, so that `inspect score` can score it again."""
    return exported_row(**json.loads(given))


@metric(name=f"{_NAMESPACE}all_metrics")
def all_metrics(given: str) -> Metric:
    """All metrics of a row over all answers, those included that are no means of single scores."""

    def measured(scores: list[SampleScore]) -> Value:
        if not scores:  # Inspect asks before the first answer is there.
            return {each.name: float("nan") for each in _row(given).benchmark.metrics}
        return {**_row(given).values([(str(each.sample_id), each.score.answer or "") for each in scores])}

    return measured


@scorer(metrics=[], name=f"{_NAMESPACE}personal_scores")
def personal_scores(given: str) -> Scorer:
    """The metrics of single answers."""
    one = CapacityLimiter(1)

    async def score(state: TaskState, target: Target) -> Score:
        row, answer = _row(given), _row(given).answer(state.output.completion)
        values = await to_thread.run_sync(row.values, [(str(state.sample_id), answer)], limiter=one)
        return Score(value={**values}, answer=answer)

    return score


TASKS = {name: _registered(name) for name in BENCHMARKS}
"""By the names of the benchmarks."""
