"""Single records: `persona records [list] | add | edit | delete`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from persona.cli.options import command
from persona.cli.show import record_line
from persona.cli.terminal import counted, group, opened_store, report, settings
from persona.errors import DataFormatError, InvalidOptionError, UnknownRecordError

if TYPE_CHECKING:
    from persona.records import Record
    from persona.store.profile_store import ProfileStore


class _ListByDefault(TyperGroup):
    """Takes ``records USER`` for ``records list USER``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = group()
records = typer.Typer(
    name="records",
    help="List, add, edit or delete records of a user.",
    cls=_ListByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(records)

Target = Annotated[str | None, typer.Option(help="What the user made of it: a score, a tag, a title.")]
Time = Annotated[str | None, typer.Option(help="When, e.g. 2013, 2013-09-03 or 2013-09-03T10:30:00+02:00.")]
Expires = Annotated[str | None, typer.Option(help="When it ceases to hold, likewise.")]
Role = Annotated[str | None, typer.Option(help="Who spoke, such as user or assistant.")]
Speaker = Annotated[str | None, typer.Option(help="The speaker's name.")]
Metadata = Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="A further field. May be given several times.")]


@dataclass(frozen=True)
class List:
    """Options of `persona records list`.

    Attributes:
        user_id: whose.
        where: only these, e.g. 'time>=2011 and label=5'; other fields are metadata.
    """

    user_id: str
    where: str | None = None


@command(records, "list", List, store=True)
def list_records(options: List) -> None:
    """List the records of a user with their ids.

    `persona records USER` does the same.
    """
    from persona.retrievers.where import Where

    where = Where() if options.where is None else Where.parse(options.where)
    with opened_store() as store:
        store.check_known(options.user_id)
        found = where.part(store.profile(options.user_id)).records
    report([record.as_dict() for record in found], *(f"{each.id}  {record_line(each)}" for each in found))


@dataclass(frozen=True)
class Add:
    """Options of `persona records add`.

    Attributes:
        user_id: whose.
        text: what the user read, reviewed or wrote; '-' reads it from stdin.
        id: unique within the user (default: made from the content).
    """

    user_id: str
    text: str
    target: Target = None
    time: Time = None
    id: str | None = None
    expires: Expires = None
    role: Role = None
    speaker: Speaker = None
    metadata: Metadata = field(default_factory=list)


@command(records, "add", Add, store=True)
def add(options: Add) -> None:
    """Add one record."""
    given = {each.name: getattr(options, each.name) for each in fields(options)}
    text = sys.stdin.read() if options.text == "-" else options.text
    user_id, record = _read({**given, "text": text, "metadata": _pairs(options.metadata)})
    with opened_store(create=True) as store:
        if options.id is not None and any(each.id == record.id for each in store.profile(user_id)):
            raise InvalidOptionError(
                f"{user_id!r} has a record {record.id!r:.80} already: `persona records edit` changes it"
            )
        done = store.upsert([(user_id, record)])
    report(
        {"user_id": user_id, "added": done.added, "record": record.as_dict()},
        f"added the record {record.id} of {user_id!r}"
        if done.added
        else f"{user_id!r} had the record {record.id} already"
        if done.unchanged
        else "nothing was added: the record has expired",
    )


@dataclass(frozen=True)
class Edit:
    """Options of `persona records edit`.

    Attributes:
        user_id: whose.
        record_id: which.
        text: the new text; '-' reads it from stdin.
    """

    user_id: str
    record_id: str
    text: str | None = None
    target: Target = None
    time: Time = None
    expires: Expires = None
    role: Role = None
    speaker: Speaker = None
    metadata: Metadata = field(default_factory=list)


@command(records, "edit", Edit, store=True)
def edit(options: Edit) -> None:
    """Change fields of one record.

    An empty value removes a field. Summaries, soft prompts and adapters of the user go, for they may repeat what was
    there before; the old bytes are overwritten.
    """
    names = ("text", "target", "time", "expires", "role", "speaker")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if given.get("text") == "-":
        given["text"] = sys.stdin.read()
    if not given and not options.metadata:
        raise InvalidOptionError("name what to change: --text, --target, --time, --expires, --metadata ...")
    with opened_store() as store:
        old = _record(store, options.user_id, options.record_id)
        metadata = {name: value for name, value in (dict(old.metadata) | _pairs(options.metadata)).items() if value}
        kept = {name: getattr(old, name) for name in names}
        row = {**kept, **{name: value or None for name, value in given.items()}, "metadata": metadata}
        _, wanted = _read({**row, "user_id": options.user_id, "id": old.id})
        changed = [*given, *(["metadata"] if options.metadata else [])]
        new = store.edit_record(options.user_id, old.id, **{name: getattr(wanted, name) for name in changed})
        store.finish_forgetting(records=True)
    report({"user_id": options.user_id, "record": new.as_dict()}, f"{new.id}  {record_line(new)}")


@dataclass(frozen=True)
class Delete:
    """Options of `persona records delete`.

    Attributes:
        user_id: whose.
        record_ids: which.
    """

    user_id: str
    record_ids: list[str]


@command(records, "delete", Delete, store=True)
def delete(options: Delete) -> None:
    """Delete records, their bytes too.

    Summaries, soft prompts and adapters of the user go with them. `persona forget` erases a user.
    """
    with opened_store() as store:
        for record_id in options.record_ids:
            _record(store, options.user_id, record_id)
        deleted = store.delete_records(options.user_id, options.record_ids)
        store.finish_forgetting(records=True)
    report(
        {"user_id": options.user_id, "deleted": deleted},
        f"deleted {counted(deleted, 'record')} of {options.user_id!r}, and what was made from all records",
    )


def _record(store: ProfileStore, user_id: str, record_id: str) -> Record:
    store.check_known(user_id)
    found = next((record for record in store.profile(user_id) if record.id == record_id), None)
    if found is None:
        raise UnknownRecordError(f"{user_id!r} has no record {record_id!r:.80}: `persona records USER` lists them")
    return found


def _read(row: Mapping[str, object]) -> tuple[str, Record]:
    """User id and record of a row, by the rules of an ingest."""
    from persona.formats.rows import record_of
    from persona.records import check_size

    pair = record_of(row)
    if pair is None:
        raise DataFormatError("a record's `text` must not be empty")
    check_size(pair[1], settings().max_record_characters)
    return pair


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    wrong = [text for text in texts if "=" not in text or text.startswith("=")]
    if wrong:
        raise InvalidOptionError(f"--metadata takes NAME=VALUE, was: {wrong[0]!r}")
    return pairs
