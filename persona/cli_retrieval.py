"""The command line of retrieval: the retriever, `persona entities`, `persona filter`, `persona eval limit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli_terminal import (
    AsJson,
    Encoder,
    Store,
    TaskName,
    names,
    print_json,
    progress_bars,
    say,
    show,
    stage_bars,
)

if TYPE_CHECKING:
    from persona.protocols import RecordEncoder, Retriever
    from persona.store import ProfileStore

Base = Annotated[
    str | None,
    typer.Option("--base", help="For diverse (default dense) and rerank (default bm25+): finds what they look at."),
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
    typer.Option("--filter", help="Drop what is not relevant: untrained, or a folder of `persona filter train`."),
]

filter_app = typer.Typer(
    name="filter",
    help="Relevance filters: when a question needs none of the user's records.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def chosen_retriever(
    name: str,
    store: ProfileStore,
    encoder: RecordEncoder | None,
    *,
    base: str | None = None,
    model: str | None = None,
    where: str | None = None,
    relevance: str | None = None,
) -> Retriever:
    """The retriever that the options name; `encoder` must be there if `reads_vectors` says so."""
    from persona.registry import make_retriever

    retriever = make_retriever(name, encoder=encoder, store=store, base=base, model=model)
    if where is not None:
        from persona.retrievers.where import WhereRetriever

        retriever = WhereRetriever(retriever, where)
    if relevance is not None:
        from persona.retrievers.relevance import RelevanceRetriever, load_filter

        assert encoder is not None
        retriever = RelevanceRetriever(retriever, load_filter(relevance, encoder), encoder, store)
    return retriever


def reads_vectors(name: str, base: str | None, relevance: str | None) -> bool:
    """Whether these options need an encoder."""
    from persona.registry import needs_encoder

    return relevance is not None or needs_encoder(name, base)


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
    general: Annotated[
        list[Path] | None,
        typer.Option(
            "--general",
            help="More questions that need nobody's records: a text file with one a line, or a folder like DATA of "
            "another domain (its train questions). May be given several times.",
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option(help="Wanted share of relevant records among those that pass, on users kept aside.")
    ] = 0.95,
    questions: Annotated[int, typer.Option(help="At most so many questions of DATA.", min=1)] = 1000,
    view: Annotated[
        str, typer.Option(help="What of a record is compared: text, target, target+text or title+text.")
    ] = "text",
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a relevance filter on the training users of a LaMP task.

    A user's own questions are to keep the records nearest to them, general questions none. About 120 general questions
    come with persona.
    """
    from dataclasses import asdict

    from persona.encoders import load_encoder
    from persona.readers import read_split
    from persona.retrievers.background import GENERAL_QUESTIONS
    from persona.retrievers.relevance_training import RelevanceTraining, train_relevance
    from persona.settings import Settings

    options = RelevanceTraining(precision=precision, questions=questions, view=view, seed=seed)
    split = read_split(data, "train", task=task)
    texts = [*GENERAL_QUESTIONS, *(text for place in general or () for text in _general(place, questions))]
    adapter, report = train_relevance(split, load_encoder(encoder or Settings().encoder), options, general=texts)
    adapter.save(out)
    if as_json:
        print_json({**asdict(report), "out": str(out)})
        return
    say(
        f"{out}: threshold {report.threshold:.3f}; on users kept aside precision {report.precision:.3f}, recall "
        f"{report.recall:.3f}; records pass for {report.own_kept:.1%} of their questions and for "
        f"{report.general_kept:.1%} of the general ones; {report.questions} questions, {report.general} general ones"
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
        if name not in told:
            say(f"{name:12} {value}")


def eval_limit(
    documents: Annotated[int, typer.Option(help="People of the corpus.", min=1)] = 46,
    queries: Annotated[int, typer.Option(help="Questions.", min=1)] = 1000,
    relevant: Annotated[int, typer.Option("--relevant", help="Right people for each question.", min=1)] = 2,
    methods: Annotated[
        str, typer.Option(help="Comma list of retrievers.")
    ] = "bm25,bm25+,dense,hybrid,hybrid+,late_interaction",
    encoder: Encoder = None,
    model: RetrieverModel = None,
    seed: Annotated[int, typer.Option(help="Of names, things and who likes what.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """See where one vector for each text is not enough: who likes what, every pair of people asked for.

    The default has the size of LIMIT's published small set.
    """
    from rich.table import Table

    from persona.encoders import load_encoder
    from persona.eval.limit import CUTS, make_limit, run_limit
    from persona.registry import needs_encoder
    from persona.settings import Settings

    chosen = names(methods, "--methods")
    corpus = make_limit(documents, queries, relevant, seed)
    loaded = load_encoder(encoder or Settings().encoder) if any(map(needs_encoder, chosen)) else None
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


def _general(place: Path, at_most: int) -> list[str]:
    """Questions from a text file or a LaMP folder."""
    from persona.readers import read_split
    from persona.text_source import TextSource

    if place.is_dir():
        split = read_split(place, "train")
        step = max(1, len(split.questions) // at_most)
        return [split.task.query(question.input) for question in split.questions[::step][:at_most]]
    with TextSource(place) as source:
        return [line.strip() for _, line in source.lines()]
