"""Run methods on a LaMP split and score the answers, always beside yardsticks and controls.

A *row* of the report is one way to answer all questions: a retriever with its k, or ``none``; the same with *another
user's* history, which must not help; and the yardsticks, which need no LLM. A gain counts as personalization only if
the right user's history beats no history and another user's does not.

Answers are kept in ``answers.jsonl`` under a key of LLM, decoding options and prompt, so that a run which was
stopped goes on where it ended, and two rows that send the same prompt ask once.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import persona
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.bootstrap import Interval, PairedDifference, bootstrap_interval, paired_bootstrap
from persona.eval.metrics import METRICS, Scores, evaluate
from persona.eval.yardsticks import yardsticks
from persona.files import write_atomically
from persona.lamp import LampSplit, Question
from persona.prompts import LampPrompt, lamp_prompt
from persona.protocols import GenerationOptions, LanguageModel, Request, Retriever
from persona.readers import write_predictions
from persona.records import Profile
from persona.registry import NEEDS_ENCODER, RETRIEVERS, make_retriever

NO_USER = "none"
"""The method that sends the question alone."""
OTHER_USER = "other user"
"""The control in which each question gets another user's history."""
CHUNK = 64
"""Answers that are asked for, saved and reported together."""

_LABEL_TOKENS = 16
_TEXT_TOKENS = 64

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class LampConfig:
    """What to run.

    Attributes:
        methods: ``none`` and names of `persona.registry.RETRIEVERS`.
        ks: how many records; each method but ``none`` runs with each.
        limit: only the first questions; None runs all.
        controls: also run each method with another user's history.
        encoder: what `load_encoder` takes, for the methods that compare vectors.
        max_length: token budget of the official prompt builder.
        max_new_tokens: longest answer; None is 16 for labels and 64 for texts.
        num_beams: 1 is greedy.
        seed: for the random retriever, the choice of other users and the bootstrap.
        resamples: bootstrap resamples over users.
    """

    methods: tuple[str, ...] = (NO_USER, "bm25", "recency")
    ks: tuple[int, ...] = (1, 4)
    limit: int | None = None
    controls: bool = True
    encoder: str = "minilm"
    max_length: int = 256
    max_new_tokens: int | None = None
    num_beams: int = 1
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        for method in self.methods:
            if method != NO_USER and method not in RETRIEVERS:
                raise InvalidOptionError(
                    f"a method must be one of {', '.join((NO_USER, *RETRIEVERS))}, was: {method!r}"
                )
        if not self.ks or min(self.ks) < 1:
            raise InvalidOptionError(f"`ks` must be numbers of at least 1, was: {self.ks}")


@dataclass(frozen=True, slots=True)
class LampRow:
    """One way to answer all questions, scored.

    Attributes:
        method: ``none``, a retriever's name, or a yardstick's.
        k: records asked for; 0 for ``none`` and yardsticks.
        control: None, or `OTHER_USER`.
        scores: metric name -> value with its interval; empty where the split has no golds.
        difference: primary metric, this row minus ``none``, paired over users; None for ``none`` itself.
        tokens_added: mean tokens that the records added to the prompt.
        seconds: time the LLM took for all questions of the row (0 for yardsticks).
        predictions: question id -> answer.
    """

    method: str
    k: int
    control: str | None
    scores: Mapping[str, Interval]
    difference: PairedDifference | None
    tokens_added: float
    seconds: float
    predictions: Mapping[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        """A name for tables and files, e.g. ``bm25 k=4, other user``."""
        name = f"{self.method} k={self.k}" if self.k else self.method
        return f"{name}, {self.control}" if self.control else name


@dataclass(frozen=True, slots=True)
class LampReport:
    """What a run found.

    Attributes:
        task: LaMP task name.
        split: train, dev or test (as named by the caller of the reader).
        questions: how many were asked.
        users: how many users they belong to.
        llm: the LLM's fingerprint.
        config: what was run.
        rows: methods, controls and yardsticks, in the order run.
    """

    task: str
    questions: int
    users: int
    llm: str
    config: LampConfig
    rows: tuple[LampRow, ...]

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
                    "tokens_added": row.tokens_added,
                    "seconds": row.seconds,
                }
            )
        return {
            "persona": persona.__version__,
            "task": self.task,
            "questions": self.questions,
            "users": self.users,
            "llm": self.llm,
            "config": asdict(self.config),
            "rows": rows,
        }


def run_lamp(
    split: LampSplit,
    llm: LanguageModel,
    config: LampConfig,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
) -> LampReport:
    """Answer the questions of `split` in every way that `config` names, and score the answers.

    Args:
        split: questions with their profiles, and golds where there are any.
        llm: the frozen LLM.
        config: what to run.
        out: folder for answers (resumable), predictions in the official form and ``results.json``; None keeps
            nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        EvaluationError: if there is nothing to run, or golds and questions do not belong together.
    """
    questions = split.questions[: config.limit]
    if not questions:
        raise EvaluationError("there are no questions to run: the split is empty")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda stage, done, total: None)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        retrievers = _retrievers(split, questions, config, folder / "vectors.db", stack, report)
        plans = _plan(split, questions, retrievers, llm, config, report)
    answers = _Answers(None if out is None else out / "answers.jsonl", llm, _options(split, config))
    answers.ask((prompt for plan in plans for prompt in plan.prompts), report)

    golds = None if split.golds is None else {question.id: split.golds[question.id] for question in questions}
    users = [question.user_id for question in questions]
    outcomes = [
        _Outcome(
            plan.method,
            plan.k,
            plan.control,
            {one.id: answers.text(prompt) for one, prompt in zip(questions, plan.prompts, strict=True)},
            plan.tokens_added,
            answers.seconds(plan.prompts),
        )
        for plan in plans
    ]
    if split.task.target_field is not None or golds is not None:
        outcomes += [
            _Outcome(name, 0, None, predictions, 0.0, 0.0)
            for name, predictions in yardsticks(split.task, questions).items()
        ]
    rows = _score(split, golds, users, outcomes, config)
    result = LampReport(split.task.name, len(questions), len(set(users)), llm.fingerprint, config, rows)
    if out is not None:
        _save(result, out)
    return result


@dataclass(frozen=True, slots=True)
class _Plan:
    """The prompts of one row, in the order of the questions."""

    method: str
    k: int
    control: str | None
    prompts: tuple[str, ...]
    tokens_added: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The answers of one row, not yet scored."""

    method: str
    k: int
    control: str | None
    predictions: Mapping[str, str]
    tokens_added: float
    seconds: float


def _plan(
    split: LampSplit,
    questions: Sequence[Question],
    retrievers: Mapping[str, Retriever],
    llm: LanguageModel,
    config: LampConfig,
    report: Progress,
) -> list[_Plan]:
    """Retrieve for every row and build its prompts."""
    task = split.task
    plans: list[_Plan] = []
    queries = [task.query(question.input) for question in questions]
    histories: dict[str | None, list[Profile]] = {None: [question.profile for question in questions]}
    if config.controls and retrievers:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    total = len(histories) * len(retrievers)
    if NO_USER in config.methods:
        plans.append(_Plan(NO_USER, 0, None, tuple(question.input for question in questions), 0.0))
    for number, (method, retriever) in enumerate(retrievers.items()):
        for place, (control, profiles) in enumerate(histories.items()):
            found = retriever.retrieve_batch(profiles, queries, max(config.ks))
            for k in config.ks:
                built = [
                    lamp_prompt(
                        task,
                        question.input,
                        [scored.record for scored in best[:k]],
                        llm.tokenizer,
                        max_length=config.max_length,
                    )
                    for question, best in zip(questions, found, strict=True)
                ]
                plans.append(_Plan(method, k, control, tuple(one.text for one in built), _mean_tokens(built)))
            report("retrieval", number * len(histories) + place + 1, total)
    return plans


def _mean_tokens(prompts: Sequence[LampPrompt]) -> float:
    return float(np.mean([prompt.tokens_added for prompt in prompts]))


def _retrievers(
    split: LampSplit,
    questions: Sequence[Question],
    config: LampConfig,
    vectors: Path,
    stack: ExitStack,
    report: Progress,
) -> dict[str, Retriever]:
    """The retrievers by method; those that compare vectors get a store at `vectors`, open until `stack` ends."""
    names = [method for method in config.methods if method != NO_USER]
    view = split.task.view
    if not NEEDS_ENCODER.intersection(names):
        return {name: make_retriever(name, view=view, seed=config.seed) for name in names}
    from persona.embedding import embed_users
    from persona.encoders import load_encoder
    from persona.store import ProfileStore

    encoder = load_encoder(config.encoder)
    store = stack.enter_context(ProfileStore(f"sqlite:///{vectors}"))
    store.upsert((question.user_id, record) for question in questions for record in question.profile)
    embed_users(store, encoder, view=view, progress=lambda done, total, records: report("embed users", done, total))
    return {name: make_retriever(name, encoder=encoder, store=store, view=view, seed=config.seed) for name in names}


def other_histories(questions: Sequence[Question], seed: int) -> list[Profile]:
    """For each question the profile of a question of another user; never one of its own user's.

    The users stand in a random circle and each takes the histories of the next, so that every history is used about
    as often as it would be by its owner.

    Raises:
        EvaluationError: if there is only one user.
    """
    owned: dict[str, list[Profile]] = {}
    for question in questions:
        owned.setdefault(question.user_id, []).append(question.profile)
    if len(owned) < 2:
        raise EvaluationError(
            "the control with another user's history needs questions of at least 2 users, was: 1; "
            "raise --limit or use --no-controls"
        )
    circle = [list(owned)[index] for index in np.random.default_rng(seed).permutation(len(owned))]
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    asked = dict.fromkeys(owned, 0)
    chosen = []
    for question in questions:
        others = owned[after[question.user_id]]
        chosen.append(others[asked[question.user_id] % len(others)])
        asked[question.user_id] += 1
    return chosen


def _options(split: LampSplit, config: LampConfig) -> GenerationOptions:
    tokens = config.max_new_tokens or (_TEXT_TOKENS if split.task.labels is None else _LABEL_TOKENS)
    return GenerationOptions(max_new_tokens=tokens, num_beams=config.num_beams)


class _Answers:
    """The LLM's answers by prompt, kept in a file as they come.

    A line of the file: ``{"key": "9f...", "text": "comedy", "seconds": 0.021}``.
    """

    def __init__(self, path: Path | None, llm: LanguageModel, options: GenerationOptions) -> None:
        self._path = path
        self._llm = llm
        self._options = options
        self._known: dict[str, tuple[str, float]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    one = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a run that was killed while it wrote
                self._known[one["key"]] = (one["text"], one["seconds"])

    def ask(self, prompts: Iterable[str], report: Progress) -> None:
        """Have an answer to every prompt; those of like length go together."""
        missing = {key: prompt for prompt in prompts if (key := self._key(prompt)) not in self._known}
        pending = sorted(missing.items(), key=lambda one: len(one[1]))
        for start in range(0, len(pending), CHUNK):
            chunk = pending[start : start + CHUNK]
            begun = time.perf_counter()
            texts = self._llm.generate([Request(prompt) for _, prompt in chunk], self._options)
            share = (time.perf_counter() - begun) / len(chunk)
            new = {key: (text, share) for (key, _), text in zip(chunk, texts, strict=True)}
            self._known.update(new)
            if self._path is not None:
                # A leading newline ends what a killed run may have left half-written.
                lines = [json.dumps({"key": key, "text": text, "seconds": share}) for key, (text, share) in new.items()]
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("\n" + "\n".join(lines) + "\n")
            report("answers", start + len(chunk), len(pending))

    def text(self, prompt: str) -> str:
        return self._known[self._key(prompt)][0]

    def seconds(self, prompts: Iterable[str]) -> float:
        return sum(self._known[self._key(prompt)][1] for prompt in prompts)

    def _key(self, prompt: str) -> str:
        whole = json.dumps([self._llm.fingerprint, asdict(self._options), prompt])
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _score(
    split: LampSplit,
    golds: Mapping[str, str] | None,
    users: Sequence[str],
    outcomes: Sequence[_Outcome],
    config: LampConfig,
) -> tuple[LampRow, ...]:
    scored: list[Scores | None] = [
        None if golds is None else evaluate(split.task, golds, outcome.predictions, labels=split.labels)
        for outcome in outcomes
    ]
    plain = next((one for one, outcome in zip(scored, outcomes, strict=True) if outcome.method == NO_USER), None)
    rows = []
    for outcome, scores in zip(outcomes, scored, strict=True):
        intervals: dict[str, Interval] = {}
        difference = None
        if scores is not None:
            intervals = {
                name: bootstrap_interval(
                    METRICS[name], scores.samples, users, resamples=config.resamples, seed=config.seed
                )
                for name in split.task.metrics
            }
            if plain is not None and outcome.method != NO_USER:
                difference = paired_bootstrap(
                    METRICS[split.task.metrics[0]],
                    scores.samples,
                    plain.samples,
                    users,
                    resamples=config.resamples,
                    seed=config.seed,
                )
        rows.append(
            LampRow(
                outcome.method,
                outcome.k,
                outcome.control,
                intervals,
                difference,
                outcome.tokens_added,
                outcome.seconds,
                outcome.predictions,
            )
        )
    return tuple(rows)


def _save(report: LampReport, out: Path) -> None:
    folder = out / "predictions"
    folder.mkdir(exist_ok=True)
    for row in report.rows:
        name = row.name.replace(" ", "_").replace(",", "").replace("=", "").replace("+", "plus")
        write_predictions(folder / f"{name}.json", report.task, row.predictions)
    write_atomically(out / "results.json", json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
