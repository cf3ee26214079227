"""Run methods on a LaMP split and score the answers, always beside yardsticks and controls.

A *row* of the report is one way to answer all questions: a retriever with its k, or ``none``; a user embedder
(``plug``), alone or with retrieved records; a summary (``stats``, ``summary``), likewise; the same with *another
user's* history, which must not help, and for what was trained the same *trained without user*; and the yardsticks,
which need no LLM. A gain counts as personalization only if the right user's history beats none (or the training without
user) and another user's does not.

Answers are kept in ``answers.jsonl`` under a key of LLM, decoding options, prompt and soft prompt, so that a run which
was stopped goes on where it ended, and two rows that send the same request ask once.
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
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import persona
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.adapters import LORA_METHODS, TASK_ADAPTER, AdapterRequest, Adapters, UserAdapters, check_llm
from persona.eval.bootstrap import Interval, PairedDifference, bootstrap_interval, paired_bootstrap
from persona.eval.metrics import METRICS, Samples, evaluate
from persona.eval.soft_prompts import Plugs, SoftPrompts
from persona.eval.summary_rows import SUMMARY_FORMS, SUMMARY_METHODS, summary_rows
from persona.eval.yardsticks import yardsticks
from persona.files import write_atomically
from persona.lamp import LampSplit, Question
from persona.prompts import LampPrompt, lamp_prompt
from persona.protocols import SOFT_PROMPT, GenerationOptions, LanguageModel, Request, Retriever
from persona.readers import write_predictions
from persona.records import Profile
from persona.registry import RETRIEVERS, make_retriever, needs_encoder

if TYPE_CHECKING:
    from persona.embedder import UserEmbedder
    from persona.transformers_llm import TransformersLM

NO_USER = "none"
"""The method that sends the question alone."""
PLUG = "plug"
"""The method that puts a user embedder's soft prompt before the question."""
OTHER_USER = "other user"
"""The control in which each question gets another user's history."""
WITHOUT_USER = "trained without user"
"""The control with a user embedder that was trained in the same way and never saw a history."""
CHUNK = 64
"""Answers that are asked for, saved and reported together."""

_BESIDE = (PLUG, *SUMMARY_METHODS, *LORA_METHODS)
_NO_RETRIEVERS = (NO_USER, *_BESIDE)
_LABEL_TOKENS = 16
_TEXT_TOKENS = 64

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class LampConfig:
    """What to run.

    Attributes:
        methods: ``none``, ``plug``, ``stats``, ``summary``, `persona.eval.adapters.LORA_METHODS` and names of
            `persona.registry.RETRIEVERS`.
        ks: how many records; each retriever runs with each; ``plug``, ``stats``, ``summary`` and adapters alone and
            with each.
        beside: the retriever that finds the records beside a soft prompt, a summary or an adapter.
        lora_once: one adapter a user, from the profile of the user's earliest question, for all questions of that user;
            else one for each question, from all that is older than it.
        summary_form: what a summary is in a prompt, one of `persona.eval.summary_rows.SUMMARY_FORMS`.
        limit: only the first questions; None runs all.
        controls: also run each method with another user's history.
        encoder: what `load_encoder` takes, for the methods that compare vectors.
        relevance: a relevance filter over every retriever, ``"untrained"`` or a folder; None filters nothing.
        max_length: token budget of the official prompt builder.
        max_new_tokens: longest answer; None is 16 for labels and 64 for texts.
        num_beams: 1 is greedy.
        seed: for the random retriever, the choice of other users and the bootstrap.
        resamples: bootstrap resamples over users.
    """

    methods: tuple[str, ...] = (NO_USER, "bm25", "recency")
    ks: tuple[int, ...] = (1, 4)
    beside: str = "bm25"
    lora_once: bool = False
    summary_form: str = "record"
    limit: int | None = None
    controls: bool = True
    encoder: str = "minilm"
    relevance: str | None = None
    max_length: int = 256
    max_new_tokens: int | None = None
    num_beams: int = 1
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in _NO_RETRIEVERS and method not in RETRIEVERS:
                known = ", ".join((NO_USER, PLUG, *SUMMARY_METHODS, *LORA_METHODS, *RETRIEVERS))
                raise InvalidOptionError(f"a method must be one of {known}, was: {method!r}")
        if self.beside not in RETRIEVERS:
            raise InvalidOptionError(f"`beside` must be one of {', '.join(RETRIEVERS)}, was: {self.beside!r}")
        if self.summary_form not in SUMMARY_FORMS:
            raise InvalidOptionError(
                f"`summary_form` must be one of {', '.join(SUMMARY_FORMS)}, was: {self.summary_form!r}"
            )
        if not self.ks or min(self.ks) < 1:
            raise InvalidOptionError(f"`ks` must be numbers of at least 1, was: {self.ks}")


@dataclass(frozen=True, slots=True)
class LampRow:
    """One way to answer all questions, scored.

    Attributes:
        method: ``none``, a retriever's name, ``plug``, ``stats``, ``summary`` or a method with adapters, one of these
            with `` + `` and a retriever's name, the control ``task adapter``, or a yardstick's.
        k: records asked for; 0 where there are none.
        control: None, `OTHER_USER` or `WITHOUT_USER`.
        scores: metric name -> value with its interval; empty where the split has no golds.
        difference: primary metric, this row minus ``none``, paired over users; None for ``none`` itself.
        gain: primary metric, this row minus the row trained without user, or with the task adapter alone, that has the
            same records, paired over users; None where there is none.
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
                    "gain": None if row.gain is None else asdict(row.gain),
                    "seeds": len(row.runs),
                    "tokens_added": row.tokens_added,
                    "attention_perplexity": row.attention_perplexity,
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
    plugs: Plugs | None = None,
    adapters: Adapters | None = None,
    summarizer: LanguageModel | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> LampReport:
    """Answer the questions of `split` in every way that `config` names, and score the answers.

    Args:
        split: questions with their profiles, and golds where there are any.
        llm: the frozen LLM.
        config: what to run.
        plugs: the user embedders of the method ``plug``.
        adapters: the task adapters of the methods with adapters.
        summarizer: writes the summaries of the method ``summary``; None is `llm`.
        out: folder for answers (resumable), summaries, predictions in the official form and ``results.json``; None
            keeps nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        EvaluationError: if there is nothing to run, or golds and questions do not belong together.
        InvalidOptionError: if ``plug`` is among the methods and there is no user embedder, or the LLM takes none;
            likewise for adapters.
    """
    _check_plugs(config, plugs, llm)
    _check_adapters(config, adapters, llm, split)
    questions = split.questions[: config.limit]
    if not questions:
        raise EvaluationError("there are no questions to run: the split is empty")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda stage, done, total: None)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        parts = _parts(split, questions, llm, config, plugs, folder / "vectors.db", stack, report)
        plans = _plan(split, questions, parts, llm, config, report)
        if plugs is not None and PLUG in config.methods:
            plans += _plug_plans(split, questions, parts, plugs, llm, config, report)
        if any(method in SUMMARY_METHODS for method in config.methods):
            kept = None if out is None else out / "summaries.jsonl"
            plans += _summary_plans(split, questions, parts, llm, summarizer, config, kept, report)
        if adapters is not None:
            plans += _adapter_plans(split, questions, parts, adapters, llm, config, folder / "adapters", report)
        answers = _Answers(None if out is None else out / "answers.jsonl", llm, _options(split, config))
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
    result = LampReport(split.task.name, len(questions), len(set(users)), llm.fingerprint, config, rows)
    if out is not None:
        _save(result, out)
    return result


def _check_plugs(config: LampConfig, plugs: Plugs | None, llm: LanguageModel) -> None:
    if PLUG not in config.methods:
        return
    if plugs is None:
        raise InvalidOptionError("the method 'plug' needs a user embedder: name its folder")
    if SOFT_PROMPT not in llm.channels or not hasattr(llm, "model"):
        raise InvalidOptionError(
            "the method 'plug' needs an LLM that takes soft prompts, a transformers model (folder, hub id or "
            f"(model, tokenizer)), was: {llm.fingerprint}"
        )


def _check_adapters(config: LampConfig, adapters: Adapters | None, llm: LanguageModel, split: LampSplit) -> None:
    wanted = [method for method in config.methods if method in LORA_METHODS]
    if not wanted:
        return
    if adapters is None:
        raise InvalidOptionError(f"the method {wanted[0]!r} needs a task adapter: name its folder (--lora-task)")
    check_llm(llm)
    adapters.check(wanted, split)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The requests of one row: for each seed, in the order of the questions.

    `adapters` are those that the requests of a seed name; none where they name none.
    """

    method: str
    k: int
    control: str | None
    runs: tuple[tuple[Request, ...], ...]
    tokens_added: float
    attention_perplexity: float = 0.0
    adapters: tuple[UserAdapters, ...] = ()


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


@dataclass(frozen=True, slots=True)
class _Parts:
    """What finds the personal part of a prompt.

    Attributes:
        retrievers: by method.
        beside: finds the records beside a soft prompt, a summary or an adapter; None without any.
        soft_prompts: None without user embedders.
    """

    retrievers: Mapping[str, Retriever]
    beside: Retriever | None = None
    soft_prompts: SoftPrompts | None = None


def _plan(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    llm: LanguageModel,
    config: LampConfig,
    report: Progress,
) -> list[_Plan]:
    """Retrieve for every row with records alone, and build its prompts."""
    plans: list[_Plan] = []
    if NO_USER in config.methods:
        plans.append(_Plan(NO_USER, 0, None, (tuple(Request(question.input) for question in questions),), 0.0))
    histories: dict[str | None, list[Profile]] = {None: [question.profile for question in questions]}
    if config.controls and parts.retrievers:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    total = len(histories) * len(parts.retrievers)
    for number, (method, retriever) in enumerate(parts.retrievers.items()):
        for place, (control, profiles) in enumerate(histories.items()):
            for k, built in _prompts(split, questions, profiles, retriever, llm, config).items():
                requests = tuple(Request(one.text) for one in built)
                plans.append(_Plan(method, k, control, (requests,), _mean_tokens(built)))
            report("retrieval", number * len(histories) + place + 1, total)
    return plans


def _plug_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    plugs: Plugs,
    llm: LanguageModel,
    config: LampConfig,
    report: Progress,
) -> list[_Plan]:
    """The rows with soft prompts: alone and with records, of the right user and as controls."""
    assert parts.soft_prompts is not None
    assert parts.beside is not None
    own = [question.profile for question in questions]
    queries = parts.soft_prompts.queries([split.task.query(question.input) for question in questions])
    # What stands in the soft prompt and in the prompt, and which embedders make it.
    rows: list[tuple[str | None, tuple[UserEmbedder, ...], list[Profile], list[Profile]]] = [
        (None, plugs.with_user, own, own)
    ]
    if config.controls:
        others = other_histories(questions, config.seed)
        rows.append((OTHER_USER, plugs.with_user, others, others))
    if plugs.without_user:
        nobody = [Profile(question.user_id) for question in questions]
        rows.append((WITHOUT_USER, plugs.without_user, nobody, own))
    plans = []
    for number, (control, embedders, shown, retrieved) in enumerate(rows):
        histories = parts.soft_prompts.histories(shown)
        made = [parts.soft_prompts.of(embedder, histories, queries) for embedder in embedders]
        perplexity = float(np.mean([spread for _, spread in made]))
        prompts: dict[int, tuple[list[str], float]] = {0: ([question.input for question in questions], 0.0)}
        for k, built in _prompts(split, questions, retrieved, parts.beside, llm, config).items():
            prompts[k] = ([one.text for one in built], _mean_tokens(built))
        for k, (texts, added) in prompts.items():
            runs = tuple(
                tuple(Request(text, soft) for text, soft in zip(texts, softs, strict=True)) for softs, _ in made
            )
            method = f"{PLUG} + {config.beside}" if k else PLUG
            plans.append(_Plan(method, k, control, runs, added + embedders[0].config.n_tokens, perplexity))
        report("soft prompts", number + 1, len(rows))
    return plans


def _adapter_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    adapters: Adapters,
    llm: LanguageModel,
    config: LampConfig,
    folder: Path,
    report: Progress,
) -> list[_Plan]:
    """The rows with adapters, alone and with records: the task adapter alone, the right user's, another user's."""
    methods = [method for method in config.methods if method in LORA_METHODS]
    if not methods:
        return []
    own = [question.profile for question in questions]
    histories: dict[str | None, list[Profile]] = {None: own}
    if config.controls:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    assert parts.beside is not None
    prompts: dict[str | None, dict[int, tuple[list[str], float]]] = {}
    for control, profiles in histories.items():
        prompts[control] = {0: ([question.input for question in questions], 0.0)}
        for k, built in _prompts(split, questions, profiles, parts.beside, llm, config).items():
            prompts[control][k] = ([one.text for one in built], _mean_tokens(built))

    def named(method: str, k: int) -> str:
        return f"{method} + {config.beside}" if k else method

    nobody = tuple(
        UserAdapters(TASK_ADAPTER, adapters, task, check_llm(llm), split, (), folder, report) for task in adapters.tasks
    )
    plans = [
        _Plan(named(TASK_ADAPTER, k), k, None, tuple(each.alone(texts) for each in nobody), added, adapters=nobody)
        for k, (texts, added) in prompts[None].items()
    ]
    learnt = dict(histories)
    if config.lora_once:
        earliest = earliest_profiles(questions)
        learnt = {control: [earliest[one.user_id] for one in some] for control, some in histories.items()}
    for method in methods:
        made = tuple(
            UserAdapters(method, adapters, task, check_llm(llm), split, learnt[None], folder, report)
            for task in adapters.tasks
        )
        for control, profiles in learnt.items():
            for k, (texts, added) in prompts[control].items():
                runs = tuple(each.requests(texts, profiles) for each in made)
                plans.append(_Plan(named(method, k), k, control, runs, added, adapters=made))
    return plans


def earliest_profiles(questions: Sequence[Question]) -> dict[str, Profile]:
    """By user the profile of the earliest question, which holds nothing that a later question does not know either."""
    found: dict[str, Question] = {}
    for question in questions:
        first = found.setdefault(question.user_id, question)
        if (question.time or "", len(question.profile)) < (first.time or "", len(first.profile)):
            found[question.user_id] = question
    return {user_id: question.profile for user_id, question in found.items()}


def _summary_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    llm: LanguageModel,
    summarizer: LanguageModel | None,
    config: LampConfig,
    kept: Path | None,
    report: Progress,
) -> list[_Plan]:
    """The rows with summaries: alone and with records, of the right user and of another."""
    histories: dict[str | None, list[Profile]] = {None: [question.profile for question in questions]}
    if config.controls:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    assert parts.beside is not None
    rows = summary_rows(
        split,
        questions,
        histories,
        config.methods,
        parts.beside,
        config.beside,
        config.ks,
        llm,
        form=config.summary_form,
        max_length=config.max_length,
        writer=summarizer,
        kept=kept,
        progress=report,
    )
    return [_Plan(row.method, row.k, row.control, (row.requests,), row.tokens_added) for row in rows]


def _prompts(
    split: LampSplit,
    questions: Sequence[Question],
    profiles: Sequence[Profile],
    retriever: Retriever,
    llm: LanguageModel,
    config: LampConfig,
) -> dict[int, list[LampPrompt]]:
    """The official prompts with the best records of `profiles`, by k."""
    queries = [split.task.query(question.input) for question in questions]
    found = retriever.retrieve_batch(profiles, queries, max(config.ks))
    return {
        k: [
            lamp_prompt(
                split.task,
                question.input,
                [scored.record for scored in best[:k]],
                llm.tokenizer,
                max_length=config.max_length,
            )
            for question, best in zip(questions, found, strict=True)
        ]
        for k in config.ks
    }


def _mean_tokens(prompts: Sequence[LampPrompt]) -> float:
    return float(np.mean([prompt.tokens_added for prompt in prompts]))


def _parts(
    split: LampSplit,
    questions: Sequence[Question],
    llm: LanguageModel,
    config: LampConfig,
    plugs: Plugs | None,
    vectors: Path,
    stack: ExitStack,
    report: Progress,
) -> _Parts:
    """What the methods need; what compares vectors gets a store at `vectors`, open until `stack` ends."""
    names = [method for method in config.methods if method not in _NO_RETRIEVERS]
    plugged = plugs is not None and PLUG in config.methods
    beside = any(method in _BESIDE for method in config.methods)
    wanted = {*names, config.beside} if beside else {*names}
    compared = any(map(needs_encoder, wanted))
    if not plugged and not compared and config.relevance is None:
        made = {name: make_retriever(name, view=split.task.view, seed=config.seed) for name in sorted(wanted)}
        return _Parts({name: made[name] for name in names}, made[config.beside] if beside else None)
    from persona.embedding import embed_users
    from persona.encoders import load_encoder
    from persona.store import ProfileStore

    reads = plugs.with_user[0].config.encoder if plugged and plugs is not None else ""
    encoder = load_encoder(config.encoder, like=reads)
    store = stack.enter_context(ProfileStore(f"sqlite:///{vectors}"))
    store.upsert((question.user_id, record) for question in questions for record in question.profile)
    views = [split.task.view] if compared else []
    views += ["text"] if "key_value" in wanted or config.relevance is not None else []
    views += plugs.views if plugged and plugs is not None else ()
    for view in dict.fromkeys(views):
        embed_users(store, encoder, view=view, progress=lambda done, total, records: report("embed users", done, total))
    made = {
        name: make_retriever(name, encoder=encoder, store=store, view=split.task.view, seed=config.seed)
        for name in sorted(wanted)
    }
    if config.relevance is not None:
        from persona.retrievers.relevance import RelevanceRetriever, load_filter

        judge = load_filter(config.relevance, encoder)
        made = {name: RelevanceRetriever(one, judge, encoder, store) for name, one in made.items()}
    retrievers = {name: made[name] for name in names}
    if plugs is None or not plugged:
        return _Parts(retrievers, made[config.beside] if beside else None)
    soft_prompts = SoftPrompts(plugs, cast("TransformersLM", llm), encoder, store)
    return _Parts(retrievers, made[config.beside], soft_prompts)


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

    def ask(self, requests: Iterable[Request], report: Progress) -> None:
        """Have an answer to every request; those of like length go together."""
        missing = {key: request for request in requests if (key := self._key(request)) not in self._known}
        pending = sorted(missing.items(), key=lambda one: len(one[1].prompt))
        for start in range(0, len(pending), CHUNK):
            chunk = pending[start : start + CHUNK]
            begun = time.perf_counter()
            texts = self._llm.generate([request for _, request in chunk], self._options)
            share = (time.perf_counter() - begun) / len(chunk)
            new = {key: (text, share) for (key, _), text in zip(chunk, texts, strict=True)}
            self._known.update(new)
            if self._path is not None:
                # A leading newline ends what a killed run may have left half-written.
                lines = [json.dumps({"key": key, "text": text, "seconds": share}) for key, (text, share) in new.items()]
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("\n" + "\n".join(lines) + "\n")
            report("answers", start + len(chunk), len(pending))

    def text(self, request: Request) -> str:
        return self._known[self._key(request)][0]

    def seconds(self, requests: Iterable[Request]) -> float:
        return sum(self._known[self._key(request)][1] for request in requests)

    def _key(self, request: Request) -> str:
        parts: list[Any] = [self._llm.fingerprint, asdict(self._options), request.prompt]
        if request.soft_prompt is not None:
            parts.append(hashlib.blake2b(request.soft_prompt.float().numpy().tobytes()).hexdigest())
        if isinstance(request, AdapterRequest):
            parts.append([request.adapter, request.identity])
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


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
        difference = gain = None
        if samples is not None:
            intervals = {
                name: bootstrap_interval(
                    METRICS[name], samples, owners * len(outcome.runs), resamples=config.resamples, seed=config.seed
                )
                for name in split.task.metrics
            }
            if outcome.method != NO_USER:
                difference = compared(samples, plain)
            if outcome.method.startswith(PLUG) and outcome.control != WITHOUT_USER:
                gain = compared(samples, controls.get(outcome.k))
            if outcome.method.split(" + ")[0] in LORA_METHODS:
                gain = compared(samples, task_alone.get(outcome.k))
        rows.append(
            LampRow(
                outcome.method,
                outcome.k,
                outcome.control,
                intervals,
                difference,
                gain,
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
