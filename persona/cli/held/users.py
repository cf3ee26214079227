"""Who is in the store: `persona users`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import counted, group, opened_store, report

app = group()


@dataclass(frozen=True)
class Users:
    """Options of `persona users`.

    Attributes:
        after: only ids after this one: the next page.
        limit: how many at most.
    """

    after: str = ""
    limit: Annotated[int, typer.Option(min=1)] = 100


@command(app, "users", Users, store=True)
def users(options: Users) -> None:
    """List the users in the store."""
    with opened_store() as store:
        counts = store.counts()
        found = list(islice(store.users(options.after, page=options.limit + 1), options.limit + 1))
    shown, more = found[: options.limit], len(found) > options.limit
    after = shown[-1].user_id if more else None
    report(
        {
            "users": [asdict(each) for each in shown],
            "after": after,
            "store": {"users": counts.users, "records": counts.records},
        },
        *(f"{each.user_id}  {counted(each.records, 'record')}" for each in shown),
        f"{counted(counts.users, 'user')} and {counted(counts.records, 'record')} in the store"
        + (f"; more: persona users --after {after!r}" if more else ""),
    )
