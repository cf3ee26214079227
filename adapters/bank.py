"""Versions of every user's adapter, in the store's own database.

::

    bank = AdapterBank(store)
    bank.add_family(family)
    bank.publish(family, [AdapterDraft("ana", row, revision=12, metrics={"loss": 0.4, "loss_prior": 0.7})])
    bank.row(bank.current("ana", family))                          # (size,)

The table has a row per user, family and version::

    user_id  version  state      revision  sha256  created               metrics                        payload
    ana      1        old        9         5f1c..  2026-01-04T10:00:00Z  {"loss": .5, "loss_prior": .7}  64 KiB
    ana      2        published  12        9a07..  2026-02-01T10:00:00Z  {"loss": .4, "loss_prior": .7}  64 KiB
    bo       1        prior      30                2026-02-01T10:00:00Z  {"loss": .8, "loss_prior": .7}

Publishing and rolling back are one transaction each, so a process that is killed leaves the state before or after. No
operation reads another user's rows, whatever their number. `ProfileStore.forget` erases them with everything else of
the user, and `ProfileStore.delete_records` takes them away, since they were made from what was deleted.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Connection, Select, and_, bindparam, delete, func, literal_column, or_, select, update
from torch import Tensor

from persona.adapters.family import Family
from persona.adapters.versions import (
    CURRENT,
    OLD,
    PRIOR,
    PUBLISHED,
    WITHDRAWN,
    AdapterDraft,
    StoredAdapter,
    erase_exports,
)
from persona.errors import (
    DataFormatError,
    FingerprintMismatchError,
    InvalidOptionError,
    UnknownAdapterError,
    check_least,
)
from persona.records import check_user_id
from persona.store.database import insert_if_absent
from persona.store.profile_store import ForgetReport, ProfileStore
from persona.store.queries import PAGE
from persona.store.schema import PART_TABLES, Part, families, part_of
from persona.store.upkeep.expiry import now


class AdapterBank:
    """The adapters of a store's users, by family and version.

    Args:
        store: where the users' records are.

    Every method raises `StoreError` if the database fails, and `InvalidUserIdError` for an id that no store may hold.
    """

    def __init__(self, store: ProfileStore) -> None:
        self.store = store
        self._numbers: dict[Family, int] = {}

    def forget(self, user_id: str, *, exports: Path | None = None) -> ForgetReport:
        """`ProfileStore.forget`, and the user's folders in `exports`."""
        if exports is not None:
            erase_exports(user_id, exports)
        return self.store.forget(user_id)

    def add_family(self, family: Family, prior: Tensor | None = None) -> None:
        """Make a family known, with the prior that its adapters lie over. One that is known is left as it is.

        Raises:
            FingerprintMismatchError: if `prior` is not the one that the family names.
        """
        if family.over(prior).prior != family.prior:
            raise FingerprintMismatchError(
                f"the family {family.key} lies over the prior {family.prior}, was given: {family.over(prior).prior}"
            )
        data = None if prior is None else prior.detach().cpu().float().contiguous().numpy().tobytes()
        with self.store.database.writing() as connection:
            connection.execute(
                insert_if_absent(connection, families), {"key": _key(family), "name": family.name, "prior": data}
            )

    def families(self) -> tuple[Family, ...]:
        """All families, oldest first."""
        rows = self.store.database.rows(select(families.c.name).order_by(families.c.family), {})
        return tuple(Family.from_name(name) for (name,) in rows)

    def family(self, base: str | None = None, *, key: str | None = None, steers: bool | None = False) -> Family:
        """The family for a model. Of several the one that has users is taken.

        Args:
            base: the model's fingerprint; None takes any model's.
            key: `Family.key`, or its beginning, where there are several.
            steers: whether it is to be one of steering vectors; None for either.

        Raises:
            UnknownAdapterError: if there is none, or none of that key.
            FingerprintMismatchError: if there are only families of other models.
            InvalidOptionError: if there are several and `key` does not choose one.
        """
        fitting = [each for each in self.families() if steers in (None, each.steers)]
        every = [family for family in fitting if family.key.startswith(key or "")]
        if not every:
            wanted = f"no family {key}" if key else f"no {'steering vectors' if steers else 'adapters'}"
            raise UnknownAdapterError(
                f"the store {self.store.database.name} has {wanted}: train some with `persona train adapters`"
            )
        fitting = [family for family in every if base in (None, family.base)]
        if not fitting:
            raise FingerprintMismatchError(
                f"the adapters were made for {' and '.join(sorted({family.base for family in every}))}, "
                f"this model is {base}: load that model, or train adapters for this one"
            )
        if len(fitting) > 1:
            fitting = [family for family in fitting if any(self.counts(family).values())] or fitting
        if len(fitting) > 1:
            keys = ", ".join(family.key for family in fitting)
            of_model = "" if base is None else f" for {base}"
            raise InvalidOptionError(f"there are {len(fitting)} families of adapters{of_model}, name one: {keys}")
        return fitting[0]

    def prior(self, family: Family) -> Tensor | None:
        """The shared prior that the family's adapters lie over, float32.  # (size,)"""
        statement = select(families.c.prior).where(families.c.family == bindparam("family"))
        ((data,),) = self.store.database.rows(statement, {"family": self._number(family)})
        return None if data is None else torch.frombuffer(bytearray(data), dtype=torch.float32)

    def publish(self, family: Family, drafts: Iterable[AdapterDraft], *, keep: int = 3) -> tuple[StoredAdapter, ...]:
        """Make new versions the current ones, all in one transaction.

        Some are passed over: those of users who were forgotten meanwhile (also if there is a new user by that id), and
        those made before records were deleted.

        Args:
            family: theirs.
            drafts: one for a user at most.
            keep: how many versions of a user to keep, the new one included; at least 1.

        Returns:
            The versions that were not passed over, in the order of `drafts`.

        Raises:
            InvalidOptionError: if `keep` is below 1, a user comes twice, or numbers are not finite.
        """
        check_least(1, keep=keep)
        number = self._number(family)
        payloads: dict[str, tuple[AdapterDraft, bytes | None]] = {}
        parts: defaultdict[int, list[str]] = defaultdict(list)
        for draft in drafts:
            if check_user_id(draft.user_id) in payloads:
                raise InvalidOptionError(f"a user can have one draft at a time, {draft.user_id!r} came twice")
            payloads[draft.user_id] = draft, None if draft.row is None else family.encode(draft.row)
            parts[part_of(draft.user_id).number].append(draft.user_id)
        stored: dict[str, StoredAdapter] = {}
        with self.store.database.writing() as connection:
            for place in sorted(parts):
                part = PART_TABLES[place]
                for user_id, (uid, erased, revision) in _users(connection, part, parts[place]).items():
                    draft, payload = payloads[user_id]
                    if erased <= draft.revision <= revision:
                        version = _retire(connection, part, uid, number, keep) + 1
                        stored[user_id] = _insert(connection, part, (uid, number, version), family, draft, payload)
        return tuple(stored[user_id] for user_id in payloads if user_id in stored)

    def roll_back(self, user_id: str, family: Family) -> StoredAdapter:
        """Withdraw the user's current version and make the one before it the current one again.

        Raises:
            UnknownAdapterError: if there is no version before it.
        """
        number, part = self._number(family), part_of(check_user_id(user_id))
        adapters = part.adapters
        with self.store.database.writing() as connection:
            uid = connection.execute(
                select(part.users.c.uid).where(part.users.c.user_id == user_id).with_for_update()
            ).scalar()
            own = and_(adapters.c.uid == uid, adapters.c.family == number)
            before = connection.execute(select(func.max(adapters.c.version)).where(own, adapters.c.state == OLD))
            version = before.scalar()
            if version is None:
                raise UnknownAdapterError(f"the bank has no earlier version of {user_id!r} to go back to")
            connection.execute(update(adapters).where(own, adapters.c.state.in_(CURRENT)).values(state=WITHDRAWN))
            # One without a payload says that the prior does better, and says so again.
            by_payload: Any = literal_column(f"CASE WHEN payload IS NULL THEN '{PRIOR}' ELSE '{PUBLISHED}' END")
            connection.execute(update(adapters).where(own, adapters.c.version == version).values(state=by_payload))
        return self.version(user_id, family, version)

    def current(self, user_id: str, family: Family) -> StoredAdapter | None:
        """The user's version that is published, or that says to use the prior; None if there is neither."""
        rows = self._rows(user_id, family, "current")
        return _stored(user_id, family, rows[0]) if rows else None

    def version(self, user_id: str, family: Family, version: int) -> StoredAdapter:
        """One version, whatever its state.

        Raises:
            UnknownAdapterError: if there is none.
        """
        rows = self._rows(user_id, family, "version", version=version)
        if not rows:
            raise UnknownAdapterError(f"the bank has no adapter {user_id}@{version} of the family {family.key}")
        return _stored(user_id, family, rows[0])

    def versions(self, user_id: str, family: Family) -> tuple[StoredAdapter, ...]:
        """All versions that are kept, oldest first."""
        return tuple(_stored(user_id, family, row) for row in self._rows(user_id, family, "versions"))

    def row(self, adapter: StoredAdapter) -> Tensor:
        """The adapter's numbers; errors as in `payload`.  # (size,)"""
        return adapter.family.decode(self.payload(adapter))

    def payload(self, adapter: StoredAdapter) -> bytes:
        """The adapter's bytes at rest.

        Raises:
            UnknownAdapterError: if it was erased meanwhile, or has no numbers.
            DataFormatError: if the bytes are not the ones that were put in.
        """
        rows = self._rows(adapter.user_id, adapter.family, "payload", version=adapter.version)
        if not rows or rows[0][0] is None:
            raise UnknownAdapterError(f"the bank has no numbers of the adapter {adapter.name}")
        payload: bytes = rows[0][0]
        if hashlib.sha256(payload).hexdigest() != adapter.sha256:
            raise DataFormatError(f"the adapter {adapter.name} is damaged: train it again, or roll it back")
        return payload

    def counts(self, family: Family) -> dict[str, int]:
        """How many users have a current version, by its state: `PUBLISHED` or `PRIOR`."""
        number, counts = self._number(family), dict.fromkeys(CURRENT, 0)
        for part in PART_TABLES:
            for state, users in self.store.database.rows(_statements(part)["counts"], {"family": number}):
                counts[state] += users
        return counts

    def current_adapters(self, family: Family) -> Iterator[StoredAdapter]:
        """The current version of every user, streamed, in an order that stays."""
        number = self._number(family)
        for part in PART_TABLES:
            yield from (_stored(row[1], family, row[2:]) for row in self._pages(part, number, "stream"))

    def stale_users(self, family: Family) -> Iterator[str]:
        """The users with records and no version that was made from the profile as it is, streamed.

        Versions may be published while this runs.
        """
        for window in self.stale_windows(family, PAGE):
            yield from window

    def stale_windows(self, family: Family, size: int) -> Iterator[list[str]]:
        """`stale_users` in windows: who is in which one does not depend on who is stale.

        Args:
            family: of the adapters.
            size: users of a window, about; at least 1.
        """
        number, numbers = self._number(family), max(1, size // len(PART_TABLES))
        by_number = heapq.merge(*(self._pages(part, number, "stale") for part in PART_TABLES), key=itemgetter(0))
        for _, rows in groupby(by_number, key=lambda row: row[0] // numbers):
            yield [row[1] for row in rows]

    def _pages(self, part: Part, family: int, statement: str) -> Iterator[Any]:
        """Rows of a part that begin with a uid, page by page."""
        return self.store.database.pages(_statements(part)[statement], {"family": family, "now": now()})

    def _rows(self, user_id: str, family: Family, statement: str, **parameters: object) -> list[Any]:
        part = part_of(check_user_id(user_id))
        given = {"user_id": user_id, "family": self._number(family), "now": now(), **parameters}
        return self.store.database.rows(_statements(part)[statement], given)

    def _number(self, family: Family) -> int:
        number = self._numbers.get(family)
        if number is None:
            statement = select(families.c.family).where(families.c.key == bindparam("key"))
            rows = self.store.database.rows(statement, {"key": _key(family)})
            if not rows:
                raise UnknownAdapterError(f"the store {self.store.database.name} has no family {family.key}: add it")
            number = self._numbers[family] = rows[0][0]
        return number


def _key(family: Family) -> str:
    return hashlib.sha256(family.name.encode()).hexdigest()


def _users(connection: Connection, part: Part, user_ids: list[str]) -> dict[str, tuple[int, int, int]]:
    """uid, `erased` and `revision` of those who are known; they are not erased before the transaction ends."""
    users = part.users.c
    rows = connection.execute(
        select(users.user_id, users.uid, users.erased, users.revision)
        .where(users.user_id.in_(user_ids))
        .with_for_update()
    )
    return {row.user_id: (row.uid, row.erased, row.revision) for row in rows}


def _retire(connection: Connection, part: Part, uid: int, family: int, keep: int) -> int:
    """Make room for a new version: none is current, `keep - 1` are left. Returns the highest number so far."""
    adapters = part.adapters
    own = and_(adapters.c.uid == uid, adapters.c.family == family)
    numbers = list(connection.execute(select(adapters.c.version).where(own).order_by(adapters.c.version)).scalars())
    connection.execute(update(adapters).where(own, adapters.c.state.in_(CURRENT)).values(state=OLD))
    dropped = numbers[: max(0, len(numbers) - keep + 1)]
    if dropped:
        connection.execute(delete(adapters).where(own, adapters.c.version.in_(dropped)))
    return numbers[-1] if numbers else 0


def _insert(
    connection: Connection,
    part: Part,
    key: tuple[int, int, int],
    family: Family,
    draft: AdapterDraft,
    payload: bytes | None,
) -> StoredAdapter:
    """Insert a version under ``(uid, family, version)``."""
    values = {
        "state": PRIOR if payload is None else PUBLISHED,
        "revision": draft.revision,
        "sha256": None if payload is None else hashlib.sha256(payload).hexdigest(),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metrics": json.dumps(dict(draft.metrics)),
    }
    names = dict(zip(("uid", "family", "version"), key, strict=True))
    connection.execute(part.adapters.insert(), {**names, **values, "payload": payload})
    return _stored(draft.user_id, family, (key[2], *values.values()))


def _stored(user_id: str, family: Family, row: Any) -> StoredAdapter:
    version, state, revision, sha256, created, metrics = row
    return StoredAdapter(user_id, family, version, state, revision, sha256, created, json.loads(metrics))


@cache
def _statements(part: Part) -> dict[str, Select[Any]]:
    """The reading statements of one part by name; all take `family`, `now`, and `user_id` or `after` (a uid).

    Those that read adapters leave out users with records that have expired and were not removed yet.
    """
    users, adapters = part.users, part.adapters
    columns = tuple(adapters.c[name] for name in ("version", "state", "revision", "sha256", "created", "metrics"))
    joined = users.join(adapters, adapters.c.uid == users.c.uid)
    of_family = adapters.c.family == bindparam("family")
    live = or_(users.c.expires.is_(None), users.c.expires > bindparam("now"))
    own = and_(users.c.user_id == bindparam("user_id"), of_family, live)
    is_current = adapters.c.state.in_([literal_column(f"'{state}'") for state in CURRENT])
    one_version = adapters.c.version == bindparam("version")
    page = users.c.uid > bindparam("after")
    fresh = (
        select(literal_column("1"))
        .select_from(adapters)
        .where(adapters.c.uid == users.c.uid, of_family, adapters.c.revision >= users.c.revision)
        .exists()
    )
    read = select(*columns).select_from(joined)
    listed = select(users.c.uid, users.c.user_id)
    return {
        "current": read.where(own, is_current),
        "version": read.where(own, one_version),
        "versions": read.where(own).order_by(adapters.c.version),
        "payload": select(adapters.c.payload).select_from(joined).where(own, one_version),
        "stream": listed.add_columns(*columns)
        .select_from(joined)
        .where(page, of_family, is_current, live)
        .order_by(users.c.uid)
        .limit(PAGE),
        "stale": listed.where(page, users.c.records > 0, ~fresh).order_by(users.c.uid).limit(PAGE),
        "counts": select(adapters.c.state, func.count()).where(of_family, is_current).group_by(adapters.c.state),
    }
