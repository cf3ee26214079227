"""The command line: `persona demo | ingest | embed-users | summarize-users | retrieve | ask | show | entities |
forget | eval | user-embedder | lora | filter`.

Parse, call, print; the words are those of the Python API. Results go to stdout (`--json` for machines), progress and
errors to stderr. A known error is one line and exit code 1, wrong usage is exit code 2; `--debug`, anywhere on the
line, gives the traceback.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.adapters import lora_app
from persona.cli.evaluate import eval_app
from persona.cli.retrieve import (
    Base,
    FilterName,
    Judge,
    RetrieverModel,
    WhereText,
    encoder_for,
    entities,
    filter_app,
)
from persona.cli.summaries import Summary, show_user, summarize_users
from persona.cli.terminal import (
    AsJson,
    Encoder,
    FamilyKey,
    Llm,
    RetrieverName,
    Store,
    TaskName,
    UserEmbedderName,
    UserVectors,
    counted,
    embed_views,
    print_json,
    progress_bars,
    say,
    show,
    stage_bars,
)
from persona.cli.user_embedder import user_embedder_app
from persona.errors import InvalidOptionError, PersonaError, UnknownAdapterError
from persona.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

    from persona.protocols import RecordEncoder
    from persona.records import Profile
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.store.profile_store import ProfileStore

_MISSING_ADAPTER = ("error", "prior", "base")
"""`persona.adapters.channel.POLICIES`, without importing torch for it."""

app = typer.Typer(
    name="persona",
    help="A frozen LLM that answers as if it knew the user.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(eval_app)
app.add_typer(user_embedder_app)
app.add_typer(lora_app)
app.add_typer(filter_app)
app.command("summarize-users")(summarize_users)
app.command("show")(show_user)


def main() -> None:
    """Run the command line and turn a known error into one line and exit code 1."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except PersonaError as error:
        if debug:
            raise
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, nobody is left to tell
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> None:
    line = " ".join(message.split())
    print(f"persona: error: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(1)


def _version(value: bool) -> None:
    if value:
        say(f"persona {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command()
def ingest(
    files: Annotated[list[Path], typer.Argument(help="LaMP questions (file or folder), JSONL (also .gz) or Parquet.")],
    store: Store = None,
    format: Annotated[str, typer.Option("--format", help="auto, lamp, jsonl or parquet.")] = "auto",
    task: TaskName = None,
    as_json: AsJson = False,
) -> None:
    """Put user histories into the store.

    Each file goes in whole or not at all; what is already there is left as it is.
    """
    from persona.readers import read_records
    from persona.settings import open_store

    total = {"users": 0, "added": 0, "changed": 0, "unchanged": 0, "skipped": 0}
    with open_store(store, create=True) as opened, progress_bars("records") as progress:
        for file in files:
            bar = progress.add_task(f"ingest {file.name}", total=None)
            reader = read_records(file, format=format, task=task)
            report = opened.upsert(progress.track(reader, task_id=bar))
            for name in ("users", "added", "changed", "unchanged"):
                total[name] += getattr(report, name)
            total["skipped"] += reader.skipped
        counts = opened.counts()
    if as_json:
        print_json({**total, "store": {"users": counts.users, "records": counts.records}})
    else:
        say(
            f"{total['added']} records added, {total['changed']} changed, {total['unchanged']} unchanged, "
            f"{total['skipped']} blank ones skipped; the store holds {counts.records} records of {counts.users} users"
        )


@app.command("embed-users")
def embed_users(
    store: Store = None,
    encoder: Encoder = None,
    view: Annotated[
        str, typer.Option(help="What of a record is embedded: text, target, target+text or title+text.")
    ] = "text",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens in one batch of the encoder (default: by device).", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Texts encoded side by side on a CPU (default: by cores).", min=1)
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write user vectors to this .parquet file, or .npy with .ids.jsonl.")
    ] = None,
    user_embedder: UserEmbedderName = None,
    as_json: AsJson = False,
) -> None:
    """Embed the records of all users, new and changed ones only, and index their words for bm25.

    With --user-embedder also what the user embedder reads, and the soft prompt of each user that fits any question.

    Safe to stop at any moment; the next run goes on where this one ended.
    """
    from persona.encoders.embedding import embed_users as embed
    from persona.encoders.export import check_export_path, export_user_vectors
    from persona.encoders.load import load_encoder
    from persona.retrievers.indexing import build_indexes
    from persona.settings import Settings, open_store
    from persona.store.vectors import vector_fingerprint

    if export is not None:
        check_export_path(export)
    with open_store(store) as opened:
        embedder = None if user_embedder is None else _user_embedder(user_embedder)
        loaded = load_encoder(
            encoder or Settings().encoder,
            batch_tokens=batch_tokens,
            workers=workers,
            like=embedder.config.encoder if embedder else "",
        )
        if embedder is not None:
            embedder.check_fits(loaded.fingerprint)
        with progress_bars("users") as progress:
            task = progress.add_task("embed users", total=None)
            report = embed(
                opened,
                loaded,
                view=view,
                progress=lambda done, total, records: progress.update(task, completed=done, total=total),
            )
            bar = progress.add_task("index users", total=opened.counts().users)
            indexed = build_indexes(opened, progress.track(opened.user_ids(), task_id=bar))
            prompts = None if embedder is None else _store_soft_prompts(opened, embedder, loaded, view, progress)
        exported = None
        if export is not None:
            exported = export_user_vectors(opened, vector_fingerprint(loaded, view), export)
    if as_json:
        print_json(
            {
                "users": report.users,
                "records": report.records,
                "embedded": report.embedded,
                "reused": report.reused,
                "duplicates": report.duplicates,
                "indexed": indexed,
                "seconds": round(report.seconds, 3),
                "fingerprint": report.fingerprint,
                "soft_prompts": prompts,
                "exported": exported,
            }
        )
    else:
        say(
            f"{report.users} users embedded: {report.embedded} records encoded, {report.duplicates} duplicates, "
            f"{report.reused} kept, in {report.seconds:.1f} s; {indexed} word indexes made"
        )
        if prompts is not None:
            say(f"{prompts} soft prompts made")
        if export is not None:
            say(f"{exported} user vectors written to {export}")


@app.command()
def retrieve(
    user_id: Annotated[str, typer.Argument(help="Whose history.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    store: Store = None,
    retriever: RetrieverName = None,
    encoder: Encoder = None,
    k: Annotated[int, typer.Option("--k", help="How many records at most.", min=1)] = 4,
    base: Base = None,
    model: RetrieverModel = None,
    where: WhereText = None,
    relevance: FilterName = None,
    judge: Judge = "question",
    as_json: AsJson = False,
) -> None:
    """Show the records of a user's history that fit a query."""
    from persona.assembly import RetrieverOptions, check_retriever, make_retriever, needs_encoder
    from persona.errors import UnknownUserError
    from persona.settings import Settings, open_store

    with open_store(store) as opened:
        if user_id not in opened:
            raise UnknownUserError(f"the store holds nothing on {user_id!r}")
        name = retriever or Settings().retriever
        check_retriever(name)
        options = RetrieverOptions(base=base, model=model, where=where, relevance=relevance, judge=judge)
        loaded = encoder_for(encoder, needs_encoder(name, options), name)
        chosen = make_retriever(name, options, encoder=loaded, store=opened)
        profile = opened.profile(user_id)
        found = chosen.retrieve(profile, query, k)
    if as_json:
        print_json([_scored(one) for one in found])
    elif not found and len(profile):
        say(f"nothing found: none of the {len(profile)} records of {user_id!r} fits{_absent_fields(where, profile)}")
    elif not found:
        say(f"nothing found: the store holds no records of {user_id!r}")
    for number, one in enumerate([] if as_json else found, 1):
        target = f"  -> {one.record.target}" if one.record.target is not None else ""
        say(f"{number}. [{one.score:.3f}] {one.record.time or 'undated'}{target}")
        say(f"   {' '.join(one.record.text.split())}")


def _absent_fields(where: str | None, profile: Profile) -> str:
    """What to add if a filter asks for fields that no record has."""
    from persona.retrievers.where import Where

    absent = Where.parse(where).absent(profile) if where else ()
    return f"; none of them has the field {', '.join(map(repr, absent))}" if absent else ""


@app.command()
def ask(
    user_id: Annotated[str, typer.Argument(help="Whom to answer.")],
    prompt: Annotated[str, typer.Argument(help="The task; '-' reads it from stdin.")],
    store: Store = None,
    llm: Llm = None,
    retriever: RetrieverName = None,
    encoder: Encoder = None,
    k: Annotated[int, typer.Option("--k", help="How many records at most; 0 sends none.", min=0)] = 4,
    max_context_tokens: Annotated[int, typer.Option(help="Token budget of the personal part.", min=0)] = 512,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 64,
    num_beams: Annotated[int, typer.Option(help="1 is greedy decoding.", min=1)] = 1,
    user_embedder: UserEmbedderName = None,
    user_vectors: UserVectors = None,
    lora: Annotated[bool, typer.Option("--lora", help="Answer with the user's own adapter, from the store.")] = False,
    family: FamilyKey = None,
    missing_adapter: Annotated[
        str | None,
        typer.Option(help="What a user without an adapter gets: error (the default), prior or base (the plain LLM)."),
    ] = None,
    base: Base = None,
    retriever_model: RetrieverModel = None,
    where: WhereText = None,
    relevance: FilterName = None,
    judge: Judge = "question",
    summary: Summary = None,
    task: Annotated[
        str,
        typer.Option(
            help="The LaMP task that the prompt is of (LaMP_1 ... LaMP_7, LaMP_2N), or free: records are sought by the "
            "question in it and worded as in its official prompts; a summary is for it. A user embedder knows its own."
        ),
    ] = "free",
    as_json: AsJson = False,
) -> None:
    """Answer a prompt with a frozen LLM as if it knew the user."""
    from persona.assembly import PersonalizationOptions, RetrieverOptions, assembled
    from persona.llm.load import load_llm
    from persona.protocols import GenerationOptions
    from persona.settings import Settings, open_store

    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise InvalidOptionError("the prompt must not be empty")
    options = PersonalizationOptions(
        retriever=retriever,
        k=k,
        retrieval=RetrieverOptions(base=base, model=retriever_model, where=where, relevance=relevance, judge=judge),
        encoder=encoder,
        user_embedder=user_embedder,
        user_vectors=user_vectors,
        adapters=lora,
        family=family,
        missing_adapter=missing_adapter or "error",
        summary=summary,
        task=task,
        max_context_tokens=max_context_tokens,
        generation=GenerationOptions(max_new_tokens=max_new_tokens, num_beams=num_beams),
    )
    with open_store(store) as opened:
        if lora:
            from persona.adapters import AdapterBank

            if not AdapterBank(opened).families():
                raise UnknownAdapterError("the store holds no adapters: train them with `persona lora train`")
        with assembled(load_llm(llm or Settings().llm), opened, options) as personalizer:
            answer = personalizer.generate(user_id, text)
    if not as_json:
        say(answer.text)
        return
    print_json(
        {
            "text": answer.text,
            "user_id": answer.user_id,
            "records": [_scored(one) for one in answer.records],
            "notes": list(answer.notes),
            "sources": list(answer.sources),
            "channels": list(answer.channels),
            "tokens_added": answer.tokens_added,
            "abstained": answer.abstained,
            "prompt": answer.prompt,
        }
    )


app.command()(entities)


@app.command()
def forget(
    user_id: Annotated[str, typer.Argument(help="Whom to erase.")],
    store: Store = None,
    exports: Annotated[
        Path | None,
        typer.Option(
            "--exports", envvar="PERSONA_LORA_FOLDER", help="A folder of exported adapters: the user's go too."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase everything that is held on a user: records, vectors, indexes, adapters; the bytes too."""
    from persona.settings import open_store

    if exports is not None and not exports.is_dir():
        raise InvalidOptionError(
            f"--exports (or PERSONA_LORA_FOLDER) must be a folder that is there, was: {str(exports)!r}; "
            "nothing was erased"
        )
    with open_store(store) as opened:
        if user_id not in opened:
            _finish_forgetting(opened, user_id, exports, as_json=as_json)
            return
        if not yes:
            typer.confirm(f"Erase everything on {user_id!r}?", abort=True, err=True)
        if exports is None:
            report = opened.forget(user_id)
        else:
            from persona.adapters.bank import AdapterBank

            report = AdapterBank(opened).forget(user_id, exports=exports)
    if as_json:
        print_json({"user_id": user_id, **asdict(report)})
    else:
        say(
            f"erased {counted(report.records, 'record')}, "
            f"{counted(report.vectors, 'vector matrix', 'vector matrices')}, "
            f"{counted(report.indexes, 'index', 'indexes')} and {counted(report.adapters, 'adapter')} of {user_id!r}"
        )


def _finish_forgetting(store: ProfileStore, user_id: str, exports: Path | None, *, as_json: bool) -> None:
    """What is left to erase where the user's rows are gone: bytes that could not be overwritten, exported adapters."""
    from persona.errors import UnknownUserError
    from persona.store.erasure import ForgetReport

    exported = 0
    if exports is not None:
        from persona.adapters.bank import erase_exports

        exported = erase_exports(user_id, exports)
    if not store.finish_forgetting() and not exported:
        raise UnknownUserError(f"the store holds nothing on {user_id!r}: nothing was erased")
    if as_json:
        print_json({"user_id": user_id, **asdict(ForgetReport())})
    else:
        say(f"finished what an earlier forget had left over, and erased {counted(exported, 'exported adapter')}")


@app.command()
def demo(
    users: Annotated[int, typer.Option(help="Users of each task.", min=2)] = 20,
    seed: Annotated[int, typer.Option(help="Of the world, the controls and the bootstrap.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and everything behind it.")] = Path("runs/demo"),
    llm: Annotated[str, typer.Option("--llm", help="The frozen LLM; tiny knows the world's tasks.")] = "tiny",
    as_json: AsJson = False,
) -> None:
    """See in a minute what personalization wins: a small world, every method, its controls, a report.

    Needs no network and no GPU. The world's exact bounds make each score a share of what can be won.
    """
    from persona.eval.demo import available_encoder, run_demo, tiny_user_embedders
    from persona.eval.html import demo_page
    from persona.eval.report import demo_tables
    from persona.files import write_atomically
    from persona.llm.load import load_llm

    encoder = available_encoder()
    with progress_bars("steps") as progress:
        report = run_demo(
            load_llm(llm),
            users=users,
            seed=seed,
            out=out,
            encoder=encoder,
            # They were trained for this LLM and this encoder, and for no others.
            user_embedders=tiny_user_embedders() if (llm, encoder) == ("tiny", "minilm") else None,
            progress=stage_bars(progress),
        )
    write_atomically(out / "report.html", demo_page(report))
    write_atomically(out / "report.json", json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n")
    if as_json:
        print_json(report.as_dict())
        return
    for part in demo_tables(report):
        show(part)
    say(f"report: {out / 'report.html'}   {report.seconds:.0f} s")


def _user_embedder(user_embedder: str) -> UserEmbedder:
    from persona.soft_prompts.embedder import load_user_embedder

    return load_user_embedder(user_embedder)


def _store_soft_prompts(
    store: ProfileStore, user_embedder: UserEmbedder, encoder: RecordEncoder, embedded: str, progress: Progress
) -> int:
    """Embed the further views that `user_embedder` reads, then make and keep soft prompts; how many."""
    from persona.soft_prompts.channel import store_soft_prompts
    from persona.soft_prompts.histories import history_views

    embed_views(store, encoder, (view for view in history_views(user_embedder.config) if view != embedded), progress)
    task = progress.add_task("soft prompts", total=store.counts().users)
    return store_soft_prompts(
        store, user_embedder, encoder, progress=lambda seen: progress.update(task, completed=seen)
    )


def _scored(one: Any) -> dict[str, Any]:
    record = one.record
    return {"id": record.id, "time": record.time, "target": record.target, "text": record.text, "score": one.score}


if __name__ == "__main__":
    main()
