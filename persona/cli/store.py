"""What goes into the store and is made from it: `persona ingest | embed-users | summarize`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli import terminal
from persona.cli.options import command
from persona.cli.show import shortened
from persona.errors import InvalidOptionError
from persona.llm.endpoint.options import AskingOptions

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from persona.encoders.embedding import EmbedReport
    from persona.protocols import RecordEncoder
    from persona.store.profile_store import ProfileStore
    from persona.store.upkeep.duplicates import Merge, Similarity

app = terminal.group()

_COUNTED = ("users", "added", "changed", "unchanged", "expired")


@dataclass(frozen=True)
class Ingest:
    """Options of `persona ingest`.

    Attributes:
        files: LaMP questions (file or folder), JSONL or JSON (also .gz), Parquet, or conversations (messages in JSONL,
            an export of ChatGPT or Claude, .zip too).
        format: auto, lamp, jsonl, json, parquet, messages, chatgpt or claude.
        user: whose conversations they are; exports do not say it.
        roles: whose turns become records, a comma list of user, assistant and system (default: user).
        expires_after: records without `expires` expire after this time, like 90d, 12h or 2w.
        merge_near: of two records of a user that say almost the same keep the newer; above 0, at most 1: the share of
            common words, or with --encoder the cosine, from which on they do.
    """

    files: list[Path]
    format: str = "auto"
    task: terminal.TaskName = None
    user: str | None = None
    roles: str | None = None
    expires_after: str | None = None
    merge_near: float | None = None
    encoder: terminal.Encoder = None


@command(app, "ingest", Ingest, store=True)
def ingest(options: Ingest) -> None:
    """Put user histories into the store.

    Each file goes in whole or not at all; what is already there is left as it is.
    """
    from persona.readers import read_records
    from persona.store.upkeep.expiry import duration

    most = terminal.settings().max_record_characters
    roles = None if options.roles is None else terminal.names(options.roles, "--roles")
    expires_after = None if options.expires_after is None else duration(options.expires_after)
    if options.encoder is not None and options.merge_near is None:
        raise InvalidOptionError("--encoder says how near duplicates are compared: give --merge-near, or leave it out")
    total: Counter[str] = Counter(dict.fromkeys((*_COUNTED, "skipped"), 0))
    merges: list[Merge] = []
    with terminal.opened_store(create=True) as store, terminal.progress_bars("records") as progress:
        similarity = None if options.merge_near is None else _similarity(store, options.merge_near, options.encoder)
        for file in options.files:
            bar = progress.add_task(f"ingest {file.name}", total=None)
            reader = read_records(
                file, format=options.format, task=options.task, user_id=options.user, roles=roles, max_characters=most
            )
            done = store.upsert(progress.track(reader, task_id=bar), expires_after=expires_after, similarity=similarity)
            total.update({name: getattr(done, name) for name in _COUNTED}, skipped=reader.skipped)
            merges += done.merges
        counts = store.counts()
    expired = f", {total['expired']} expired" if total["expired"] else ""
    merged = f", {len(merges)} merged into newer ones" if options.merge_near is not None else ""
    value = {**total, "merges": [_merge_json(merge) for merge in merges]}
    terminal.report(
        {**value, "store": {"users": counts.users, "records": counts.records}},
        *(_merge_line(merge) for merge in merges),
        f"{total['added']} records added, {total['changed']} changed, {total['unchanged']} unchanged{expired}{merged}, "
        f"{total['skipped']} blank ones skipped; the store holds {counts.records} records of {counts.users} users",
    )


def _similarity(store: ProfileStore, threshold: float, encoder: str | None) -> Similarity:
    from persona.store.upkeep.duplicates import CosineSimilarity, TokenOverlap

    if encoder is None:
        return TokenOverlap(threshold)
    return CosineSimilarity(terminal.load_encoder(encoder), threshold, store)


def _merge_json(merge: Merge) -> dict[str, Any]:
    """A record that was dropped for a newer one."""
    return {
        "user_id": merge.user_id,
        "similarity": merge.similarity,
        "dropped": merge.dropped.as_dict(),
        "kept": merge.kept.as_dict(),
    }


def _merge_line(merge: Merge) -> str:
    dropped, kept = (f"{each.id[:8]} {shortened(each.text)!r}" for each in (merge.dropped, merge.kept))
    return f"{merge.user_id}: {dropped} merged into {kept} ({merge.similarity:.2f})"


@dataclass(frozen=True)
class EmbedUsers:
    """Options of `persona embed-users`.

    Attributes:
        view: what of a record is embedded: text, target, target+text, title+text or turn.
        export: write user vectors to this .parquet file, or .npy with .ids.jsonl.
        ray: embed on the Ray cluster at this address; without an address on one that is started here.
    """

    encoder: terminal.Encoder = None
    view: str = "text"
    export: Path | None = None
    user_embedder: terminal.UserEmbedderName = None
    ray: Annotated[str | None, typer.Option(metavar="[ADDRESS]")] = None


@command(app, "embed-users", EmbedUsers, store=True)
def embed_users(options: EmbedUsers) -> None:
    """Embed the records of all users.

    New and changed ones only. With --user-embedder also what the user embedder reads, and the soft prompt of each user
    that fits any question.

    Safe to stop at any moment; the next run goes on where this one ended.
    """
    from persona.encoders.user_vectors import check_export_path, export_user_vectors
    from persona.store.upkeep.exports import note_export
    from persona.store.vectors import vector_fingerprint

    if options.export is not None:
        check_export_path(options.export)
    with terminal.opened_store() as store, terminal.progress_bars("users") as progress:
        embedder = None
        if options.user_embedder is not None:
            from persona.soft_prompts.embedder import load_user_embedder

            embedder = load_user_embedder(options.user_embedder)
        encoder = terminal.load_encoder(options.encoder, like="" if embedder is None else embedder.config.encoder)
        if embedder is not None:
            embedder.check_fits(encoder.fingerprint)
        (done,) = embed_views(store, encoder, [options.view], progress, options)
        prompts = None
        if embedder is not None:
            from persona.soft_prompts.channel import store_soft_prompts
            from persona.soft_prompts.histories import history_views

            others = [view for view in history_views(embedder.config) if view != options.view]
            embed_views(store, encoder, others, progress, options)
            bar = progress.add_task("soft prompts", total=store.counts().users)
            prompts = store_soft_prompts(
                store, embedder, encoder, progress=lambda seen: progress.update(bar, completed=seen)
            )
        exported = None
        if options.export is not None:
            exported = export_user_vectors(store, vector_fingerprint(encoder, options.view), options.export)
            note_export(store.database, options.export, "user ids and vectors")
    terminal.report(
        {**asdict(done), "soft_prompts": prompts, "exported": exported},
        f"{done.users} users embedded: {done.embedded} records encoded, {done.duplicates} duplicates, "
        f"{done.reused} kept, in {done.seconds:.1f} s",
        *([] if prompts is None else [f"{prompts} soft prompts made"]),
        *([] if exported is None else [f"{exported} user vectors written to {options.export}"]),
    )


def embed_views(
    store: ProfileStore,
    encoder: RecordEncoder,
    views: Iterable[str],
    progress: Progress,
    options: EmbedUsers | None = None,
) -> list[EmbedReport]:
    """Embed the records of all users in some views, with a bar each."""
    from persona.encoders.embedding import embed_users
    from persona.encoders.on_ray import embed_users_on_ray

    embed: Callable[..., EmbedReport] = embed_users
    if options is not None and options.ray is not None:
        name = options.encoder or terminal.settings().encoder
        embed = partial(embed_users_on_ray, name=name, address=options.ray)
    reports = []
    for view in views:
        bar = progress.add_task(f"embed users ({view})", total=None)

        def advance(done: int, total: int, records: int, bar: TaskID = bar) -> None:
            progress.update(bar, completed=done, total=total)

        reports.append(embed(store, encoder, view=view, progress=advance))
    return reports


def _summaries() -> dict[str, Any]:
    from persona.summaries.writing import SummaryOptions

    return {"": SummaryOptions(), "llm": AskingOptions()}


@dataclass(frozen=True)
class Summarize:
    """Options of `persona summarize`.

    Attributes:
        task: what the summary is for: LaMP_1 ... LaMP_7, LaMP_2N, or free.
        dry_run: ask nothing; say how many requests and tokens it would be.
    """

    llm: terminal.Llm = None
    task: str = "free"
    dry_run: bool = False


@command(
    app,
    "summarize",
    Summarize,
    store=True,
    settings=_summaries,
    known="form, stale_after, context_tokens, max_new_tokens, users_at_once, " + terminal.LLM_SETTINGS,
)
def summarize(options: Summarize, settings: Mapping[str, Any]) -> None:
    """Let an LLM write a summary of each user.

    They are for `ask --summary llm`. Only missing ones, ones too far behind or whose records were changed, and ones by
    another LLM or prompt are written. Safe to stop at any moment; the next run goes on where this one ended.
    """
    from persona.summaries.stored import summarize_cost, summarize_users

    with terminal.opened_store() as store, terminal.progress_bars("users") as progress:
        llm = terminal.load_llm(options.llm, settings["llm"])
        if options.dry_run:
            cost = summarize_cost(store, llm, settings[""])
            terminal.report(asdict(cost), f"dry run, nothing was asked: {cost}")
            return
        bar = progress.add_task("summarize users", total=None)
        done = summarize_users(
            store, llm, settings[""], progress=lambda done, total: progress.update(bar, completed=done, total=total)
        )
    empty = f" ({done.empty} of them empty)" if done.empty else ""
    passed_over = f", {done.passed_over} passed over" if done.passed_over else ""
    terminal.report(
        {**asdict(done), "llm": llm.fingerprint},
        f"{done.written} summaries written{empty}, {done.fresh} kept{passed_over}, "
        f"of {done.users} users, in {done.seconds:.1f} s",
    )
    terminal.report_failures("summaries", done.failures.items())
