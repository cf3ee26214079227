"""Everything out and in: `persona export` and `persona import`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import counted, group, opened_store, report, settings
from persona.errors import DataFormatError, InvalidOptionError

if TYPE_CHECKING:
    from persona.store.transfer.lines import ExportedFamily

app = group()


@dataclass(frozen=True)
class Export:
    """Options of `persona export`.

    Attributes:
        user_id: whose; leave it out for --all.
        file: where to; gzipped if it ends in .gz.
        everybody: of all users.
        adapters: also adapters.
    """

    user_id: Annotated[str | None, typer.Argument(metavar="[USER_ID]")] = None
    file: Annotated[Path | None, typer.Argument(metavar="FILE")] = None
    everybody: Annotated[bool, typer.Option("--all")] = False
    adapters: bool = False


@command(app, "export", Export, store=True)
def export(options: Export) -> None:
    """Write what is held to a file, for `import`.

    Records, summaries and soft prompts, of one user or of all; vectors are made again by `embed-users`.
    """
    from persona.store.transfer.exporting import export_users
    from persona.store.upkeep.exports import note_export

    given = [options.user_id, options.file]
    user_id, file = (None, options.user_id) if options.everybody else given
    if file is None or (options.everybody and options.file is not None):
        raise InvalidOptionError("name a user and a file, or --all and a file")
    path = Path(file)
    with opened_store() as store:
        done = export_users(store, path, None if user_id is None else [str(user_id)], adapters=options.adapters)
        if options.everybody:
            note_export(store.database, path, "all that was held")
    held = f"{counted(done.users, 'user')}, {counted(done.records, 'record')}{_derived(done.indexes, done.adapters)}"
    report({"file": str(path), **asdict(done)}, f"{held} written to {path}")


@dataclass(frozen=True)
class Import:
    """Options of `persona import`.

    Attributes:
        file: what `persona export` wrote.
    """

    file: Path


@command(app, "import", Import, store=True)
def import_file(options: Import) -> None:
    """Put everything from an export into the store.

    New users come as they were; of known ones the records are added, and what is there stays. Safe to stop at any
    moment, and to run again.
    """
    from persona.store.transfer.importing import check_export, import_users

    most = settings().max_record_characters
    _, families = check_export(options.file, max_characters=most)
    if families:
        _check_families(options.file, families)
    with opened_store(create=True) as store:
        done = import_users(store, options.file, max_characters=most)
    records = done.records
    expired = f", {records.expired} expired" if records.expired else ""
    report(
        asdict(done),
        f"{counted(done.users, 'user')}: {records.added} records added, {records.changed} changed, "
        f"{records.unchanged} unchanged{expired}{_derived(done.indexes, done.adapters)}",
    )


def _check_families(file: Path, families: Sequence[ExportedFamily]) -> None:
    """Refuse families that no bank could read: they would be in the way of all adapters in the store."""
    import torch

    from persona.adapters.family import Family

    for each in families:
        try:
            family = Family.from_name(each.name)
            prior = None if each.prior is None else torch.frombuffer(bytearray(each.prior), dtype=torch.float32)
            whole = family.name == each.name and family.over(prior).prior == family.prior
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if not whole:
            raise DataFormatError(f"the family of adapters {each.key[:12]} cannot be read", source=file)


def _derived(indexes: int, adapters: int) -> str:
    derived = f", {indexes} summaries, soft prompts or indexes" if indexes else ""
    return f"{derived}, {counted(adapters, 'adapter')}" if adapters else derived
