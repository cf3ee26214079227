"""The field's benchmarks: `persona eval NAME DATA`, `persona eval compare` and `persona eval judge-check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from persona.cli import terminal
from persona.cli.evaluate import app, short_name, show_evaluation
from persona.cli.options import command
from persona.errors import InvalidOptionError
from persona.llm.endpoint.options import AskingOptions


class EvalGroup(TyperGroup):
    """``persona eval NAME DATA`` is ``persona eval run NAME DATA``, for every benchmark by its name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first word, `run` where that is a benchmark's name."""
        from persona.eval.benchmarks.registry import BENCHMARKS

        return super().resolve_command(ctx, ["run", *args] if args and args[0] in BENCHMARKS else args)


app.info.cls = EvalGroup


def _defaults() -> dict[str, Any]:
    from persona.eval.benchmarks.named import MethodOptions
    from persona.eval.judging.benchmark import JudgeOptions
    from persona.retrievers.registry import RetrieverOptions

    options = {"": MethodOptions(encoder=terminal.settings().encoder), "retrieval": RetrieverOptions()}
    return {**options, "judge": JudgeOptions(), **_shared_defaults()}


def _shared_defaults() -> dict[str, Any]:
    from persona.eval.benchmarks.registry import BENCHMARKS, benchmark_class

    return {"llm": AskingOptions(), **{name: benchmark_class(name).Options() for name in BENCHMARKS}}


@dataclass(frozen=True)
class EvalRun:
    """Options of `persona eval run`; those that are given go into `persona.eval.benchmarks.named.MethodOptions`.

    Attributes:
        name: locomo, longmemeval, personamem, personamem-v3, prefeval, longlamp, lamp-qa, rpeval, bespoke or probes.
        data: its file or folder, as it is published.
        methods: comma list of none, full and names of retrievers (persona retrieve --help); default: none,full,bm25.
        ks: comma list: how many records (default: 10).
        limit: how many questions, drawn at random (default: all).
        judge: who judges, where answers are judged: an LLM as with --llm; each of two prompts has scores of its own.
        retrieval_only: ask no LLM; see how much of the evidence the retrievers find.
        out: folder for predictions and results (default: runs/NAME-LLM).
    """

    name: str
    data: Path
    llm: terminal.Llm = None
    methods: str | None = None
    ks: Annotated[str | None, typer.Option("--k")] = None
    limit: Annotated[int | None, typer.Option(min=1)] = None
    retrieval_only: bool = False
    encoder: terminal.Encoder = None
    judge: str | None = None
    out: Path | None = None


@command(app, "run", EvalRun, settings=_defaults)
def eval_run(options: EvalRun, settings: Mapping[str, Any]) -> None:
    """Run methods on one of the field's benchmarks.

    `persona eval NAME DATA` does the same. Data are read from your own files, in the layout in which they are
    published. Resumable: answers that stand in the output folder are not asked for again.
    """
    from persona.eval.benchmarks.named import evaluate_benchmark, evaluate_benchmark_retrieval
    from persona.eval.benchmarks.registry import load_benchmark
    from persona.eval.judging.benchmark import JudgeOptions

    _check_settings(options.name, settings)
    chosen = replace(settings[""], retrieval=settings["retrieval"])
    terminal.check_encoder_is_read(options.encoder, chosen.reads_vectors, ",".join(chosen.methods))
    llm = options.llm or terminal.settings().llm
    folder = options.out or Path("runs") / f"{options.name}-{short_name(llm)}"
    terminal.check_folder(folder)
    judges = ()
    if options.judge:
        judges = settings["judge"].judges(terminal.load_llm(options.judge, settings["llm"]), folder)
    elif settings["judge"] != JudgeOptions():
        raise InvalidOptionError("there is no judge that would read the settings of `judge`: name one (--judge LLM)")
    benchmark = load_benchmark(options.name, options.data, judges=judges, **asdict(settings[options.name]))
    if options.retrieval_only:
        with terminal.progress_bars("steps") as progress:
            found = evaluate_benchmark_retrieval(benchmark, chosen, out=folder, progress=terminal.stage_bars(progress))
        show_evaluation(found, "retrieval", folder)
        return
    with terminal.progress_bars("steps") as progress:
        answering = terminal.load_llm(llm, settings["llm"])
        done = evaluate_benchmark(benchmark, answering, chosen, out=folder, progress=terminal.stage_bars(progress))
    show_evaluation(done, options.name, folder)


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Check that there is a benchmark of that name, and that no other one has settings."""
    from persona.eval.benchmarks.registry import BENCHMARKS, benchmark_class

    benchmark_class(name)
    for other in BENCHMARKS:
        if other != name and settings[other] != benchmark_class(other).Options():
            raise InvalidOptionError(f"settings of {other!r} are not read by {name!r}: leave them out")


def _judge_defaults() -> dict[str, Any]:
    from persona.eval.judging.check import CheckOptions

    return {"": CheckOptions(), **_shared_defaults()}


@dataclass(frozen=True)
class EvalJudgeCheck:
    """Options of `persona eval judge-check`.

    Attributes:
        name: a benchmark that is judged: lamp-qa, bespoke, longmemeval or prefeval.
        data: its file or folder, as it is published.
        llm: the judge; as everywhere else.
        prompts: comma list of reasoned/1 and strict/1 (default: both).
        limit: only the first N right and the first N wrong answers.
        out: folder for the replies, from which a stopped check goes on, and results.json (default: runs/judge-LLM).
    """

    name: str
    data: Path
    llm: terminal.Llm = None
    prompts: str | None = None
    limit: Annotated[int | None, typer.Option(min=1)] = None
    out: Path | None = None


@command(app, "judge-check", EvalJudgeCheck, settings=_judge_defaults)
def eval_judge_check(options: EvalJudgeCheck, settings: Mapping[str, Any]) -> None:
    """See how often a judge is wrong.

    It is asked about right answers, about vague wrong ones, with every prompt, and in two runs. With the results
    (--set judge.rates=FILE) `persona eval` corrects judged scores for the judge's errors.
    """
    from persona.eval.benchmarks.registry import load_benchmark
    from persona.eval.judging.check import Checkable, check_judge

    _check_settings(options.name, settings)
    llm = options.llm or terminal.settings().llm
    folder = options.out or Path("runs") / f"judge-{short_name(llm)}"
    terminal.check_folder(folder)
    benchmark = load_benchmark(options.name, options.data, **asdict(settings[options.name]))
    if not isinstance(benchmark, Checkable):
        raise InvalidOptionError(f"{options.name} has no answers of which it is known what a judge should say")
    done = check_judge(benchmark, terminal.load_llm(llm, settings["llm"]), settings[""], out=folder)
    if not terminal.report(done.as_dict()):
        terminal.show(done.table())
        terminal.say(f"replies and rates: {folder}")


@dataclass(frozen=True)
class EvalCompare:
    """Options of `persona eval compare`.

    Attributes:
        a: the folder of a run, or its results.json.
        b: the other one's.
    """

    a: Path
    b: Path


@command(app, "compare", EvalCompare)
def eval_compare(options: EvalCompare) -> None:
    """Compare two runs on the questions of both.

    Each row that both have: a's score minus b's, paired over users, with Holm's correction where there are several.
    """
    from persona.eval.report import table
    from persona.eval.results.comparing import compare

    done = compare(options.a, options.b)
    if terminal.report(done.as_dict()):
        return
    both = f"{done.questions} questions of both{'' if done.config['same_data'] else '; their data differ elsewhere'}"
    terminal.show(
        table(
            done.cells(),
            title=f"{done.benchmark}: {options.a} (a) and {options.b} (b)",
            caption=f"{both}; difference: a minus b, paired; intervals: 95 %, bootstrap over users",
        )
    )


def _bench_defaults() -> dict[str, Any]:
    from persona.eval.bench.ideas import BenchOptions
    from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining

    return {"": BenchOptions(), "embedder": UserEmbedderShape(), "training": UserEmbedderTraining()}


@dataclass(frozen=True)
class EvalBench:
    """Options of `persona eval bench`.

    Attributes:
        data: a folder with {train,dev}_questions.json and outputs.
        ideas: TOML files, one an idea: the settings of a user embedder that differ from the others'.
        out: folder for user embedders, answers and results (default: runs/bench-DATA-LLM).
    """

    data: Path
    ideas: Annotated[list[Path], typer.Argument()]
    llm: terminal.Llm = None
    encoder: terminal.Encoder = None
    out: Path | None = None


@command(app, "bench", EvalBench, settings=_bench_defaults)
def eval_bench(options: EvalBench, settings: Mapping[str, Any]) -> None:
    """Train ideas and see what each is worth.

    All on the same users with the same budget, each beside itself trained without the user and with another user's
    history. Settings are those of all ideas; an idea's own file comes first. Resumable.
    """
    from persona.cli.terminal import load_encoder
    from persona.cli.train import load_trainable
    from persona.eval.bench.run import Bench

    ideas = [_idea(path, settings) for path in options.ideas]
    llm = options.llm or terminal.settings().llm
    folder = options.out or Path("runs") / f"bench-{options.data.resolve().name}-{short_name(llm)}"
    terminal.check_folder(folder)
    with terminal.progress_bars("steps") as progress:
        answering, encoder = load_trainable(llm, overlong="truncate"), load_encoder(options.encoder)
        bench = Bench(options.data, answering, encoder, settings[""], terminal.stage_bars(progress))
        done = bench.run(ideas, folder)
    if not terminal.report(done.as_dict()):
        terminal.show(done.table(options.data.resolve().name))
        terminal.say(f"user embedders, answers and results: {folder}")


def _idea(path: Path, settings: Mapping[str, Any]) -> Any:
    """The idea in a file."""
    from persona.cli.config import configured
    from persona.eval.bench.ideas import Idea, IdeaOptions

    defaults = {"idea": IdeaOptions(), "embedder": settings["embedder"], "training": settings["training"]}
    if not path.is_file():
        raise InvalidOptionError(f"an idea is a TOML file, there is none at {path}")
    given = configured(defaults, file=path)
    return Idea(path.stem, given["idea"], given["embedder"], given["training"])
