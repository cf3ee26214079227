"""The command line of summaries, restraint and what is held: `persona summarize-users | show | eval restraint`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.retrieve import Base, General, Judge, RetrieverModel, WhereText, encoder_for
from persona.cli.terminal import (
    AsJson,
    Encoder,
    Llm,
    Store,
    TaskName,
    check_folder,
    check_split,
    embed_views,
    names,
    print_json,
    progress_bars,
    say,
    show,
    stage_bars,
)
from persona.errors import InvalidOptionError

if TYPE_CHECKING:
    from persona.protocols import Retriever
    from persona.retrievers.relevance import RelevanceFilter
    from persona.store.holdings import HeldIndex

_SHOWN = 100
"""Characters of a record that are printed."""

Summary = Annotated[
    str | None,
    typer.Option("--summary", help="Also say what is typical of the user: stats, llm (summarize-users) or both."),
]
SummaryTask = Annotated[
    str, typer.Option("--task", help="What the summary is for: LaMP_1 ... LaMP_7, LaMP_2N, or free.")
]


def summarize_users(
    store: Store = None,
    llm: Llm = None,
    task: SummaryTask = "free",
    form: Annotated[
        str, typer.Option(help="How to ask: instruct, or task (LLMs that know LaMP's tasks and nothing else).")
    ] = "instruct",
    stale_after: Annotated[
        int, typer.Option(help="So many new records may a summary lag behind before it is written anew.", min=0)
    ] = 10,
    context_tokens: Annotated[
        int, typer.Option(help="Longest prompt; longer histories are read in parts.", min=1)
    ] = 2048,
    max_new_tokens: Annotated[int, typer.Option(help="Longest summary, in tokens.", min=1)] = 96,
    users_at_once: Annotated[int, typer.Option(help="Users asked about together, and kept together.", min=1)] = 64,
    as_json: AsJson = False,
) -> None:
    """Let an LLM write a summary of each user, once, for `ask --summary llm`.

    Only missing ones, ones too far behind or whose records were changed, and ones by another LLM or prompt are written.
    Safe to stop at any moment; the next run goes on where this one ended.
    """
    from persona.llm.load import load_llm
    from persona.settings import Settings, open_store
    from persona.summaries.stored import summarize_users as summarize
    from persona.summaries.writing import SummaryOptions

    options = SummaryOptions(
        task=task,
        form=form,
        stale_after=stale_after,
        context_tokens=context_tokens,
        max_new_tokens=max_new_tokens,
        users_at_once=users_at_once,
    )
    with open_store(store) as opened, progress_bars("users") as progress:
        model = load_llm(llm or Settings().llm)
        bar = progress.add_task("summarize users", total=None)
        report = summarize(
            opened,
            model,
            options,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json:
        print_json({**asdict(report), "llm": model.fingerprint})
        return
    empty = f" ({report.empty} of them empty)" if report.empty else ""
    passed_over = f", {report.passed_over} passed over" if report.passed_over else ""
    say(
        f"{report.written} summaries written{empty}, {report.fresh} kept{passed_over}, "
        f"of {report.users} users, in {report.seconds:.1f} s"
    )


def show_user(
    user_id: Annotated[str, typer.Argument(help="Whom.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show everything that is held on a user: records, summaries, indexes, vectors, soft prompts, adapters."""
    from persona.settings import open_store
    from persona.store.holdings import holdings

    with open_store(store) as opened:
        held = holdings(opened, user_id)
    if as_json:
        print_json(
            {
                "user_id": user_id,
                "revision": held.profile.revision,
                "records": [
                    {
                        "id": record.id,
                        "time": record.time,
                        "target": record.target,
                        "text": record.text,
                        "metadata": dict(record.metadata),
                        "role": record.role,
                        "speaker": record.speaker,
                        "expires": record.expires,
                    }
                    for record in held.profile
                ],
                "vectors": [asdict(one) for one in held.vectors],
                "indexes": [asdict(one) for one in held.indexes],
                "adapters": [asdict(one) for one in held.adapters],
                "others": dict(held.others),
            }
        )
        return
    say(f"{user_id}: {len(held.profile)} records, revision {held.profile.revision}")
    for record in held.profile:
        say(f"  {record.time or 'undated':10}  {_line(record.text)}{_arrow(record.target)}")
    if held.vectors:
        say("vectors")
        for matrix in held.vectors:
            say(f"  {matrix.rows} x {matrix.dim}, {_state(matrix.fresh)}, {matrix.size:,} bytes: {matrix.fingerprint}")
    if held.indexes:
        say("derived from the records")
        for index in held.indexes:
            say(f"  {index.kind}: {_state(index.fresh)}, {index.size:,} bytes")
            for line in _told(index):
                say(f"    {line}")
    if held.adapters:
        say("adapters")
        for adapter in held.adapters:
            say(
                f"  version {adapter.version}, {adapter.state}, {_state(adapter.fresh)}, {adapter.size:,} bytes, "
                f"{adapter.created}: {adapter.family}"
            )
    for name, rows in held.others.items():
        if rows:
            say(f"{name}: {rows} rows")


def _told(index: HeldIndex) -> list[str]:
    """What an index of readable content says, a line for each of its fields; ids of records are only counted."""
    content: Any = index.content
    if not isinstance(content, dict):
        return [] if content is None else [_line(str(content))]
    lines = []
    for name, value in content.items():
        if name == "text":
            lines.append(f'"{value}"')
        elif isinstance(value, (dict, list)):
            lines.append(f"{name}: {len(value)}")
        else:
            lines.append(f"{name}: {_line(str(value))}")
    return lines


def _state(fresh: bool) -> str:
    return "up to date" if fresh else "behind the records"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _arrow(target: str | None) -> str:
    return "" if target is None else f"  -> {_line(target)}"


def eval_restraint(
    data: Annotated[Path, typer.Argument(help="A folder with {train,dev}_questions.json and outputs.")],
    llm: Llm = None,
    split: Annotated[str, typer.Option(help="train or dev.")] = "dev",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma list of retrievers, beside the row none; the first one's score is what the others are to keep."
        ),
    ] = "bm25-lamp",
    relevance: Annotated[
        list[str] | None,
        typer.Option("--filter", help="untrained, or a folder of `persona filter train`. May be given several times."),
    ] = None,
    judge: Judge = "question",
    general: General = None,
    k: Annotated[int, typer.Option("--k", help="How many records at most.", min=1)] = 1,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N questions of the task, and at most N of --general.", min=1)
    ] = None,
    encoder: Encoder = None,
    base: Base = None,
    retriever_model: RetrieverModel = None,
    where: WhereText = None,
    task: TaskName = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers, from which a stopped run goes on, and results.json.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Token budget of the official prompt.", min=1)] = 256,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Who asks what, and the bootstrap.", min=0)] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask questions that need no personalization, and see whether they are left alone.

    120 general questions and those of --general in the name of the users of a LaMP task, beside the task's own
    questions. With --filter each retriever runs as it is and with the filter over it.
    """
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from persona.assembly import RetrieverOptions, check_retriever, make_retrievers, needs_encoder
    from persona.eval.general_questions import GENERAL_QUESTIONS, read_general
    from persona.eval.report import restraint_cells, restraint_table
    from persona.eval.restraint import NO_USER, run_restraint
    from persona.llm.load import load_llm
    from persona.readers import read_split
    from persona.settings import Settings

    check_split(split, "train", "dev")
    wanted = names(methods, "--methods")
    if NO_USER in wanted:
        raise InvalidOptionError(f"the row {NO_USER!r} is always there: --methods names retrievers, was: {methods!r}")
    for name in wanted:
        check_retriever(name)
    if judge != "question" and not relevance:
        raise InvalidOptionError(
            f"--judge says what a filter judges, and there is none: name one with --filter, was: {judge!r}"
        )
    if out is not None:
        check_folder(out)
    lamp = read_split(data, split, task=task)
    more = [one for place in general or () for one in read_general(place, limit or len(lamp.questions), split)]
    questions = (*GENERAL_QUESTIONS, *more)
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bars("steps"))
        advance = stage_bars(progress)
        loaded = encoder_for(
            encoder,
            relevance is not None or any(needs_encoder(name, RetrieverOptions(base=base)) for name in wanted),
            methods,
        )
        store = None
        filters: dict[str, RelevanceFilter] = {}
        if loaded is not None:
            from persona.retrievers.relevance import load_filter
            from persona.store.profile_store import ProfileStore

            filters = {name: load_filter(name, loaded) for name in dict.fromkeys(relevance or ())}
            folder = stack.enter_context(TemporaryDirectory())
            store = stack.enter_context(ProfileStore(f"sqlite:///{folder}/vectors.db"))
            asked = lamp.questions[:limit]
            store.upsert((question.user_id, record) for question in asked for record in question.profile)
            views = [lamp.task.view, *(one.view for one in filters.values())]
            embed_views(store, loaded, dict.fromkeys(views), progress)

        def made(relevance: RelevanceFilter | None) -> dict[str, Retriever]:
            return make_retrievers(
                wanted,
                RetrieverOptions(
                    view=lamp.task.view,
                    seed=seed,
                    base=base,
                    model=retriever_model,
                    where=where,
                    relevance=relevance,
                    judge="question" if relevance is None else judge,
                ),
                encoder=loaded,
                store=store,
            )

        plain = made(None)
        filtered = {called: made(one) for called, one in filters.items()}
        retrievers: dict[str, Retriever] = {}
        for name in wanted:
            retrievers[name] = plain[name]
            for called, some in filtered.items():
                retrievers[f"{name} + {'filter' if len(filters) == 1 else called}"] = some[name]
        report = run_restraint(
            lamp,
            load_llm(llm or Settings().llm, overlong="truncate"),
            retrievers,
            k=k,
            limit=limit,
            general=questions,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            seed=seed,
            out=out,
            config={
                "split": split,
                "methods": wanted,
                "filters": {called: [one.fingerprint, one.threshold] for called, one in filters.items()},
                "judge": judge,
                "general": list(map(str, general or ())),
                "encoder": None if loaded is None else loaded.fingerprint,
                "base": base,
                "retriever_model": retriever_model,
                "where": where,
            },
            progress=advance,
        )
    if as_json:
        print_json(report.as_dict())
    elif markdown:
        header, *rows = restraint_cells(report)
        for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            say(f"| {' | '.join(cells)} |")
    else:
        show(restraint_table(report, title=f"{data.resolve().name} {split}"))
        if out is not None:
            say(f"answers and results: {out}")
