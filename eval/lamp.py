"""Run methods on a LaMP split and score the answers, always beside yardsticks and controls.

A *row* of the report is one way to answer all questions: a retriever with its k, or ``none``; a user embedder
(``user-embedder``), alone or with retrieved records; a summary (``stats``, ``summary``), likewise; the same with *another
user's* history, which must not help, and for what was trained the same *trained without user*; and the yardsticks,
which need no LLM. A gain counts as personalization only if the right user's history beats none (or the training without
user) and another user's does not.

Answers are kept in ``answers.jsonl`` under a key of LLM, decoding options, prompt and soft prompt, so that a run which
was stopped goes on where it ended, and two rows that send the same request ask once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.adapters import LORA_METHODS, TASK_ADAPTER, Adapters
from persona.eval.answers import Answers, data_hash
from persona.eval.bootstrap import Interval, PairedDifference, bootstrap_interval, paired_bootstrap
from persona.eval.lamp_config import NO_USER, OTHER_USER, USER_EMBEDDER, WITHOUT_USER, LampConfig, Progress
from persona.eval.metrics import METRICS, Samples, evaluate
from persona.eval.plans import make_plans
from persona.eval.soft_prompts import UserEmbedders
from persona.eval.yardsticks import yardsticks
from persona.files import write_atomically
from persona.lamp.tasks import LOWER_IS_BETTER, LampSplit
from persona.llm.checks import check_options
from persona.protocols import GenerationOptions, LanguageModel
from persona.readers import write_predictions
from persona.version import __version__

_LABEL_TOKENS = 16
_TEXT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class LampRow:
    """One way to answer all questions, scored.

    Attributes:
        method: ``none``, a retriever's name, ``user-embedder``, ``vocabulary``, a method of summaries or adapters, one of these
            with `` + `` and a retriever's name, the control ``task adapter``, or a yardstick's.
        k: records asked for; 0 where there are none.
        control: None, `OTHER_USER`, `EMPTY_HISTORY` or `WITHOUT_USER`.
        scores: metric name -> value with its interval; empty where the split has no golds.
        difference: primary metric, this row minus ``none``, paired over users; None for ``none`` itself.
        gain: primary metric, this row minus the row trained without user, or with the task adapter alone, that has the
            same records, paired over users; None where there is none.
        to_other_user: primary metric, this row minus the same with another user's history, paired over users; None
            where that was not run. What another user's history does as well is the task's, not the user's.
        tokens_added: mean tokens that records and soft prompt added to the prompt.
        attention_perplexity: over how many records a user embedder's attention spreads; 0 without one.
        seconds: time the LLM took for all questions of the row, the mean over seeds (0 for yardsticks).
        runs: question id -> answer; one for each seed of what was trained, else one.
    """

    method: str
    k: int
    control: str | None
    scores: Mapping[str, Interval]
    difference: PairedDifference | None
    gain: PairedDifference | None
    to_other_user: PairedDifference | None
    tokens_added: float
    attention_perplexity: float
    seconds: float
    runs: tuple[Mapping[str, str], ...] = field(repr=False)

    @property
    def predictions(self) -> Mapping[str, str]:
        """Question id -> answer, of the first seed."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """A name for tables and files, e.g. ``bm25-lamp k=4, other user``."""
        name = f"{self.method} k={self.k}" if self.k else self.method
        return f"{name}, {self.control}" if self.control else name


@dataclass(frozen=True, slots=True)
class LampReport:
    """What a run found.

    Attributes:
        task: LaMP task name.
        questions: how many were asked.
        users: how many users they belong to.
        llm: the LLM's fingerprint.
        config: what was run.
        rows: methods, controls and yardsticks, in the order run.
        data: hash of questions, profiles and golds: two reports with the same one are of the same data.
        parts: fingerprints of what else took part, one for each seed in the order of `LampRow.runs`: of
            ``task_adapters``, ``user_embedders``, ``user_embedders_without_user``, the ``summarizer`` and the
            ``background`` of lifted words, where there are any.
    """

    task: str
    questions: int
    users: int
    llm: str
    config: LampConfig
    rows: tuple[LampRow, ...]
    data: str = ""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the predictions, ready for JSON."""
        rows = []
        for row in self.rows:
            rows.append(
                {
                    "name": row.name,
                    "method": row.method,
                    "k": row.k,
                    "control": row.control,
                    "scores": {name: asdict(interval) for name, interval in row.scores.items()},
                    "difference_to_none": None if row.difference is None else asdict(row.difference),
                    "gain": None if row.gain is None else asdict(row.gain),
                    "to_other_user": None if row.to_other_user is None else asdict(row.to_other_user),
                    "seeds": len(row.runs),
                    "tokens_added": row.tokens_added,
                    "attention_perplexity": row.attention_perplexity,
                    "seconds": row.seconds,
                }
            )
        return {
            "persona": __version__,
            "task": self.task,
            "questions": self.questions,
            "users": self.users,
            "data": self.data,
            "llm": self.llm,
            "parts": {name: list(fingerprints) for name, fingerprints in self.parts.items()},
            "config": asdict(self.config),
            "rows": rows,
        }


def run_lamp(
    split: LampSplit,
    llm: LanguageModel,
    config: LampConfig,
    *,
    user_embedders: UserEmbedders | None = None,
    adapters: Adapters | None = None,
    summarizer: LanguageModel | None = None,
    background: LampSplit | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> LampReport:
    """Answer the questions of `split` in every way that `config` names, and score the answers.

    Args:
        split: questions with their profiles, and golds where there are any.
        llm: the frozen LLM.
        config: what to run.
        user_embedders: the user embedders of the method ``user-embedder``.
        adapters: the task adapters of the methods with adapters.
        summarizer: writes the summaries of ``summary`` and ``stats+summary``; None is `llm`.
        background: for the methods that lift words, users whose histories say what is common to everybody, as those of
            the training split do; None takes those of `split`, in which a user's own words count, too.
        out: folder for answers (resumable), summaries, predictions in the official form and ``results.json``; None
            keeps nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        EvaluationError: if there is nothing to run, or golds and questions do not belong together.
        InvalidOptionError: if ``user-embedder`` is among the methods and there is no user embedder, or the LLM takes none;
            likewise for adapters.
    """
    questions = split.questions[: config.limit]
    if not questions:
        raise EvaluationError("there are no questions to run: the split is empty")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda stage, done, total: None)
    options = _options(split, config)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plans = make_plans(
            split,
            questions,
            llm,
            config,
            folder,
            report,
            user_embedders=user_embedders,
            adapters=adapters,
            summarizer=summarizer,
            background=background,
        )
        answers = Answers(None if out is None else out / "answers.jsonl", llm, options)
        answers.ask((one for plan in plans if not plan.adapters for run in plan.runs for one in run), report)
        for plan in plans:
            for made, run in zip(plan.adapters, plan.runs, strict=False):
                with made.serving():
                    answers.ask(run, report)

    golds = None if split.golds is None else {question.id: split.golds[question.id] for question in questions}
    users = [question.user_id for question in questions]
    outcomes = [
        _Outcome(
            plan.method,
            plan.k,
            plan.control,
            tuple(
                {one.id: answers.text(request) for one, request in zip(questions, run, strict=True)}
                for run in plan.runs
            ),
            plan.tokens_added,
            plan.attention_perplexity,
            float(np.mean([answers.seconds(run) for run in plan.runs])),
        )
        for plan in plans
    ]
    if split.task.target_field is not None or golds is not None:
        outcomes += [
            _Outcome(name, 0, None, (predictions,), 0.0, 0.0, 0.0)
            for name, predictions in yardsticks(split.task, questions).items()
        ]
    rows = _score(split, golds, users, outcomes, config)
    parts = _fingerprints(user_embedders, adapters, summarizer, background)
    data = data_hash(questions, golds)
    n_users = len(set(users))
    result = LampReport(split.task.name, len(questions), n_users, llm.fingerprint, config, rows, data, parts)
    if out is not None:
        _save(result, out)
    return result


def _fingerprints(
    user_embedders: UserEmbedders | None,
    adapters: Adapters | None,
    summarizer: LanguageModel | None,
    background: LampSplit | None,
) -> dict[str, tuple[str, ...]]:
    """See `LampReport.parts`."""
    found: dict[str, tuple[str, ...]] = {}
    if adapters is not None:
        found["task_adapters"] = tuple(task.fingerprint for task in adapters.tasks)
    if user_embedders is not None:
        found["user_embedders"] = tuple(embedder.fingerprint for embedder in user_embedders.with_user)
        found["user_embedders_without_user"] = tuple(embedder.fingerprint for embedder in user_embedders.without_user)
    if summarizer is not None:
        found["summarizer"] = (summarizer.fingerprint,)
    if background is not None:
        found["background"] = (data_hash(background.questions, background.golds),)
    return found


def _options(split: LampSplit, config: LampConfig) -> GenerationOptions:
    tokens = config.max_new_tokens or (_TEXT_TOKENS if split.task.labels is None else _LABEL_TOKENS)
    scores: tuple[str, ...] = ()
    if config.mbr:
        if not LOWER_IS_BETTER.issuperset(split.task.metrics):
            raise InvalidOptionError(
                f"`mbr` answers with the score of least expected error, and {split.task.name} asks for none "
                f"({split.task.title}): leave it out"
            )
        scores = split.task.labels or ()
    options = GenerationOptions(max_new_tokens=tokens, num_beams=config.num_beams, median_of=scores)
    check_options(options)
    return options


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The answers of one row, not yet scored."""

    method: str
    k: int
    control: str | None
    runs: tuple[Mapping[str, str], ...]
    tokens_added: float
    attention_perplexity: float
    seconds: float


def _score(
    split: LampSplit,
    golds: Mapping[str, str] | None,
    users: Sequence[str],
    outcomes: Sequence[_Outcome],
    config: LampConfig,
) -> tuple[LampRow, ...]:
    scored = [None if golds is None else pooled_samples(split, golds, outcome.runs) for outcome in outcomes]
    plain = next((one for one, outcome in zip(scored, outcomes, strict=True) if outcome.method == NO_USER), None)
    each = list(zip(outcomes, scored, strict=True))
    controls = {outcome.k: samples for outcome, samples in each if outcome.control == WITHOUT_USER}
    others = {(outcome.method, outcome.k): samples for outcome, samples in each if outcome.control == OTHER_USER}
    task_alone = {outcome.k: samples for outcome, samples in each if outcome.method.startswith(TASK_ADAPTER)}
    metric = METRICS[split.task.metrics[0]]
    owners = list(users)

    def compared(samples: Samples, other: Samples | None) -> PairedDifference | None:
        if other is None:
            return None
        ours, theirs = _same_length(samples, other)
        runs = len(next(iter(ours.values()))) // len(owners)
        return paired_bootstrap(metric, ours, theirs, owners * runs, resamples=config.resamples, seed=config.seed)

    rows = []
    for outcome, samples in zip(outcomes, scored, strict=True):
        intervals: dict[str, Interval] = {}
        difference = gain = to_other_user = None
        if samples is not None:
            intervals = {
                name: bootstrap_interval(
                    METRICS[name], samples, owners * len(outcome.runs), resamples=config.resamples, seed=config.seed
                )
                for name in split.task.metrics
            }
            if outcome.method != NO_USER:
                difference = compared(samples, plain)
            if outcome.method.startswith(USER_EMBEDDER) and outcome.control != WITHOUT_USER:
                gain = compared(samples, controls.get(outcome.k))
            if outcome.method.split(" + ")[0] in LORA_METHODS:
                gain = compared(samples, task_alone.get(outcome.k))
            if outcome.control is None:
                to_other_user = compared(samples, others.get((outcome.method, outcome.k)))
        rows.append(
            LampRow(
                outcome.method,
                outcome.k,
                outcome.control,
                intervals,
                difference,
                gain,
                to_other_user,
                outcome.tokens_added,
                outcome.attention_perplexity,
                outcome.seconds,
                outcome.runs,
            )
        )
    return tuple(rows)


def pooled_samples(split: LampSplit, golds: Mapping[str, str], runs: Sequence[Mapping[str, str]]) -> Samples:
    """What was recorded of the answers of all runs, one run after the other."""
    samples = [evaluate(split.task, golds, run, labels=split.labels).samples for run in runs]
    if len(samples) == 1:
        return samples[0]
    return {name: np.concatenate([each[name] for each in samples]) for name in samples[0]}


def _same_length(ours: Samples, theirs: Samples) -> tuple[Samples, Samples]:
    """Both with as many runs as the longer one: a single run stands beside each of the other's."""

    def repeated(samples: Samples, length: int) -> Samples:
        return {name: np.tile(each, (length // len(each), 1)) for name, each in samples.items()}

    length = max(len(next(iter(samples.values()))) for samples in (ours, theirs))
    return repeated(ours, length), repeated(theirs, length)


def _save(report: LampReport, out: Path) -> None:
    folder = out / "predictions"
    folder.mkdir(exist_ok=True)
    for row in report.rows:
        name = row.name.replace(" ", "_").replace(",", "").replace("=", "").replace("+", "plus")
        for number, predictions in enumerate(row.runs):
            seed = f"_run{number + 1}" if len(row.runs) > 1 else ""
            write_predictions(folder / f"{name}{seed}.json", report.task, predictions)
    write_atomically(out / "results.json", json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
