"""Who is in the store: `persona show` without a user."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice

from persona.cli.terminal import counted, opened_store, report


def show_users(after: str, limit: int) -> None:
    """List the users in the store, by id.

    Args:
        after: only ids after this one: the next page.
        limit: how many at most.
    """
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
