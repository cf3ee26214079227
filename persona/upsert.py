"""Streaming records into the store: thousands at a time, in one transaction, touching only what is new or changed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, tuple_, update

from persona.database import insert_if_absent
from persona.errors import DataFormatError
from persona.records import Record, check_user_id
from persona.schema import PART_TABLES, PARTS, RECORDS_PER_USER, Part, part_of, parts

CHUNK_RECORDS = 8192
CHUNK_CHARACTERS = 8_000_000
"""A chunk is written when it has this many records or characters: the most that is held in memory."""

_KEYS_AT_ONCE = 500
"""Keys in one list of a query: PostgreSQL plans long ones badly, and SQLite has a limit."""

_History = dict[str, tuple[bytes, Record]]
"""Records of one user, by id, with their content hashes."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an upsert did.

    Attributes:
        users: users that stood in the input.
        added: records that were new.
        changed: records that were there with other content, and were replaced.
        unchanged: records that were there just so, and were left alone.
    """

    users: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0


@dataclass(slots=True)
class Chunk:
    """Records of the input, by user: no record id twice."""

    histories: dict[str, _History] = field(default_factory=dict)
    records: int = 0
    characters: int = 0
    repeated: int = 0


def chunks(pairs: Iterable[tuple[str, Record]]) -> Iterator[Chunk]:
    """Cut the input into chunks.

    A record that comes twice with the same content is counted as `repeated`; one that comes again with other content
    starts a new chunk, so that the outcome is that of one upsert after the other.

    Raises:
        InvalidUserIdError: if a user id is none.
        DataFormatError: if something is no pair of a user id and a `Record`.
    """
    chunk = Chunk()
    # The records of a user mostly come one after the other.
    last: str | None = None
    history: _History = {}
    for user_id, record in pairs:
        if not isinstance(record, Record):
            raise DataFormatError(f"the store takes pairs of a user id and a Record, was: {record!r:.80}")
        if user_id != last:
            last = check_user_id(user_id)
            history = chunk.histories.setdefault(last, {})
        content_hash = bytes.fromhex(record.content_hash)
        present = history.get(record.id)
        if present is not None and present[0] == content_hash:
            chunk.repeated += 1
            continue
        if present is not None or chunk.records == CHUNK_RECORDS or chunk.characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk = Chunk()
            history = chunk.histories.setdefault(last, {})
        history[record.id] = (content_hash, record)
        chunk.records += 1
        chunk.characters += len(record.text)
    if chunk.histories:
        yield chunk


class Upsert:
    """One upsert within one transaction: `add` every chunk, then ask for the `report`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._added = self._changed = self._unchanged = 0
        self._floors: dict[int, int] = {}
        # One byte for every uid: uids are dense, and a set of a million numbers would take sixty times the memory.
        self._seen = [bytearray() for _ in range(PARTS)]

    def add(self, chunk: Chunk) -> None:
        """Write the records of `chunk` that are new or changed."""
        dealt: defaultdict[int, dict[str, _History]] = defaultdict(dict)
        for user_id, history in chunk.histories.items():
            dealt[part_of(user_id).number][user_id] = history
        for number in sorted(dealt):  # one order for all writers, who lock users as they go
            self._add(PART_TABLES[number], dealt[number])
        self._unchanged += chunk.repeated

    def report(self) -> IngestReport:
        """What was done so far."""
        users = sum(map(sum, self._seen))
        return IngestReport(users, self._added, self._changed, self._unchanged)

    def _add(self, part: Part, histories: Mapping[str, _History]) -> None:
        users = self._locked_users(part, list(histories))
        known = self._known_hashes(part, users, histories)
        added: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        touched: list[dict[str, Any]] = []
        for user_id, history in histories.items():
            user = users[user_id]
            self._see(part, user.uid)
            before = len(added), len(changed)
            place = user.uid * RECORDS_PER_USER + user.appended
            for record_id, (content_hash, record) in history.items():
                old = known.get((user.uid, record_id))
                if old == content_hash:
                    self._unchanged += 1
                elif old is None:
                    row = _content(content_hash, record)
                    row["place"], row["uid"], row["record_id"] = place, user.uid, record_id
                    added.append(row)
                    place += 1
                else:
                    row = _content(content_hash, record)
                    row["key_uid"], row["key_record_id"] = user.uid, record_id
                    changed.append(row)
            if before != (len(added), len(changed)):
                new = len(added) - before[0]
                touched.append(
                    {
                        "key_uid": user.uid,
                        "revision": user.revision + 1,
                        "records": user.records + new,
                        "appended": user.appended + new,
                    }
                )
        self._write(part, added, changed, touched)
        self._added += len(added)
        self._changed += len(changed)

    def _write(
        self, part: Part, added: list[dict[str, Any]], changed: list[dict[str, Any]], touched: list[dict[str, Any]]
    ) -> None:
        records, users = part.records, part.users
        if added:
            # In the order of the table, which then grows at its end.
            added.sort(key=_place)
            self._connection.execute(insert(records), added)
        if changed:
            key = (records.c.uid == bindparam("key_uid")) & (records.c.record_id == bindparam("key_record_id"))
            self._connection.execute(update(records).where(key), changed)
        if touched:
            self._connection.execute(update(users).where(users.c.uid == bindparam("key_uid")), touched)

    def _locked_users(self, part: Part, user_ids: list[str]) -> dict[str, Any]:
        """The rows of these users, new ones made first, locked against every other writer."""
        if part.number not in self._floors:
            # Held until the end, so that no user can be forgotten and made again below the new floor.
            floor = select(parts.c.revision_floor).where(parts.c.part == part.number).with_for_update(read=True)
            self._floors[part.number] = self._connection.execute(floor).scalar_one()
        users = self._found_users(part, user_ids)
        missing = [user_id for user_id in user_ids if user_id not in users]
        if missing:
            floor = self._floors[part.number]
            born = {"revision": floor, "erased": floor + 1, "records": 0, "appended": 0}
            self._connection.execute(
                insert_if_absent(self._connection, part.users), [{"user_id": user_id, **born} for user_id in missing]
            )
            users |= self._found_users(part, missing)
        return users

    def _found_users(self, part: Part, user_ids: list[str]) -> dict[str, Any]:
        users = part.users.c
        statement = (
            select(users.uid, users.user_id, users.revision, users.records, users.appended)
            .where(users.user_id.in_(bindparam("user_ids", expanding=True)))
            .order_by(users.uid)
            .with_for_update()
        )
        return {
            row.user_id: row
            for some in slices(user_ids)
            for row in self._connection.execute(statement, {"user_ids": some})
        }

    def _known_hashes(
        self, part: Part, users: Mapping[str, Any], histories: Mapping[str, _History]
    ) -> dict[tuple[int, str], bytes]:
        """The stored hashes of those records of the input that the store has, by uid and record id."""
        # A user who never had a record has none now: a new world is written without a look at what is there.
        keys = [
            (users[user_id].uid, record_id)
            for user_id, history in histories.items()
            if users[user_id].appended
            for record_id in history
        ]
        records = part.records.c
        statement = select(records.uid, records.record_id, records.hash).where(
            tuple_(records.uid, records.record_id).in_(bindparam("keys", expanding=True))
        )
        return {
            (row.uid, row.record_id): row.hash
            for some in slices(keys)
            for row in self._connection.execute(statement, {"keys": some})
        }

    def _see(self, part: Part, uid: int) -> None:
        seen = self._seen[part.number]
        if uid >= len(seen):
            seen.extend(bytes(uid + 1 - len(seen)))
        seen[uid] = 1


def _content(content_hash: bytes, record: Record) -> dict[str, Any]:
    return {
        "hash": content_hash,
        "text": record.text,
        "target": record.target,
        "time": record.time,
        "metadata": json.dumps(dict(record.metadata), ensure_ascii=False) if record.metadata else None,
    }


def _place(row: dict[str, Any]) -> int:
    place: int = row["place"]
    return place


def slices(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`keys` in lists that a query can hold."""
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
