"""Benchmarks as tasks of lm-evaluation-harness: one method on one benchmark, answered by the harness's model.

::

    lm_eval run --model hf --model_args pretrained=FOLDER --apply_chat_template --include_path TASKS \
        --tasks persona_locomo --metadata '{"data": "locomo10.json", "method": "bm25", "k": 5}'

`TASKS` is that of `persona.eval.exporting`. What ``--metadata`` takes are the arguments of
`persona.eval.exporting.row.exported_row`; the tokenizer is by default that of ``pretrained``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from persona.errors import InvalidOptionError
from persona.eval.exporting.row import ExportedRow, exported_row
from persona.llm.answers.choices import chosen
from persona.protocols import Choices

_PREFIX = "persona_"


class OwnScore(float):
    """The score of one answer, which remembers the answer: metrics are not always means of single scores.

    Attributes:
        answered: the question's id, and the answer.
    """

    answered: tuple[str, str]

    @classmethod
    def of(cls, value: float, id_: str, answer: str) -> OwnScore:
        """The score of `answer` to a question."""
        made = cls(value)
        made.answered = id_, answer
        return made


class PersonalTask(ConfigurableTask):  # type: ignore[misc]
    """A row of `persona eval`.

    Questions with choices are answered by likelihood, the end of the answer included where the tokenizer is known, as
    `persona eval` does; with ``"answers": "generate"`` in the model's own words, as all others.

    Args:
        config: of the task's YAML file; `metadata` has the arguments.

    Raises:
        InvalidOptionError: if an argument is missing or not as it should be.
        PersonaError: as `exported_row`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        metadata = config.get("metadata") or {}
        known = signature(exported_row).parameters
        given = {"tokenizer": metadata.get("pretrained"), **{key: metadata[key] for key in known if key in metadata}}
        if not {"data", "method"} <= set(given):
            raise InvalidOptionError(
                'a task of persona needs its data and a method: --metadata \'{"data": "FILE", "method": "bm25"}\''
            )
        name = config["task"].removeprefix(_PREFIX).replace("_", "-")
        self.row: ExportedRow = exported_row(**{**given, "name": name})
        self.by_choice = dict(given.get("options") or {}).get("answers") != "generate"
        docs = [
            {"id": id_, "prompt": request.prompt, "gold": self.row.questions[id_].gold}
            for id_, request in self.row.requests.items()
        ]
        super().__init__(
            config={
                "task": config["task"],
                "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": lambda doc: doc["prompt"],
                "doc_to_target": lambda doc: doc["gold"],
                "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": self.row.max_new_tokens},
                "metric_list": [],
                "metadata": {**metadata, "persona": dict(self.row.about)},
            }
        )

    def build_all_requests(self, **given: Any) -> None:
        """Never from the cache of requests, whose names do not tell one method from another."""
        super().build_all_requests(**{**given, "cache_requests": False})

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **given: Any) -> Any:
        """The request.

        Raises:
            InvalidOptionError: if examples are wanted: they would show one user's records with another's question.
        """
        if num_fewshot:
            raise InvalidOptionError(f"a personal request takes no examples of other users, was: {num_fewshot}")
        return super().fewshot_context(doc, num_fewshot, **given)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **given: Any) -> list[Instance]:
        """One for each choice, or one for the answer in the model's own words."""
        about = {"doc": doc, "metadata": given["metadata"]}
        if (choices := self._choices(doc)) is None:
            return [Instance("generate_until", arguments=(ctx, dict(self.config.generation_kwargs)), idx=0, **about)]
        return [
            Instance("loglikelihood", arguments=(ctx, text + self.row.end), idx=index, **about)
            for index, text in enumerate(choices.texts)
        ]

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, OwnScore]:
        """The metrics of one answer."""
        choices, id_ = self._choices(doc), doc["id"]
        answer = self.row.answer(results[0]) if choices is None else chosen([score for score, _ in results], choices)
        return {name: OwnScore.of(value, id_, answer) for name, value in self.row.values([(id_, answer)]).items()}

    def aggregation(self) -> dict[str, Callable[[Sequence[OwnScore]], float]]:
        """Each metric over all answers."""
        return {metric.name: partial(self._value, metric.name) for metric in self.row.benchmark.metrics}

    def higher_is_better(self) -> dict[str, bool]:
        """Of each metric."""
        return {metric.name: metric.higher_is_better for metric in self.row.benchmark.metrics}

    def _value(self, metric: str, scores: Sequence[OwnScore]) -> float:
        return self.row.values([score.answered for score in scores])[metric]

    def _choices(self, doc: dict[str, Any]) -> Choices | None:
        return self.row.requests[doc["id"]].choices if self.by_choice else None
