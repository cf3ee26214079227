"""What is held and what was trained: `persona show`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.options import command
from persona.cli.terminal import EVERYWHERE, counted, group, opened_store, report, report_facts
from persona.errors import DataFormatError, InvalidOptionError, reason

if TYPE_CHECKING:
    from persona.adapters.family import Family
    from persona.adapters.versions import StoredAdapter
    from persona.records import Record
    from persona.store.holdings import HeldIndex, Holdings

app = group()

_SHOWN = 100
"""Characters of a record that are printed."""

_CONCEPTS = 20
"""Concepts of a user that are printed; with --json it is all."""


@dataclass(frozen=True)
class Show:
    """Options of `persona show`.

    Attributes:
        user_id: whom; without one, the users in the store.
        after: only users after this id: the next page.
        limit: how many users at most.
        adapters: the kinds of adapters in the store, or all versions of the user's.
        trained: a folder that `persona train` wrote (or a user embedder's hub id): what it fits, how it was trained.
        explain: folder or hub id of a user embedder with the pooling `concepts`: which concepts the user is for it.
    """

    user_id: Annotated[str | None, typer.Argument()] = None
    after: str = ""
    limit: Annotated[int, typer.Option(min=1)] = 100
    adapters: bool = False
    trained: str | None = None
    explain: str | None = None


@command(app, "show", Show, store=True)
def show(options: Show) -> None:
    """Show users, and all that is held on one.

    Records, summaries, indexes, vectors, soft prompts, adapters. Without a user: who is in the store, the adapters in
    it, or what training wrote into a folder.
    """
    lists = options.user_id is None and not options.adapters and options.trained is None
    if (options.after, options.limit) != (Show.after, Show.limit) and not lists:
        raise InvalidOptionError("--after and --limit are for the list of users: leave all else out")
    if options.explain is not None and (options.user_id is None or options.adapters or options.trained is not None):
        raise InvalidOptionError("--explain FOLDER is about a user: name one, and leave --adapters and --trained out")
    if options.trained is not None:
        if options.user_id is not None or options.adapters or EVERYWHERE.get().store is not None:
            raise InvalidOptionError("--trained shows a folder: leave the user, --adapters and --store out")
        _show_trained(options.trained)
    elif options.adapters:
        _show_adapters(options.user_id)
    elif options.explain is not None and options.user_id is not None:
        _show_concepts(options.user_id, options.explain)
    elif options.user_id is not None:
        _show_user(options.user_id)
    else:
        _show_users(options.after, options.limit)


def _show_users(after: str, limit: int) -> None:
    """Users by id: at most `limit`, after `after`."""
    with opened_store() as store:
        counts = store.counts()
        found = list(islice(store.users(after, page=limit + 1), limit + 1))
    shown, more = found[:limit], len(found) > limit
    last = shown[-1].user_id if more else None
    report(
        {
            "users": [asdict(each) for each in shown],
            "after": last,
            "store": {"users": counts.users, "records": counts.records},
        },
        *(f"{each.user_id}  {counted(each.records, 'record')}" for each in shown),
        f"{counted(counts.users, 'user')} and {counted(counts.records, 'record')} in the store"
        + (f"; more: persona show --after {last!r}" if more else ""),
    )


def _show_user(user_id: str) -> None:
    from persona.store.holdings import holdings

    with opened_store() as store:
        held = holdings(store, user_id)
    report(held.as_dict(), *_user_lines(user_id, held))


def _show_concepts(user_id: str, name: str) -> None:
    from persona.soft_prompts.embedder import load_user_embedder
    from persona.soft_prompts.parts.poolings.concepts import ConceptsPooling

    pooling = load_user_embedder(name).pooling
    concepts = [part for part in pooling.modules() if isinstance(part, ConceptsPooling)]
    if not concepts:
        raise InvalidOptionError(
            f"--explain needs a user embedder that was trained with the view and the pooling 'concepts', was: {name}"
        )
    with opened_store() as store:
        store.check_known(user_id)
        profile = store.profile(user_id)
    found = concepts[0].explained(profile, pooling.log_null_records.exp())
    value = [{"concept": concept, "strength": strength, "records": records} for concept, strength, records in found]
    lines = [f"{concept:24} {strength:.3f}  {records} records" for concept, strength, records in found[:_CONCEPTS]]
    report(value, *(lines or [f"{user_id} has no concept among {len(concepts[0].names)}"]))


def record_line(record: Record) -> str:
    """A record for people, in one line."""
    target = "" if record.target is None else f"  -> {shortened(record.target)}"
    until = "" if record.expires is None else f"  (until {record.expires})"
    return f"{record.time or 'undated':10}  {shortened(record.text)}{target}{until}"


def _user_lines(user_id: str, held: Holdings) -> list[str]:
    lines = [f"{user_id}: {len(held.profile)} records, revision {held.profile.revision}"]
    lines += [f"  {record_line(record)}" for record in held.profile]
    if held.expired:
        lines.append(f"  {held.expired} more have expired: persona forget --expired")
    if held.vectors:
        lines.append("vectors")
    for matrix in held.vectors:
        size = f"{matrix.rows} x {matrix.dim}, {_state(matrix.fresh)}, {matrix.size:,} bytes"
        lines.append(f"  {size}: {matrix.fingerprint}")
    if held.indexes:
        lines.append("derived from the records")
    for index in held.indexes:
        lines.append(f"  {index.kind}: {_state(index.fresh)}, {index.size:,} bytes")
        lines += [f"    {line}" for line in _content_lines(index)]
    if held.adapters:
        lines.append("adapters")
    for adapter in held.adapters:
        state = f"{adapter.state}, {_state(adapter.fresh)}, {adapter.size:,} bytes, {adapter.created}"
        lines.append(f"  version {adapter.version} of {adapter.family_key}, {state}")
    return [*lines, *(f"{name}: {rows} rows" for name, rows in held.others.items() if rows)]


def _content_lines(index: HeldIndex) -> list[str]:
    """What an index of readable content says, a line for each of its fields; ids of records are only counted."""
    content: Any = index.content
    if not isinstance(content, dict):
        return [] if content is None else [shortened(str(content))]
    lines = []
    for name, value in content.items():
        if name == "text":
            lines.append(f'"{value}"')
        elif isinstance(value, (dict, list)):
            lines.append(f"{name}: {len(value)}")
        else:
            lines.append(f"{name}: {shortened(str(value))}")
    return lines


def _state(fresh: bool) -> str:
    return "up to date" if fresh else "behind the records"


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _show_adapters(user_id: str | None) -> None:
    from persona.adapters.bank import AdapterBank

    with opened_store() as store:
        bank = AdapterBank(store)
        if user_id is None:
            rows = [_family_json(family, bank.counts(family)) for family in bank.families()]
            nothing = "there are no adapters: train some with `persona train adapters`"
        else:
            store.check_known(user_id)
            rows = [version_json(family, each) for family in bank.families() for each in bank.versions(user_id, family)]
            nothing = f"there are no adapters of {user_id!r}"
    report(rows, *(["  ".join(f"{name} {value}" for name, value in row.items()) for row in rows] or [nothing]))


def _family_json(family: Family, counts: Mapping[str, int]) -> dict[str, Any]:
    spec = family.spec
    return {
        "family": family.key,
        "base": family.base,
        **asdict(spec),
        "targets": ",".join(spec.targets),
        "bytes": family.nbytes,
        "prior": family.prior and family.prior[:12],
        "users": dict(counts),
    }


def version_json(family: Family, adapter: StoredAdapter) -> dict[str, Any]:
    """One version of a user's adapter."""
    return {
        "adapter": adapter.name,
        "family": family.key,
        "state": adapter.state,
        "revision": adapter.revision,
        "created": adapter.created,
        "metrics": dict(adapter.metrics),
    }


def _show_trained(name: str) -> None:
    from persona.retrievers.relevance.filters import TrainedFilter
    from persona.retrievers.usefulness.spaces import DualSpaces

    folder = Path(name)
    found: dict[str, Any]
    if (folder / "relevance.json").is_file():
        trained = TrainedFilter.load(folder)
        found = {"encoder": trained.fingerprint, "view": trained.view, "threshold": trained.threshold}
        found["training"] = trained.notes
    elif (folder / "usefulness.json").is_file():
        spaces = DualSpaces.from_pretrained(name)
        found = {"encoder": spaces.fingerprint, "view": spaces.view, "training": spaces.notes}
    elif (folder / "task_adapter.json").is_file():
        found = _task_adapter_json(folder)
    else:
        found = _user_embedder_json(name)
    training = found["training"] or {}
    lines = {key: value for key, value in found.items() if key != "training"}
    report_facts(found, {**lines, **training.get("report", {})})


def _task_adapter_json(folder: Path) -> dict[str, Any]:
    from persona.adapters.task_adapter import TaskAdapter

    loaded = TaskAdapter.load(folder)
    return {
        "task": loaded.task,
        "fingerprint": loaded.fingerprint,
        **_family_json(loaded.family, {}),
        "training": {"options": asdict(loaded.options), "report": dict(loaded.report)},
    }


def _user_embedder_json(name: str) -> dict[str, Any]:
    from persona.soft_prompts.copying import FEATURES
    from persona.soft_prompts.embedder import load_user_embedder
    from persona.soft_prompts.training.user_embedder import NOTES

    loaded = load_user_embedder(name)
    copies = None
    if loaded.copying is not None:
        copies = dict(zip(FEATURES, loaded.copying.weights.tolist(), strict=True))
    return {
        **asdict(loaded.config),
        "fingerprint": loaded.fingerprint,
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "copies": copies,
        "training": _notes(Path(name) / NOTES),
    }


def _notes(path: Path) -> dict[str, Any] | None:
    """How a user embedder was trained; None if the folder does not say."""
    if not path.is_file():
        return None
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {**notes, "report": dict(notes["report"])}
    except (ValueError, TypeError, KeyError) as error:
        raise DataFormatError(
            f"{path} is not what a training wrote, delete it or train again: {reason(error)}"
        ) from error
