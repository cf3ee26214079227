"""Streaming records into the store: thousands at a time, in one transaction, touching only what is new or changed."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Update, bindparam, select, text, update

from persona.errors import DataFormatError
from persona.records import SYNTHETIC, Record, check_user_id
from persona.store.database import insert_rows
from persona.store.queries import queries
from persona.store.record_rows import CONTENT, content_of, record_of
from persona.store.schema import PART_TABLES, RECORDS_PER_USER, Part, part_of
from persona.store.upkeep.duplicates import Merge, Similarity, merged
from persona.store.upkeep.editing import (
    KEYS_AT_ONCE,
    add_users,
    delete_records,
    locked_floor,
    locked_user,
    renew_expiry,
)
from persona.store.upkeep.expiry import has_expired, moment, now, remove_expired

CHUNK_RECORDS = 16_384
CHUNK_CHARACTERS = 8_000_000
"""A chunk is written when it has this many records or characters: the most that is held in memory."""

_HASHES = {
    "sqlite": "SELECT uid, record_id, hash, expires FROM json_each(:keys) JOIN {records} "
    "ON uid = json_extract(value, '$[0]') AND record_id = json_extract(value, '$[1]')",
    "postgresql": "SELECT uid, record_id, hash, expires FROM json_array_elements(CAST(:keys AS json)) JOIN {records} "
    "ON uid = CAST(value ->> 0 AS bigint) AND record_id = value ->> 1",
}
"""The stored hashes and expiries by uid and record id, for the pairs of the two in the JSON array `keys`."""

_History = dict[str, tuple[bytes, Record]]
"""Records of one user, by id, with their content hashes."""

_Known = tuple[bytes, str | None]
"""Content hash and expiry of a record in the store."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an upsert did.

    Attributes:
        users: users of the input.
        added: records that were new.
        changed: records that the store had with other content, and were replaced.
        unchanged: records that the store had with the same content, and were left alone.
        expired: records of the input that had expired and were left out, and records of the store, of any user, that
            had expired and were removed.
        merges: records that were left out or removed for newer ones that say almost the same.
    """

    users: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    expired: int = 0
    merges: tuple[Merge, ...] = ()


@dataclass(slots=True)
class Chunk:
    """Records of the input, by user: no record id twice."""

    histories: dict[str, _History] = field(default_factory=dict)
    repeated: int = 0


def chunks(pairs: Iterable[tuple[str, Record]]) -> Iterator[Chunk]:
    """Cut the input into chunks.

    A record that comes twice with the same content is counted as `repeated`; one that comes again with other content
    starts a new chunk, so that the outcome is that of one upsert after the other.

    Raises:
        InvalidUserIdError: if a user id is not a legal id.
        DataFormatError: if something is no pair of a user id and a `Record`.
    """
    chunk = Chunk()
    records = characters = 0
    # The records of a user mostly come one after the other.
    last: str | None = None
    history: _History = {}
    for pair in pairs:
        try:
            user_id, record = pair
        except (TypeError, ValueError):
            raise DataFormatError(f"the store takes pairs of a user id and a Record, was: {pair!r:.80}") from None
        if not isinstance(record, Record):
            raise DataFormatError(f"the store takes pairs of a user id and a Record, was: {record!r:.80}")
        if SYNTHETIC in record.metadata:
            raise DataFormatError("what an LLM wrote is no record of a user: keep it beside the records")
        if user_id != last:
            last = check_user_id(user_id)
            history = chunk.histories.setdefault(last, {})
        content_hash = bytes.fromhex(record.content_hash)
        known = history.get(record.id)
        if known is not None and known[0] == content_hash:
            chunk.repeated += 1
            continue
        if known is not None or records == CHUNK_RECORDS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk = Chunk()
            records = characters = 0
            history = chunk.histories.setdefault(last, {})
        history[record.id] = (content_hash, record)
        records += 1
        characters += len(record.text)
    if chunk.histories:
        yield chunk


class Upsert:
    """One upsert within one transaction: `add` every chunk, then `finish`.

    Args:
        connection: of the transaction.
        expires_after: when records without an expiry expire, from now on; None for never. One that is in the store with
            an expiry keeps it as long as nothing else of it changes.
        similarity: says which records of a user say almost the same: the newer one is kept.
    """

    def __init__(
        self, connection: Connection, *, expires_after: timedelta | None = None, similarity: Similarity | None = None
    ) -> None:
        self._connection = connection
        self._similarity = similarity
        self._merges: list[Merge] = []
        self._now = now()
        self._expires = None if expires_after is None else moment(time.time() + expires_after.total_seconds())
        self._added = self._changed = self._unchanged = self._expired = 0
        self._floors: dict[int, int] = {}
        self._users: set[tuple[int, int]] = set()

    def add(self, chunk: Chunk) -> None:
        """Write the records of `chunk` that are new or changed."""
        by_part: defaultdict[int, dict[str, _History]] = defaultdict(dict)
        for user_id, history in chunk.histories.items():
            by_part[part_of(user_id).number][user_id] = history
        for number in sorted(by_part):  # one order for all writers, who lock users as they go
            self._add(PART_TABLES[number], by_part[number])
        self._unchanged += chunk.repeated

    def finish(self) -> IngestReport:
        """Remove what has expired; what was done."""
        self._expired += remove_expired(self._connection, self._now)
        return IngestReport(
            len(self._users), self._added, self._changed, self._unchanged, self._expired, tuple(self._merges)
        )

    def _add(self, part: Part, histories: Mapping[str, _History]) -> None:
        users = self._locked_users(part, list(histories))
        if self._similarity is not None:
            histories = {
                user_id: self._merged(part, user_id, history, self._similarity)
                for user_id, history in histories.items()
            }
            users = self._known_users(part, list(histories))  # some have lost records
        known = self._known_hashes(part, users, histories)
        added: list[tuple[object, ...]] = []
        changed: list[dict[str, object]] = []
        touched: list[dict[str, object]] = []
        expiring: list[dict[str, object]] = []
        for user_id, history in histories.items():
            _, uid, revision, records, appended, expires = users[user_id]
            self._users.add((part.number, uid))
            place = uid * RECORDS_PER_USER + appended
            new = renewed = 0
            for record_id, (given_hash, given) in history.items():
                old = known.get((uid, record_id))
                content_hash, record = self._with_expiry(given_hash, given, old)
                if old is None and has_expired(record.expires, self._now):
                    self._expired += 1
                elif old is None:
                    added.append((place + new, uid, record_id, content_hash, *content_of(record)))
                    new += 1
                elif old[0] != content_hash:
                    content = dict(zip(CONTENT, content_of(record), strict=True))
                    changed.append({"its_uid": uid, "its_id": record_id, "hash": content_hash, **content})
                    renewed += 1
                else:
                    self._unchanged += 1
                if record.expires is not None:
                    expires = record.expires
            if new or renewed:
                counts = {"revision": revision + 1, "records": records + new, "appended": appended + new}
                touched.append({"its_uid": uid, **counts})
                if expires is not None:
                    expiring.append({"its_uid": uid})
            self._added += new
            self._changed += renewed
        if added:
            added.sort()  # the order of the table, which then grows at its end
            insert_rows(self._connection, part.records, ("place", "uid", "record_id", "hash", *CONTENT), added)
        if changed:
            self._connection.execute(_change_record(part), changed)
        if touched:
            self._connection.execute(_touch_user(part), touched)
        if expiring:
            self._connection.execute(renew_expiry(part), expiring)

    def _merged(self, part: Part, user_id: str, history: _History, similarity: Similarity) -> _History:
        """Those of the user's new records that stay; stored ones that go for them are deleted."""
        rows = self._connection.execute(queries(part).profile, {"user_id": user_id}).all()
        stored = [record_of(row[2], row[3:]) for row in rows if row[2] and not has_expired(row[-1], self._now)]
        done = merged(stored, [record for _, record in history.values()], similarity, user_id)
        if done.removed:
            user = locked_user(self._connection, part, user_id)
            delete_records(self._connection, part, user, done.removed)
        self._merges += done.merges
        return {record.id: history[record.id] for record in done.added}

    def _with_expiry(self, content_hash: bytes, record: Record, old: _Known | None) -> tuple[bytes, Record]:
        """The record as it is to be stored, with its hash."""
        if self._expires is None or record.expires is not None:
            return content_hash, record
        if old is not None and old[1] is not None:
            kept = replace(record, expires=old[1])
            if bytes.fromhex(kept.content_hash) == old[0]:
                return old[0], kept
        record = replace(record, expires=self._expires)
        return bytes.fromhex(record.content_hash), record

    def _locked_users(self, part: Part, user_ids: list[str]) -> dict[str, Any]:
        """The rows of these users, made if new, locked against every other writer."""
        if part.number not in self._floors:
            self._floors[part.number] = locked_floor(self._connection, part)
        users = self._known_users(part, user_ids)
        missing = [user_id for user_id in user_ids if user_id not in users]
        if missing:
            add_users(self._connection, part, missing, self._floors[part.number])
            users |= self._known_users(part, missing)
        return users

    def _known_users(self, part: Part, user_ids: list[str]) -> dict[str, Any]:
        statement = _lock_users(part)
        return {
            row.user_id: row
            for start in range(0, len(user_ids), KEYS_AT_ONCE)
            for row in self._connection.execute(statement, {"user_ids": user_ids[start : start + KEYS_AT_ONCE]})
        }

    def _known_hashes(
        self, part: Part, users: Mapping[str, Any], histories: Mapping[str, _History]
    ) -> dict[tuple[int, str], _Known]:
        """What is known of those records of the input that the store has, by uid and record id."""
        keys: list[tuple[int, str]] = []
        for user_id, history in histories.items():
            if users[user_id].appended:  # who never had a record has none now
                keys += [(users[user_id].uid, record_id) for record_id in history]
        if not keys:
            return {}
        # One parameter holds all keys: both databases plan a long list of pairs badly.
        statement = _HASHES[self._connection.dialect.name].format(records=part.records.name)
        rows = self._connection.execute(text(statement), {"keys": json.dumps(keys, ensure_ascii=False)})
        return {(uid, record_id): (content_hash, expires) for uid, record_id, content_hash, expires in rows}


# Built once for each part: building them for each chunk costs 8 % of an ingest.


@cache
def _lock_users(part: Part) -> Select[Any]:
    """The rows of the users `user_ids`."""
    users = part.users.c
    return (
        select(users.user_id, users.uid, users.revision, users.records, users.appended, users.expires)
        .where(users.user_id.in_(bindparam("user_ids", expanding=True)))
        .order_by(users.uid)
        .with_for_update()
    )


@cache
def _change_record(part: Part) -> Update:
    """New content for the record `its_id` of the user `its_uid`."""
    records = part.records.c
    own = (records.uid == bindparam("its_uid")) & (records.record_id == bindparam("its_id"))
    return update(part.records).where(own)


@cache
def _touch_user(part: Part) -> Update:
    """New numbers for the user `its_uid`."""
    return update(part.users).where(part.users.c.uid == bindparam("its_uid"))
