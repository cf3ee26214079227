"""LaMP as a benchmark: official questions, measures, baselines and files.

benchmark = LampBenchmark.read("LaMP_3", "dev")
evaluate(benchmark, {"none": Personalizer(llm, store, ())})
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path

from persona.errors import EvaluationError, PersonaWarning, UnknownTaskError
from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.baselines import lamp_baselines
from persona.eval.metrics import METRICS, OFFICIAL, LampScores, Samples, rouge_metrics, score_lamp, without_rouge_words
from persona.lamp.prompts import LampWording
from persona.lamp.tasks import LampSplit, lamp_task
from persona.readers import has_split, read_golds, read_split, write_predictions


class LampBenchmark(Benchmark):
    """A split of a LaMP task.

    Args:
        split: questions with their profiles, and golds where there are any.
        folder: where the training split lies, if anywhere.
        rouge_words: one of `persona.eval.metrics.ROUGE_WORDS`.

    Attributes:
        task: the task.
        labels: all labels of the split; None where the answer is free text.
    """

    def __init__(
        self, split: LampSplit, folder: str | PathLike[str] | None = None, *, rouge_words: str = OFFICIAL
    ) -> None:
        self.task, self.labels, self.rouge_words = split.task, split.labels, rouge_words
        self.name = split.task.name
        known = {**METRICS, **rouge_metrics(rouge_words)}
        self.metrics = tuple(known[name] for name in split.task.metrics)
        if "rouge-1" in split.task.metrics:
            _warn_of_scripts((split.golds or {}).values(), rouge_words)
        wording = LampWording(split.task)
        self.questions = tuple(
            Question(
                id=question.id,
                user_id=question.user_id,
                profile=question.profile,
                prompt=question.input,
                query=split.task.query(question.input),
                gold=None if split.golds is None else split.golds[question.id],
                choices=wording.choices(question.input),
                time=question.time,
            )
            for question in split.questions
        )
        self._folder = folder

    @classmethod
    def read(
        cls,
        folder: str | PathLike[str],
        split: str = "dev",
        golds: str | PathLike[str] | None = None,
        *,
        task: str | None = None,
        rouge_words: str = OFFICIAL,
    ) -> LampBenchmark:
        """The split of a LaMP folder; arguments and errors as `persona.readers.read_split`."""
        read = read_split(folder, split, golds, task=task)
        return cls(read, None if split == "train" else folder, rouge_words=rouge_words)

    @cached_property
    def training(self) -> Benchmark | None:
        """The training split in the same folder; None if there is none."""
        if self._folder is None or not has_split(self._folder, "train"):
            return None
        return LampBenchmark(read_split(self._folder, "train", task=self.task.name), rouge_words=self.rouge_words)

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """What the official evaluator records of each answer."""
        golds = {question.id: question.gold or "" for question in questions}
        predictions = {question.id: answer for question, answer in zip(questions, answers, strict=True)}
        scored = score_lamp(self.task, golds, predictions, labels=self.labels, rouge_words=self.rouge_words)
        return scored.samples

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """What can be had from the users' own records without an LLM (`lamp_baselines`)."""
        return lamp_baselines(self.task, questions)

    def save(self, path: Path, answers: Mapping[str, str]) -> None:
        """Write answers as the official evaluator takes them."""
        write_predictions(path, self.task, answers)


def score_files(
    golds: Path,
    predictions: Path,
    *,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    bootstrap: bool = False,
    rouge_words: str = OFFICIAL,
    seed: int = 0,
) -> LampScores:
    """Score a predictions file against a golds file of the official form, as LaMP's own evaluator does, offline.

    Args:
        golds: ``{"task": "LaMP_3", "golds": [{"id": ..., "output": ...}, ...]}``.
        predictions: the same form.
        task: task name; None takes that of the golds.
        labels: all labels of the task, where it does not fix them; None takes the task's own.
        bootstrap: ROUGE as the official median of bootstrap means.
        rouge_words: one of `persona.eval.metrics.ROUGE_WORDS`.
        seed: of that bootstrap.

    Raises:
        DataFormatError: if a file cannot be read.
        UnknownTaskError: if no task is named, or there is none of that name.
        EvaluationError: if the ids or the task names differ, or golds stand outside the label list.
    """
    named, gold_outputs = read_golds(golds)
    answered, predicted = read_golds(predictions)
    if task is None and named is None:
        raise UnknownTaskError(f"{golds}: the file names no task: name it with --set files.task=NAME")
    if task is None and answered is not None and named is not None and lamp_task(answered) != lamp_task(named):
        raise EvaluationError(
            f"golds and predictions must be of one task, were: {named} and {answered}; "
            "name it with --set files.task=NAME"
        )
    chosen = lamp_task(task or named or "")
    if "rouge-1" in chosen.metrics:
        _warn_of_scripts(gold_outputs.values(), rouge_words)
    known = labels or chosen.labels
    if known is not None and chosen.metrics[0] == "accuracy":
        unknown = sorted({gold.strip() for gold in gold_outputs.values()} - set(known))
        if unknown:
            raise EvaluationError(
                f"{golds}: the golds of {chosen.name} must be among its {len(known)} labels, had: "
                f"{', '.join(map(repr, unknown[:5]))}; name the task (--set files.task=NAME; the old news task is "
                "LaMP_2N) or all its labels with --set files.labels=A,B"
            )
    return score_lamp(
        chosen, gold_outputs, predicted, labels=labels, bootstrap=bootstrap, rouge_words=rouge_words, seed=seed
    )


def _warn_of_scripts(golds: Collection[str], rouge_words: str) -> None:
    unread = without_rouge_words(golds) if rouge_words == OFFICIAL else 0
    if unread:
        warnings.warn(
            f"the official ROUGE has no token for {unread} of {len(golds)} golds (it reads a to z and 0 to 9): every "
            "answer to them scores 0; `rouge_words=all-scripts` reads all scripts",
            PersonaWarning,
            stacklevel=3,
        )
