"""Evaluation: `persona eval lamp | restraint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli import terminal
from persona.cli.options import command
from persona.errors import InvalidOptionError, check_one_of
from persona.llm.endpoint.options import AskingOptions

if TYPE_CHECKING:
    from persona.eval.options import LampOptions
    from persona.eval.report import Report

app = terminal.group("eval", "Score answers as LaMP does.")


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

    options = {
        "": LampOptions(encoder=terminal.settings().encoder),
        "retrieval": RetrieverOptions(),
        "files": LampFiles(),
    }
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
    llm: terminal.Llm = None
    split: str = "dev"
    methods: str | None = None
    ks: Annotated[str | None, typer.Option("--k")] = None
    limit: Annotated[int | None, typer.Option(min=1)] = None
    controls: Annotated[bool | None, typer.Option("--controls/--no-controls")] = None
    mask: Annotated[bool | None, typer.Option("--mask")] = None
    user_embedders: Annotated[str | None, typer.Option("--user-embedder")] = None
    task_adapters: Annotated[str | None, typer.Option("--adapters")] = None
    encoder: terminal.Encoder = None
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

    check_one_of(("train", "dev", "test"), split=options.split)
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
    terminal.check_encoder_is_read(options.encoder, chosen.reads_vectors, ",".join(chosen.methods))
    llm = options.llm or terminal.settings().llm
    folder = options.out or Path("runs") / f"{options.data.resolve().name}-{options.split}-{short_name(llm)}"
    terminal.check_folder(folder)
    benchmark = LampBenchmark.read(
        options.data, options.split, files.golds, task=files.task, rouge_words=files.rouge_words
    )
    with terminal.progress_bars("steps") as progress:
        # Over-long inputs are cut as LaMP's own code cuts them, at the right end.
        answering = terminal.load_llm(llm, settings["llm"], overlong="truncate")
        if options.dry_run:
            cost = lamp_cost(benchmark, answering, chosen, out=folder)
            terminal.report(asdict(cost), f"dry run, nothing was asked: {cost}")
            return
        done = evaluate_lamp(benchmark, answering, chosen, out=folder, progress=terminal.stage_bars(progress))
    show_evaluation(done, f"{options.data.resolve().name} {options.split}", folder, as_markdown=files.markdown)


def show_evaluation(done: Report, title: str, folder: Path | None, *, as_markdown: bool = False) -> None:
    """The tables of an evaluation, where all of it lies, and what was not answered."""
    from persona.eval.report import markdown, table

    kinds = done.by_kind()
    if terminal.report(done.as_dict()):
        pass
    elif as_markdown:
        terminal.say("\n".join([done.markdown(), *([markdown(kinds)] if kinds else [])]).rstrip())
    else:
        terminal.show(done.table(title))
        if kinds:
            terminal.show(table(kinds, title=f"{kinds[0][0]} by kind"))
        for note in done.notes:
            terminal.say(note)
        if folder is not None:
            terminal.say(f"answers and results: {folder}")
    terminal.report_failures("questions", ((f"{each.question} of {each.row!r}", each.reason) for each in done.failures))


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
        labels=None if files.labels is None else terminal.names(files.labels, "files.labels"),
        bootstrap=files.bootstrap,
        rouge_words=files.rouge_words,
    )
    terminal.report(
        {"task": scores.task, "questions": scores.questions, **scores.values},
        f"{scores.task}, {scores.questions} questions",
        *(f"{metric:10} {value:.4f}" for metric, value in scores.values.items()),
    )


@dataclass(frozen=True)
class RestraintFiles:
    """What `persona eval restraint` reads and prints besides.

    Attributes:
        split: train or dev.
        task: LaMP_1 ... LaMP_7 or LaMP_2N, where the files do not say it.
        markdown: print the table as Markdown.
    """

    split: str = "dev"
    task: str | None = None
    markdown: bool = False


def _restraint_defaults() -> dict[str, Any]:
    from persona.eval.options import LampOptions

    options = LampOptions(methods=("bm25-lamp",), ks=(1,), max_new_tokens=64, encoder=terminal.settings().encoder)
    return {**_lamp_defaults(), "": options, "files": RestraintFiles()}


@dataclass(frozen=True)
class EvalRestraint:
    """Options of `persona eval restraint`.

    Attributes:
        data: a folder with {train,dev}_questions.json and outputs.
        methods: comma list of retrievers, beside the row none; the first one's score is what the others are to keep
            (default: bm25-lamp).
        filters: a relevance filter: untrained, or a folder of `persona train filter`. May be given several times.
        limit: only the first N questions of the task, and at most N of --general.
        out: folder for answers, from which a stopped run goes on, and results.json.
    """

    data: Path
    llm: terminal.Llm = None
    methods: str | None = None
    filters: Annotated[list[str], typer.Option("--filter")] = field(default_factory=list)
    general: terminal.General = field(default_factory=list)
    limit: Annotated[int | None, typer.Option(min=1)] = None
    out: Path | None = None


@command(app, "restraint", EvalRestraint, settings=_restraint_defaults)
def eval_restraint(options: EvalRestraint, settings: Mapping[str, Any]) -> None:
    """Ask questions that need no personal records.

    And see whether they are left alone: 120 general questions and those of --general in the name of the users of a LaMP
    task, beside the task's own questions. With --filter each retriever runs as it is and with the filter over it.
    """
    from persona.eval.benchmarks.general_questions import GENERAL_QUESTIONS, read_general
    from persona.eval.benchmarks.lamp import LampBenchmark
    from persona.eval.lamp import evaluate_lamp_restraint

    files: RestraintFiles = settings["files"]
    check_one_of(("train", "dev"), split=files.split)
    chosen = replace(settings[""], retrieval=settings["retrieval"])
    _check_restraint(options, chosen)
    if options.out is not None:
        terminal.check_folder(options.out)
    benchmark = LampBenchmark.read(options.data, files.split, task=files.task)
    at_most = options.limit or len(benchmark.questions)
    more = [each for file in options.general for each in read_general(file, at_most, files.split)]
    with terminal.progress_bars("steps") as progress:
        done = evaluate_lamp_restraint(
            benchmark,
            terminal.load_llm(options.llm, settings["llm"], overlong="truncate"),
            chosen,
            options.filters,
            (*GENERAL_QUESTIONS, *more),
            out=options.out,
            progress=terminal.stage_bars(progress),
        )
    show_evaluation(done, f"{options.data.resolve().name} {files.split}", options.out, as_markdown=files.markdown)


def _check_restraint(options: EvalRestraint, chosen: LampOptions) -> None:
    """Refuse what cannot run, or what nothing reads, before anything is loaded."""
    from persona.eval.options import NONE
    from persona.retrievers.registry import check_retriever

    for name in chosen.methods:
        if name == NONE:
            raise InvalidOptionError(f"the row {NONE!r} is always there: --methods names retrievers")
        check_retriever(name)
    usual = _restraint_defaults()[""]
    for name in ("answers", "calibration", "calibration_questions", "controls", "failures"):
        if getattr(chosen, name) != getattr(usual, name):
            raise InvalidOptionError(f"`{name}` is read by no row of restraint: leave it out")
    judge = chosen.retrieval.judge
    if judge != "question" and not options.filters:
        raise InvalidOptionError(
            f"`judge` says what a filter judges, and there is none: name one with --filter, was: {judge!r}"
        )
    encoder = None if chosen.encoder == terminal.settings().encoder else str(chosen.encoder)
    terminal.check_encoder_is_read(encoder, bool(options.filters) or chosen.reads_vectors, ",".join(chosen.methods))
