"""Evaluation: `persona eval lamp | restraint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.options import command
from persona.cli.terminal import (
    LLM_SETTINGS,
    Encoder,
    General,
    Llm,
    check_encoder_is_read,
    check_folder,
    check_split,
    group,
    load_llm,
    names,
    progress_bars,
    report,
    report_failures,
    say,
    show,
    stage_bars,
)
from persona.errors import InvalidOptionError
from persona.llm.endpoint.options import AskingOptions

if TYPE_CHECKING:
    from persona.eval.options import LampOptions
    from persona.retrievers.registry import RetrieverOptions

app = group("eval", "Score answers as LaMP does.")


@dataclass(frozen=True)
class LampFiles:
    """What `persona eval lamp` reads and prints besides.

    Attributes:
        task: LaMP_1 ... LaMP_7 or LaMP_2N, where the files do not say it.
        golds: the golds, if they lie elsewhere.
        predictions: score this file of answers as LaMP's evaluator does, and ask nothing; DATA may be the golds.
        labels: comma list of all labels of `predictions`, where the task does not fix them.
        bootstrap: ROUGE of `predictions` as the official median of 1,000 bootstrap means.
        rouge_words: what ROUGE compares: official (a-z and 0-9), or all-scripts.
        markdown: print the table as Markdown.
    """

    task: str | None = None
    golds: str | None = None
    predictions: str | None = None
    labels: str | None = None
    bootstrap: bool = False
    rouge_words: str = "official"
    markdown: bool = False


def _lamp_defaults() -> dict[str, Any]:
    from persona.eval.options import LampOptions
    from persona.retrievers.registry import RetrieverOptions
    from persona.settings import Settings

    options = {"": LampOptions(encoder=Settings().encoder), "retrieval": RetrieverOptions(), "files": LampFiles()}
    return {**options, "llm": AskingOptions()}


@dataclass(frozen=True)
class EvalLamp:
    """Options of `persona eval lamp`; those that are given go into `persona.eval.options.LampOptions`.

    Attributes:
        data: a folder with {train,dev,test}_questions.json.
        split: train, dev or test.
        methods: comma list of none, user-embedder, stats, summary, stats+summary, steering, lora, lora+task,
            neighbours, routed, one-pass and names of retrievers (persona retrieve --help); default:
            none,bm25-lamp,recency.
        ks: comma list: how many records (default: 1,4).
        limit: only the first N questions.
        controls: also each method with another user's history (default: yes).
        mask: quote records as serving does; the default is LaMP's wording to the byte.
        user_embedders: comma list: user embedders of the method user-embedder, one for each seed.
        task_adapters: comma list: task adapters (persona train adapters DATA) of lora and the like, one for each seed.
        out: folder for predictions and results (default: runs/DATA-SPLIT-LLM).
        dry_run: ask nothing; say how many requests and tokens it would be.
    """

    data: Path
    llm: Llm = None
    split: str = "dev"
    methods: str | None = None
    ks: Annotated[str | None, typer.Option("--k")] = None
    limit: Annotated[int | None, typer.Option(min=1)] = None
    controls: Annotated[bool | None, typer.Option("--controls/--no-controls")] = None
    mask: Annotated[bool | None, typer.Option("--mask")] = None
    user_embedders: Annotated[str | None, typer.Option("--user-embedder")] = None
    task_adapters: Annotated[str | None, typer.Option("--adapters")] = None
    encoder: Encoder = None
    out: Path | None = None
    dry_run: bool = False


@command(app, "lamp", EvalLamp, settings=_lamp_defaults)
def eval_lamp(options: EvalLamp, settings: Mapping[str, Any]) -> None:
    """Run methods on a LaMP task and score them.

    With intervals, baselines and controls. Resumable: answers that stand in the output folder are not asked for again.
    With `--set files.predictions=FILE` it scores answers that were made elsewhere.
    """
    from persona.eval.benchmarks.lamp import LampBenchmark
    from persona.eval.lamp import evaluate_lamp, lamp_cost
    from persona.settings import Settings

    check_split(options.split, "train", "dev", "test")
    files: LampFiles = settings["files"]
    if files.predictions is not None:
        if options != EvalLamp(options.data, split=options.split):
            raise InvalidOptionError("`files.predictions` is scored and nothing is asked: leave the other options out")
        _score(options.data, options.split, files)
        return
    if files.labels is not None or files.bootstrap:
        raise InvalidOptionError(
            "`files.labels` and `files.bootstrap` are for a file of answers: name files.predictions"
        )
    chosen = replace(settings[""], retrieval=settings["retrieval"])
    check_encoder_is_read(options.encoder, chosen.reads_vectors, ",".join(chosen.methods))
    llm = options.llm or Settings().llm
    folder = options.out or Path("runs") / f"{options.data.resolve().name}-{options.split}-{short_name(llm)}"
    check_folder(folder)
    benchmark = LampBenchmark.read(
        options.data, options.split, files.golds, task=files.task, rouge_words=files.rouge_words
    )
    with progress_bars("steps") as progress:
        # Over-long inputs are cut as LaMP's own code cuts them, at the right end.
        answering = load_llm(llm, settings["llm"], overlong="truncate")
        if options.dry_run:
            cost = lamp_cost(benchmark, answering, chosen, out=folder)
            report(asdict(cost), f"dry run, nothing was asked: {cost}")
            return
        done = evaluate_lamp(benchmark, answering, chosen, out=folder, progress=stage_bars(progress))
    if report(done.as_dict()):
        pass
    elif files.markdown:
        say(done.markdown().rstrip())
    else:
        show(done.table(f"{options.data.resolve().name} {options.split}"))
        say(f"predictions, results and report.html: {folder}")
    report_failures("questions", ((f"{each.question} of {each.row!r}", each.reason) for each in done.failures))


def short_name(llm: str) -> str:
    """An LLM's name as a part of a folder's: of an endpoint the model's, of a folder or hub id the last part."""
    kind, colon, model = llm.partition("@http")[0].rpartition(":")
    name = Path(model).resolve().name
    return f"{kind}-{name}" if colon else name


def _score(data: Path, split: str, files: LampFiles) -> None:
    """Score a file of answers, as LaMP's evaluator does."""
    from persona.eval.benchmarks.lamp import score_files

    scores = score_files(
        Path(files.golds or (data / f"{split}_outputs.json" if data.is_dir() else data)),
        Path(files.predictions or ""),
        task=files.task,
        labels=None if files.labels is None else names(files.labels, "files.labels"),
        bootstrap=files.bootstrap,
        rouge_words=files.rouge_words,
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
        rouge_words: what ROUGE compares: official (a-z and 0-9), or all-scripts.
        markdown: print the table as Markdown.
    """

    split: str = "dev"
    k: int = 1
    task: str | None = None
    encoder: str | None = None
    max_length: int = 256
    max_new_tokens: int = 64
    markdown: bool = False


def _restraint_defaults() -> dict[str, Any]:
    from persona.retrievers.registry import RetrieverOptions

    return {"": RestraintSettings(), "retrieval": RetrieverOptions(), "llm": AskingOptions()}


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
    settings=_restraint_defaults,
    known="split, k, task, encoder, max_length, max_new_tokens, markdown, base, model, where, judge, seed, "
    + LLM_SETTINGS,
)
def eval_restraint(options: EvalRestraint, settings: Mapping[str, Any]) -> None:
    """Ask questions that need no personal records.

    And see whether they are left alone: 120 general questions and those of --general in the name of the users of a LaMP
    task, beside the task's own questions. With --filter each retriever runs as it is and with the filter over it.
    """
    from persona.eval.benchmarks.general_questions import GENERAL_QUESTIONS, read_general
    from persona.eval.benchmarks.lamp import LampBenchmark
    from persona.eval.lamp import evaluate_lamp_restraint
    from persona.eval.report import markdown

    wanted: RestraintSettings = settings[""]
    check_split(wanted.split, "train", "dev")
    chosen = _restraint_options(options, wanted, settings["retrieval"])
    if options.out is not None:
        check_folder(options.out)
    benchmark = LampBenchmark.read(options.data, wanted.split, task=wanted.task)
    at_most = options.limit or len(benchmark.questions)
    more = [each for file in options.general for each in read_general(file, at_most, wanted.split)]
    with progress_bars("steps") as progress:
        done = evaluate_lamp_restraint(
            benchmark,
            load_llm(options.llm, settings["llm"], overlong="truncate"),
            chosen,
            options.filters,
            (*GENERAL_QUESTIONS, *more),
            out=options.out,
            progress=stage_bars(progress),
        )
    if report(done.as_dict()):
        pass
    elif wanted.markdown:
        say(markdown(done.cells()).rstrip())
    else:
        show(done.table(f"{options.data.resolve().name} {wanted.split}"))
        if options.out is not None:
            say(f"answers and results: {options.out}")
    report_failures("questions", ((f"{each.question} of {each.row!r}", each.reason) for each in done.failures))


def _restraint_options(options: EvalRestraint, wanted: RestraintSettings, retrieval: RetrieverOptions) -> LampOptions:
    """The retrievers to run, checked before anything is loaded."""
    from persona.eval.options import NONE, LampOptions
    from persona.retrievers.registry import check_retriever
    from persona.settings import Settings

    methods = names(options.methods, "--methods")
    if NONE in methods:
        raise InvalidOptionError(
            f"the row {NONE!r} is always there: --methods names retrievers, was: {options.methods!r}"
        )
    for name in methods:
        check_retriever(name)
    if retrieval.judge != "question" and not options.filters:
        raise InvalidOptionError(
            f"`judge` says what a filter judges, and there is none: name one with --filter, was: {retrieval.judge!r}"
        )
    chosen = LampOptions(
        methods=methods,
        ks=(wanted.k,),
        retrieval=retrieval,
        encoder=wanted.encoder or Settings().encoder,
        max_length=wanted.max_length,
        max_new_tokens=wanted.max_new_tokens,
        seed=retrieval.seed,
        limit=options.limit,
    )
    check_encoder_is_read(wanted.encoder, bool(options.filters) or chosen.reads_vectors, options.methods)
    return chosen
