"""Writing an export: users in the order of their ids, streamed, so that equal stores make equal files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import Select, bindparam, select

from persona.files import replacing
from persona.store.profile_store import ProfileStore
from persona.store.queries import queries
from persona.store.schema import Part, families, part_of
from persona.store.transfer.lines import (
    Counts,
    ExportedAdapter,
    ExportedFamily,
    ExportedIndex,
    ExportedUser,
    Line,
    first_line,
)
from persona.store.upkeep.expiry import has_expired, now


def export_users(
    store: ProfileStore, path: Path, user_ids: Iterable[str] | None = None, *, adapters: bool = False
) -> Counts:
    """Write what a store holds of users to a file: records, summaries, soft prompts, and adapters on request.

    Vectors are not among it: `embed_users` makes them again. Nor is what has expired.

    Args:
        store: the store.
        path: the file, gzipped if its name ends in ``.gz``. It is there when all is written, or as it was.
        user_ids: whose; None for all.
        adapters: also their adapters, and the priors that those lie over.

    Returns:
        How much was written.

    Raises:
        UnknownUserError: if the store does not know one of them.
        OSError: if the file cannot be written.
    """
    counts = Counts()
    with _written(path) as file:
        file.write(first_line().written())
        for key, name, prior in store.database.rows(_FAMILIES) if adapters else ():
            file.write(Line(family=ExportedFamily(key=key, name=name, prior=prior)).written())
        for user_id in (user.user_id for user in store.users()) if user_ids is None else user_ids:
            store.check_known(user_id)
            user = _exported(store, user_id, adapters=adapters)
            file.write(Line(user=user).written())
            counts.add(user)
        file.write(Line(end=counts).written())
    return counts


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    with replacing(path) as temporary, temporary.open("wb") as plain:
        if path.suffix == ".gz":
            # Without the time and the name, so that equal exports are equal files.
            with gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as packed, TextIOWrapper(packed, "utf-8") as file:
                yield file
        else:
            with TextIOWrapper(plain, "utf-8") as file:
                yield file


def _exported(store: ProfileStore, user_id: str, *, adapters: bool) -> ExportedUser:
    part, parameters, read = part_of(user_id), {"user_id": user_id}, store.database.rows
    while True:
        profile = store.profile(user_id)
        indexes = read(queries(part).indexes, parameters)
        versions = read(_adapters(part), parameters) if adapters else []
        ((revision, erased, expires, _),) = read(queries(part).user, parameters)
        if revision == profile.revision:  # else the records were changed meanwhile
            break
    if has_expired(expires, now()):
        indexes = versions = []
    return ExportedUser(
        user_id=user_id,
        changes=max(0, revision - erased),
        records=profile.records,
        indexes=tuple(ExportedIndex.of(kind, revision - made_from, data) for kind, made_from, data in indexes),
        adapters=tuple(
            ExportedAdapter(
                family=family,
                version=version,
                state=state,
                behind=revision - made_from,
                sha256=sha256,
                created=created,
                metrics=json.loads(metrics),
                data=data,
            )
            for family, version, state, made_from, sha256, created, metrics, data in versions
        ),
    )


_FAMILIES = select(families.c.key, families.c.name, families.c.prior).order_by(families.c.key)


@cache
def _adapters(part: Part) -> Select[Any]:
    users, adapters = part.users, part.adapters
    names = ("version", "state", "revision", "sha256", "created", "metrics", "payload")
    return (
        select(families.c.key, *(adapters.c[name] for name in names))
        .select_from(users.join(adapters, adapters.c.uid == users.c.uid).join(families))
        .where(users.c.user_id == bindparam("user_id"))
        .order_by(families.c.key, adapters.c.version)
    )
