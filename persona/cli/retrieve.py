"""The command line of retrieval: the retriever, `persona entities`, `persona filter`, `persona eval limit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.terminal import (
    AsJson,
    Encoder,
    Store,
    TaskName,
    check_folder,
    embed_views,
    names,
    print_json,
    progress_bars,
    say,
    show,
    stage_bars,
)

if TYPE_CHECKING:
    from persona.protocols import RecordEncoder

Base = Annotated[
    str | None,
    typer.Option("--base", help="For diverse (default dense) and rerank (default bm25): finds what they look at."),
]
RetrieverModel = Annotated[
    str | None,
    typer.Option(
        "--retriever-model",
        help="The multi-vector model of late_interaction (default minilm) or the cross-encoder of rerank.",
    ),
]
WhereText = Annotated[
    str | None,
    typer.Option("--where", help="Only these records, e.g. 'time>=2011 and label=5'; other fields are metadata."),
]
FilterName = Annotated[
    str | None,
    typer.Option(
        "--filter", help="No records where nothing is relevant: untrained, or a folder of `persona filter train`."
    ),
]
Judge = Annotated[
    str,
    typer.Option(
        "--judge", help="What the filter judges: question (all of the records found, or none), or record (each alone)."
    ),
]

General = Annotated[
    list[Path] | None,
    typer.Option(
        "--general",
        help="More questions that need nobody's records: a text file with one a line, or a folder like DATA of another "
        "domain. May be given several times.",
    ),
]

filter_app = typer.Typer(
    name="filter",
    help="Relevance filters: when a question needs none of the user's records.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def encoder_for(encoder: str | None, read: bool, by: str, **options: Any) -> RecordEncoder | None:
    """The encoder of `--encoder` or the setting; None if `by`, the retriever or the methods, does not read it.

    Raises:
        InvalidOptionError: if one was named that is not read.
        ModelLoadError: if there is none of that name.
    """
    check_encoder_is_read(encoder, read, by)
    if not read:
        return None
    from persona.encoders.load import load_encoder
    from persona.settings import Settings

    return load_encoder(encoder or Settings().encoder, **options)


def check_encoder_is_read(encoder: str | None, read: bool, by: str) -> None:
    """Refuse an `--encoder` that nothing reads.

    Raises:
        InvalidOptionError: if it was given and is not read.
    """
    if encoder is not None and not read:
        from persona.errors import InvalidOptionError

        raise InvalidOptionError(
            f"--encoder is for what compares vectors, and {by} does not: leave it out, or take a retriever that does "
            f"(e.g. dense); was: {encoder!r}"
        )


def entities(
    user_id: Annotated[str, typer.Argument(help="Whose.")],
    store: Store = None,
    forget: Annotated[str | None, typer.Option("--forget", help="Forget this entity of the user for good.")] = None,
    limit: Annotated[int, typer.Option(help="Show at most so many.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what a user names again and again, with counts that fade with time; or forget one name.

    A forgotten name stays forgotten when records come or go. The records that hold it stay as they are.
    """
    from dataclasses import asdict

    from persona.errors import UnknownUserError
    from persona.retrievers.entities import EntityStore
    from persona.settings import open_store

    with open_store(store) as opened:
        if user_id not in opened:
            raise UnknownUserError(f"the store holds nothing on {user_id!r}")
        kept = EntityStore(opened)
        had = None if forget is None else kept.forget(user_id, forget)
        kept.update([user_id])
        found = kept.entities(opened.profile(user_id))
    if as_json:
        print_json({"user_id": user_id, "had": had, "entities": [asdict(one) for one in found[:limit]]})
        return
    if forget is not None:
        say(f"forgot {forget!r} of {user_id!r}" + ("" if had else ": it was not among the entities, and will not be"))
        return
    if not found:
        say(f"no entities: no record of {user_id!r} names any")
    for one in found[:limit]:
        records = f"{one.count} record{'' if one.count == 1 else 's'}"
        say(f"{one.weight:8.3f}  {one.name}  ({records}, last {one.last or 'undated'})")
    if len(found) > limit:
        say(f"and {len(found) - limit} more: raise --limit to see them")


@filter_app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder with train_questions.json.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the filter.")],
    encoder: Encoder = None,
    task: TaskName = None,
    general: General = None,
    recall: Annotated[
        float | None, typer.Option(help="Wanted share of the users' own questions that keep their records (0.97).")
    ] = None,
    restraint: Annotated[
        float | None,
        typer.Option(help="Least share of the general questions that keep none (0.9); goes before --recall."),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(help="In place of both: wanted share of own questions among those that keep records."),
    ] = None,
    questions: Annotated[int, typer.Option(help="At most so many questions of DATA.", min=1)] = 1000,
    records: Annotated[
        int | None,
        typer.Option(
            help="At most so many records of DATA that stand as questions, too (4000; none with a target).", min=0
        ),
    ] = None,
    view: Annotated[
        str, typer.Option(help="What of a record is compared: text, target, target+text or title+text.")
    ] = "text",
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a relevance filter on the training users of a LaMP task.

    A user's own questions are to keep their records, general questions none. Some 160 general ones come with persona;
    give more with --general, of the kind that your users ask beside the task.
    """
    from dataclasses import asdict
    from tempfile import TemporaryDirectory

    from persona.encoders.load import load_encoder
    from persona.errors import InvalidOptionError
    from persona.eval.general_questions import read_general
    from persona.readers import read_split
    from persona.retrievers.relevance_training import (
        GENERAL,
        LEAST_GENERAL,
        RelevanceTraining,
        train_relevance,
        training_questions,
    )
    from persona.settings import Settings
    from persona.store.profile_store import ProfileStore

    if precision is not None and (recall is not None or restraint is not None):
        given = [f"--{name}" for name, value in (("recall", recall), ("restraint", restraint)) if value is not None]
        raise InvalidOptionError(
            f"--precision stands in place of --recall and --restraint: leave it out, or {' and '.join(given)}"
        )
    if records and "target" in view:
        raise InvalidOptionError(
            f"no record stands as a question in a view with its target: leave --records out, was: {records}"
        )
    options = RelevanceTraining(
        recall=0.97 if recall is None else recall,
        restraint=0.9 if restraint is None else restraint,
        precision=precision,
        questions=questions,
        records=4000 if records is None else records,
        view=view,
        seed=seed,
    )
    check_folder(out)
    split = read_split(data, "train", task=task)
    kinds: dict[str, list[str]] = {name: list(texts) for name, texts in GENERAL.items()}
    for place in general or ():
        more = [one.query or one.question for one in read_general(place, questions)]
        # Too few to be weighed as a kind of their own.
        kinds.setdefault(place.resolve().name if len(more) >= LEAST_GENERAL else "questions", []).extend(more)
    loaded = load_encoder(encoder or Settings().encoder)
    with (
        progress_bars("steps") as progress,
        TemporaryDirectory() as folder,
        ProfileStore(f"sqlite:///{folder}/vectors.db") as store,
    ):
        asked = training_questions(split, options)
        store.upsert((question.user_id, record) for question in asked for record in question.profile)
        embed_views(store, loaded, [view], progress)
        adapter, report = train_relevance(
            split, loaded, options, general=kinds, store=store, progress=stage_bars(progress)
        )
    adapter.save(out)
    if as_json:
        print_json({**asdict(report), "out": str(out)})
        return
    if options.precision is None and report.recall < options.recall:
        say(
            f"--restraint {options.restraint:g} raised the threshold: fewer own questions keep their records than the "
            f"{options.recall:.0%} of --recall"
        )
    kept = ", ".join(f"{share:.1%} of {name}" for name, share in report.general_kept.items())
    say(
        f"{out}: threshold {report.threshold:.3f}; judged by networks not fitted to them, {report.recall:.1%} of own "
        f"questions keep their records, and {kept} (precision {report.precision:.3f}); {report.questions} questions, "
        f"{report.records} records that stood as ones, {report.general} general ones"
    )


@filter_app.command("show")
def show_filter(
    folder: Annotated[Path, typer.Argument(help="Folder of a filter.")],
    as_json: AsJson = False,
) -> None:
    """Show what a relevance filter belongs to, and how it was trained."""
    from persona.retrievers.relevance import CosineAdapter

    loaded = CosineAdapter.load(folder)
    told = {
        "encoder": loaded.fingerprint,
        "view": loaded.view,
        "threshold": loaded.threshold,
        "training": loaded.notes,
    }
    if as_json:
        print_json(told)
        return
    for name, value in told.items():
        if name != "training":
            say(f"{name:12} {value}")
    for name, value in loaded.notes.get("report", {}).items():
        if isinstance(value, dict):
            value = ", ".join(f"{share:.1%} of {kind}" for kind, share in value.items())
        if name not in told:
            say(f"{name:12} {value}")


def eval_limit(
    documents: Annotated[int, typer.Option(help="People of the corpus.", min=1)] = 46,
    queries: Annotated[int, typer.Option(help="Questions.", min=1)] = 1000,
    relevant: Annotated[int, typer.Option("--relevant", help="Right people for each question.", min=1)] = 2,
    methods: Annotated[
        str, typer.Option(help="Comma list of retrievers.")
    ] = "bm25-lamp,bm25,dense,hybrid,late_interaction",
    encoder: Encoder = None,
    model: RetrieverModel = None,
    seed: Annotated[int, typer.Option(help="Of names, things and who likes what.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """See where one vector for each text is not enough: who likes what, every pair of people asked for.

    The default has the size of LIMIT's published small set.
    """
    from rich.table import Table

    from persona.assembly import needs_encoder
    from persona.eval.limit import CUTS, make_limit, run_limit

    chosen = names(methods, "--methods")
    corpus = make_limit(documents, queries, relevant, seed)
    loaded = encoder_for(encoder, any(map(needs_encoder, chosen)), methods)
    with progress_bars("queries") as progress:
        report = run_limit(corpus, chosen, encoder=loaded, model=model, seed=seed, progress=stage_bars(progress))
    if as_json:
        print_json(report.as_dict())
        return
    table = Table(title=f"{documents} documents, {queries} queries with {relevant} right ones each")
    for column in ("retriever", *(f"recall@{cut}" for cut in CUTS), "all right", "seconds"):
        table.add_column(column, justify="left" if column == "retriever" else "right")
    for row in report.rows:
        shares: list[Any] = [f"{row.recall[cut]:.3f}" for cut in CUTS]
        table.add_row(row.method, *shares, f"{row.exact:.3f}", f"{row.seconds:.1f}")
    show(table)
