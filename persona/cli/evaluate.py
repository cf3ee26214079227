"""The command line of evaluations: `persona eval lamp | score | limit | restraint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from persona.cli.retrieve import (
    Base,
    FilterName,
    Judge,
    RetrieverModel,
    WhereText,
    check_encoder_is_read,
    eval_limit,
)
from persona.cli.summaries import eval_restraint
from persona.cli.terminal import (
    AsJson,
    Encoder,
    Llm,
    TaskName,
    UserVectors,
    check_folder,
    check_split,
    names,
    numbers,
    print_json,
    progress_bars,
    say,
    show,
    stage_bars,
)
from persona.errors import InvalidOptionError

eval_app = typer.Typer(
    name="eval",
    help="Score answers the way LaMP does, against controls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, in half the time
)
eval_app.command("limit")(eval_limit)
eval_app.command("restraint")(eval_restraint)


@eval_app.command("lamp")
def eval_lamp(
    data: Annotated[Path, typer.Argument(help="A folder with {train,dev,test}_questions.json.")],
    llm: Llm = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "dev",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma list of none, user-embedder, stats, summary, stats+summary, vocabulary, user-embedder+vocabulary, lora, "
            "lora+task, neighbours, routed and names of retrievers (persona retrieve --help)."
        ),
    ] = "none,bm25-lamp,recency",
    k: Annotated[str, typer.Option("--k", help="Comma list: how many records.")] = "1,4",
    limit: Annotated[int | None, typer.Option(help="Only the first N questions.", min=1)] = None,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also run each method with another user's history.")
    ] = True,
    user_embedder: Annotated[
        str | None,
        typer.Option(
            "--user-embedder", help="Comma list: user embedders of the method user-embedder, one for each seed."
        ),
    ] = None,
    user_embedder_control: Annotated[
        str | None, typer.Option("--user-embedder-control", help="Comma list: the same, trained with --without-user.")
    ] = None,
    user_vectors: UserVectors = None,
    beside: Annotated[
        str, typer.Option(help="Retriever of the records beside a soft prompt, a summary, lifted words or an adapter.")
    ] = "bm25-lamp",
    lora_task: Annotated[
        str | None,
        typer.Option(
            "--lora-task", help="Comma list: task adapters (persona lora train-task) of lora and the like, one a seed."
        ),
    ] = None,
    lora_once: Annotated[
        bool,
        typer.Option(
            "--lora-once", help="One adapter a user, from the earliest question's profile, not one a question."
        ),
    ] = False,
    summary_form: Annotated[
        str | None, typer.Option(help="What a summary is in a prompt: record (one target; the default), or sentence.")
    ] = None,
    vocabulary: Annotated[
        float,
        typer.Option(
            "--vocabulary", help="The weight of the methods vocabulary and user-embedder+vocabulary: above 0.", min=0
        ),
    ] = 0.0,
    summary_llm: Annotated[
        str | None, typer.Option("--summary-llm", help="Writes the summaries (default: the LLM that answers).")
    ] = None,
    encoder: Encoder = None,
    base: Base = None,
    retriever_model: RetrieverModel = None,
    where: WhereText = None,
    relevance: FilterName = None,
    judge: Judge = "question",
    task: TaskName = None,
    golds: Annotated[Path | None, typer.Option(help="The golds, if they lie elsewhere.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for predictions and results (default: runs/DATA-SPLIT-LLM).")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Token budget of the official prompt.", min=1)] = 256,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer (default: by task).", min=1)] = None,
    num_beams: Annotated[int, typer.Option(help="1 is greedy decoding, 4 is LaMP's.", min=1)] = 1,
    mbr: Annotated[
        bool,
        typer.Option("--mbr", help="Ratings: the median of the LLM's distribution over the scores, not the likeliest."),
    ] = False,
    seed: Annotated[int, typer.Option(help="For the random retriever, the controls and the bootstrap.", min=0)] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run methods on a LaMP task and score them, with intervals, yardsticks and controls.

    Resumable: answers that stand in the output folder are not asked for again.
    """
    from persona.assembly import RetrieverOptions, needs_encoder
    from persona.eval.adapters import LORA_METHODS, Adapters
    from persona.eval.lamp import run_lamp
    from persona.eval.lamp_config import LIFTING_METHODS, USER_EMBEDDER_METHODS, VOCABULARY, LampConfig
    from persona.eval.report import lamp_markdown, lamp_table
    from persona.eval.soft_prompts import UserEmbedders
    from persona.eval.summary_rows import BOTH, RECORD, SUMMARY, SUMMARY_METHODS
    from persona.llm.load import load_llm
    from persona.readers import has_split, read_split
    from persona.settings import Settings

    settings = Settings()
    check_split(split, "train", "dev", "test")
    name = llm or settings.llm
    config = LampConfig(
        methods=names(methods, "--methods"),
        ks=numbers(k, "--k"),
        beside=beside,
        lora_once=lora_once,
        summary_form=RECORD if summary_form is None else summary_form,
        vocabulary=vocabulary,
        limit=limit,
        controls=controls,
        encoder=encoder or settings.encoder,
        base=base,
        retriever_model=retriever_model,
        where=where,
        relevance=relevance,
        judge=judge,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        mbr=mbr,
        seed=seed,
    )
    if user_embedder is None and config.with_user_embedder:
        method = next(one for one in config.methods if one in USER_EMBEDDER_METHODS)
        raise InvalidOptionError(f"the method {method!r} needs a user embedder: name its folder with --user-embedder")
    for option, given, read_by in (
        ("--user-embedder", user_embedder, USER_EMBEDDER_METHODS),
        ("--lora-task", lora_task, LORA_METHODS),
    ):
        if given is not None and set(read_by).isdisjoint(config.methods):
            raise InvalidOptionError(
                f"{option} is read by the methods {', '.join(read_by)}, and {methods} has none of them: name one"
            )
    if user_embedder_control is not None and user_embedder is None:
        raise InvalidOptionError(
            "--user-embedder-control stands beside user embedders: name their folders with --user-embedder"
        )
    if vocabulary and set(LIFTING_METHODS).isdisjoint(config.methods):
        raise InvalidOptionError(f"--vocabulary lifts words, and {methods} does not: name the method {VOCABULARY}")
    if user_vectors is not None and user_embedder is None:
        raise InvalidOptionError("--user-vectors are read by a user embedder: name its folder with --user-embedder")
    embedded = user_embedder is not None and user_vectors is None
    read = (
        relevance is not None
        or embedded
        or any(needs_encoder(one, RetrieverOptions(base=base)) for one in config.retrievers)
    )
    check_encoder_is_read(encoder, read, methods)
    user_embedders = None
    if user_embedder is not None:
        without = () if user_embedder_control is None else names(user_embedder_control, "--user-embedder-control")
        user_embedders = UserEmbedders.load(names(user_embedder, "--user-embedder"), without, vectors=user_vectors)
    adapters = None if lora_task is None else Adapters.load(names(lora_task, "--lora-task"))
    written = not {SUMMARY, BOTH}.isdisjoint(config.methods)
    if summary_llm is not None and not written:
        raise InvalidOptionError(f"--summary-llm writes summaries, and {methods} has none: name the method summary")
    if summary_form is not None and set(SUMMARY_METHODS).isdisjoint(config.methods):
        raise InvalidOptionError(f"--summary-form is for summaries, and {methods} has none: name the method stats")
    folder = out or Path("runs") / f"{data.resolve().name}-{split}-{_short_name(name)}"
    check_folder(folder)
    lamp = read_split(data, split, golds=golds, task=task)
    common = None
    if split != "train" and not set(LIFTING_METHODS).isdisjoint(config.methods) and has_split(data, "train"):
        common = read_split(data, "train", task=task)
    with progress_bars("steps") as progress:
        # Over-long inputs are cut as LaMP's own code cuts them, at the right end.
        report = run_lamp(
            lamp,
            load_llm(name, overlong="truncate"),
            config,
            user_embedders=user_embedders,
            adapters=adapters,
            summarizer=None if summary_llm is None else load_llm(summary_llm),
            background=common,
            out=folder,
            progress=stage_bars(progress),
        )
    if as_json:
        print_json(report.as_dict())
    elif markdown:
        say(lamp_markdown(report).rstrip())
    else:
        show(lamp_table(report, title=f"{data.resolve().name} {split}"))
        say(f"predictions and results: {folder}")


def _short_name(llm: str) -> str:
    """An LLM's name as a part of a folder's: of an endpoint the model's, of a folder or hub id the last part."""
    kind, colon, model = llm.partition("@http")[0].rpartition(":")
    name = Path(model).resolve().name
    return f"{kind}-{name}" if colon else name


@eval_app.command("score")
def eval_score(
    golds: Annotated[Path, typer.Option(help="Official outputs file.")],
    predictions: Annotated[Path, typer.Option(help="Predictions in the same form.")],
    task: TaskName = None,
    labels: Annotated[
        str | None, typer.Option(help="Comma list of all labels, where the task does not fix them.")
    ] = None,
    bootstrap: Annotated[
        bool, typer.Option("--bootstrap", help="ROUGE as the official median of 1,000 bootstrap means.")
    ] = False,
    seed: Annotated[int, typer.Option(help="For --bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Score a predictions file exactly as LaMP's evaluator does, offline."""
    from persona.eval.official import score_files

    scores = score_files(
        golds,
        predictions,
        task=task,
        labels=None if labels is None else names(labels, "--labels"),
        bootstrap=bootstrap,
        seed=seed,
    )
    if as_json:
        print_json({"task": scores.task, "questions": scores.questions, **scores.values})
    else:
        say(f"{scores.task}, {scores.questions} questions")
        for metric, value in scores.values.items():
            say(f"{metric:10} {value:.4f}")
