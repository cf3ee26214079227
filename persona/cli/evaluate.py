"""Evaluation: `persona eval lamp | score | restraint`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.options import command
from persona.cli.terminal import (
    Encoder,
    General,
    Llm,
    TaskName,
    check_encoder_is_read,
    check_folder,
    check_split,
    embed_views,
    group,
    load_llm,
    load_read_encoder,
    names,
    progress_bars,
    report,
    say,
    show,
    stage_bars,
)
from persona.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from persona.eval.lamp_config import LampConfig
    from persona.lamp.tasks import LampSplit
    from persona.protocols import Retriever

app = group("eval", "Score answers as LaMP does.")


@dataclass(frozen=True)
class LampFiles:
    """Where the questions, models and yardsticks of `persona eval lamp` come from.

    Attributes:
        task: LaMP_1 ... LaMP_7 or LaMP_2N, where the files do not say it.
        golds: the golds, if they lie elsewhere.
        user_embedder_control: the same user embedders, trained with ``without_user=true``; one for each seed.
        user_vectors: vectors of users that you have (.parquet, or .npy with .ids.jsonl), for a user embedder that reads
            them.
        summary_llm: writes the summaries; unset, the LLM that answers.
        markdown: print the table as Markdown.
    """

    task: str | None = None
    golds: str | None = None
    user_embedder_control: tuple[str, ...] = ()
    user_vectors: str | None = None
    summary_llm: str | None = None
    markdown: bool = False


def _lamp_defaults() -> dict[str, Any]:
    from persona.eval.lamp_config import LampConfig
    from persona.settings import Settings

    return {"": LampConfig(encoder=Settings().encoder), "files": LampFiles()}


@dataclass(frozen=True)
class EvalLamp:
    """Options of `persona eval lamp`; those that are given go into `persona.eval.lamp_config.LampConfig`.

    Attributes:
        data: a folder with {train,dev,test}_questions.json.
        split: train, dev or test.
        methods: comma list of none, user-embedder, stats, summary, stats+summary, vocabulary, user-embedder+vocabulary,
            lora, lora+task, neighbours, routed and names of retrievers (persona retrieve --help); default:
            none,bm25-lamp,recency.
        ks: comma list: how many records (default: 1,4).
        limit: only the first N questions.
        controls: also each method with another user's history (default: yes).
        user_embedder: comma list: user embedders of the method user-embedder, one for each seed.
        adapters: comma list: task adapters (persona train adapters DATA) of lora and the like, one for each seed.
        out: folder for predictions and results (default: runs/DATA-SPLIT-LLM).
    """

    data: Path
    llm: Llm = None
    split: str = "dev"
    methods: str | None = None
    ks: Annotated[str | None, typer.Option("--k")] = None
    limit: Annotated[int | None, typer.Option(min=1)] = None
    controls: Annotated[bool | None, typer.Option("--controls/--no-controls")] = None
    user_embedder: str | None = None
    adapters: str | None = None
    encoder: Encoder = None
    out: Path | None = None


@command(app, "lamp", EvalLamp, settings=_lamp_defaults)
def eval_lamp(options: EvalLamp, settings: Mapping[str, Any]) -> None:
    """Run methods on a LaMP task and score them.

    With intervals, yardsticks and controls. Resumable: answers that stand in the output folder are not asked for again.
    """
    from persona.eval.adapters import Adapters
    from persona.eval.lamp import run_lamp
    from persona.eval.lamp_config import LIFTING_METHODS
    from persona.eval.report import lamp_markdown, lamp_table
    from persona.eval.soft_prompts import UserEmbedders
    from persona.readers import has_split, read_split
    from persona.settings import Settings

    check_split(options.split, "train", "dev", "test")
    config, files = settings[""], settings["files"]
    _check_lamp(options, config, files)
    user_embedders = adapters = None
    if options.user_embedder is not None:
        named = names(options.user_embedder, "--user-embedder")
        vectors = None if files.user_vectors is None else Path(files.user_vectors)
        user_embedders = UserEmbedders.load(named, files.user_embedder_control, vectors=vectors)
    if options.adapters is not None:
        adapters = Adapters.load(names(options.adapters, "--adapters"))
    llm = options.llm or Settings().llm
    folder = options.out or Path("runs") / f"{options.data.resolve().name}-{options.split}-{_short_name(llm)}"
    check_folder(folder)
    golds = None if files.golds is None else Path(files.golds)
    split = read_split(options.data, options.split, golds=golds, task=files.task)
    background = None
    if options.split != "train" and not set(LIFTING_METHODS).isdisjoint(config.methods):
        background = read_split(options.data, "train", task=files.task) if has_split(options.data, "train") else None
    with progress_bars("steps") as progress:
        done = run_lamp(
            split,
            # Over-long inputs are cut as LaMP's own code cuts them, at the right end.
            load_llm(llm, overlong="truncate"),
            config,
            user_embedders=user_embedders,
            adapters=adapters,
            summarizer=None if files.summary_llm is None else load_llm(files.summary_llm),
            background=background,
            out=folder,
            progress=stage_bars(progress),
        )
    if report(done.as_dict()):
        return
    if files.markdown:
        say(lamp_markdown(done).rstrip())
    else:
        show(lamp_table(done, title=f"{options.data.resolve().name} {options.split}"))
        say(f"predictions and results: {folder}")


def _check_lamp(options: EvalLamp, config: LampConfig, files: LampFiles) -> None:
    """Refuse options that no method reads, before anything is loaded."""
    from persona.eval.adapters import LORA_METHODS
    from persona.eval.lamp_config import USER_EMBEDDER_METHODS
    from persona.eval.summary_rows import BOTH, SUMMARY
    from persona.retrievers.registry import RetrieverOptions, needs_encoder

    methods = ",".join(config.methods)
    if options.user_embedder is None and config.with_user_embedder:
        method = next(each for each in config.methods if each in USER_EMBEDDER_METHODS)
        raise InvalidOptionError(f"the method {method!r} needs a user embedder: name its folder with --user-embedder")
    for name, given, read_by in (
        ("--user-embedder", options.user_embedder, USER_EMBEDDER_METHODS),
        ("--adapters", options.adapters, LORA_METHODS),
        ("`summary_llm`", files.summary_llm, (SUMMARY, BOTH)),
    ):
        if given is not None and set(read_by).isdisjoint(config.methods):
            raise InvalidOptionError(
                f"{name} is read by the methods {', '.join(read_by)}, and {methods} has none of them: name one"
            )
    for name, value in (("control", files.user_embedder_control), ("vectors", files.user_vectors)):
        if value and options.user_embedder is None:
            raise InvalidOptionError(f"there is no user embedder for {name} {value!r}: name one with --user-embedder")
    embedded = options.user_embedder is not None and files.user_vectors is None
    retrievers = any(needs_encoder(each, RetrieverOptions(base=config.base)) for each in config.retrievers)
    check_encoder_is_read(options.encoder, config.relevance is not None or embedded or retrievers, methods)


def _short_name(llm: str) -> str:
    """An LLM's name as a part of a folder's: of an endpoint the model's, of a folder or hub id the last part."""
    kind, colon, model = llm.partition("@http")[0].rpartition(":")
    name = Path(model).resolve().name
    return f"{kind}-{name}" if colon else name


@dataclass(frozen=True)
class EvalScore:
    """Options of `persona eval score`.

    Attributes:
        golds: official outputs file.
        predictions: predictions in the same form.
        labels: comma list of all labels, where the task does not fix them.
        bootstrap: ROUGE as the official median of 1,000 bootstrap means.
    """

    golds: Path
    predictions: Path
    task: TaskName = None
    labels: str | None = None
    bootstrap: bool = False


@command(app, "score", EvalScore)
def eval_score(options: EvalScore) -> None:
    """Score a file as LaMP's evaluator does."""
    from persona.eval.official import score_files

    scores = score_files(
        options.golds,
        options.predictions,
        task=options.task,
        labels=None if options.labels is None else names(options.labels, "--labels"),
        bootstrap=options.bootstrap,
    )
    report(
        {"task": scores.task, "questions": scores.questions, **scores.values},
        f"{scores.task}, {scores.questions} questions",
        *(f"{metric:10} {value:.4f}" for metric, value in scores.values.items()),
    )


@dataclass(frozen=True)
class RestraintSettings:
    """What `persona eval restraint` runs on.

    Attributes:
        split: train or dev.
        k: how many records at most.
        task: LaMP_1 ... LaMP_7 or LaMP_2N, where the files do not say it.
        encoder: what compares vectors; unset, PERSONA_ENCODER, or minilm.
        max_length: token budget of the official prompt.
        max_new_tokens: longest answer.
        base: for rerank and diverse, the retriever whose records they reorder.
        model: of late_interaction and rerank; unset, their own.
        where: only these records, e.g. 'time>=2011'.
        judge: what the filter judges: question (all of the records found, or none), or record (each alone).
        seed: who asks which general question, and the bootstrap.
        markdown: print the table as Markdown.
    """

    split: str = "dev"
    k: int = 1
    task: str | None = None
    encoder: str | None = None
    max_length: int = 256
    max_new_tokens: int = 64
    base: str | None = None
    model: str | None = None
    where: str | None = None
    judge: str = "question"
    seed: int = 0
    markdown: bool = False


@dataclass(frozen=True)
class EvalRestraint:
    """Options of `persona eval restraint`.

    Attributes:
        data: a folder with {train,dev}_questions.json and outputs.
        methods: comma list of retrievers, beside the row none; the first one's score is what the others are to keep.
        filters: a relevance filter: untrained, or a folder of `persona train filter`. May be given several times.
        limit: only the first N questions of the task, and at most N of --general.
        out: folder for answers, from which a stopped run goes on, and results.json.
    """

    data: Path
    llm: Llm = None
    methods: str = "bm25-lamp"
    filters: Annotated[list[str], typer.Option("--filter")] = field(default_factory=list)
    general: General = field(default_factory=list)
    limit: Annotated[int | None, typer.Option(min=1)] = None
    out: Path | None = None


@command(
    app,
    "restraint",
    EvalRestraint,
    settings=lambda: {"": RestraintSettings()},
    known="split, k, task, encoder, max_length, max_new_tokens, markdown, base, model, where, judge and seed",
)
def eval_restraint(options: EvalRestraint, settings: Mapping[str, RestraintSettings]) -> None:
    """Ask questions that need no personal records.

    And see whether they are left alone: 120 general questions and those of --general in the name of the users of a LaMP
    task, beside the task's own questions. With --filter each retriever runs as it is and with the filter over it.
    """
    from persona.eval.general_questions import GENERAL_QUESTIONS, read_general
    from persona.eval.report import restraint_cells, restraint_table
    from persona.eval.restraint import run_restraint
    from persona.readers import read_split

    wanted = settings[""]
    check_split(wanted.split, "train", "dev")
    methods = _restraint_methods(options, wanted.judge)
    if options.out is not None:
        check_folder(options.out)
    split = read_split(options.data, wanted.split, task=wanted.task)
    at_most = options.limit or len(split.questions)
    more = [each for file in options.general for each in read_general(file, at_most, wanted.split)]
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bars("steps"))
        retrievers, config = _restraint_retrievers(methods, options, wanted, split, stack, progress)
        done = run_restraint(
            split,
            load_llm(options.llm, overlong="truncate"),
            retrievers,
            k=wanted.k,
            limit=options.limit,
            general=(*GENERAL_QUESTIONS, *more),
            max_length=wanted.max_length,
            max_new_tokens=wanted.max_new_tokens,
            seed=wanted.seed,
            out=options.out,
            config={"split": wanted.split, "general": list(map(str, options.general)), **config},
            progress=stage_bars(progress),
        )
    if report(done.as_dict()):
        return
    if wanted.markdown:
        header, *rows = restraint_cells(done)
        for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            say(f"| {' | '.join(cells)} |")
    else:
        show(restraint_table(done, title=f"{options.data.resolve().name} {wanted.split}"))
        if options.out is not None:
            say(f"answers and results: {options.out}")


def _restraint_methods(options: EvalRestraint, judge: str) -> tuple[str, ...]:
    """The retrievers to run, checked before anything is loaded."""
    from persona.eval.restraint import NO_USER
    from persona.retrievers.registry import check_retriever

    methods = names(options.methods, "--methods")
    if NO_USER in methods:
        raise InvalidOptionError(
            f"the row {NO_USER!r} is always there: --methods names retrievers, was: {options.methods!r}"
        )
    for name in methods:
        check_retriever(name)
    if judge != "question" and not options.filters:
        raise InvalidOptionError(
            f"`judge` says what a filter judges, and there is none: name one with --filter, was: {judge!r}"
        )
    return methods


def _restraint_retrievers(
    methods: tuple[str, ...],
    options: EvalRestraint,
    wanted: RestraintSettings,
    split: LampSplit,
    stack: ExitStack,
    progress: Progress,
) -> tuple[dict[str, Retriever], dict[str, Any]]:
    """Each retriever as it is and with each filter over it, by the names of their rows; and what says so in results."""
    from persona.retrievers.registry import RetrieverOptions, make_retrievers, needs_encoder
    from persona.retrievers.relevance.filters import load_filter
    from persona.store.profile_store import ProfileStore

    retrieval = RetrieverOptions(
        split.task.view, wanted.seed, base=wanted.base, model=wanted.model, where=wanted.where, judge=wanted.judge
    )
    reads = bool(options.filters) or any(needs_encoder(name, retrieval) for name in methods)
    loaded = load_read_encoder(wanted.encoder, reads, options.methods)
    filters, store = {}, None
    if loaded is not None:
        filters = {name: load_filter(name, loaded) for name in dict.fromkeys(options.filters)}
        folder = stack.enter_context(TemporaryDirectory())
        store = stack.enter_context(ProfileStore(f"sqlite:///{folder}/vectors.db"))
        asked = split.questions[: options.limit]
        store.upsert((question.user_id, record) for question in asked for record in question.profile)
        embed_views(store, loaded, dict.fromkeys([retrieval.view, *(each.view for each in filters.values())]), progress)
    plain = make_retrievers(methods, replace(retrieval, judge="question"), encoder=loaded, store=store)
    filtered = {
        name: make_retrievers(methods, replace(retrieval, relevance=each), encoder=loaded, store=store)
        for name, each in filters.items()
    }
    retrievers: dict[str, Retriever] = {}
    for name in methods:
        retrievers[name] = plain[name]
        for called, each in filtered.items():
            retrievers[f"{name} + {'filter' if len(filters) == 1 else called}"] = each[name]
    return retrievers, {
        "methods": methods,
        "filters": {called: [each.fingerprint, each.threshold] for called, each in filters.items()},
        "judge": retrieval.judge,
        "encoder": None if loaded is None else loaded.fingerprint,
        "base": retrieval.base,
        "retriever_model": retrieval.model,
        "where": retrieval.where,
    }
