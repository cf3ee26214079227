"""Streaming records into the store: thousands at a time, in one transaction, touching only what is new or changed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    func,
    select,
    update,
)

from persona.errors import DataFormatError
from persona.records import Record, check_user_id
from persona.store.database import insert_if_absent, insert_rows
from persona.store.record_rows import CONTENT, content_of
from persona.store.schema import PART_TABLES, PARTS, RECORDS_PER_USER, Part, part_of, parts

CHUNK_RECORDS = 16_384
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
        if user_id != last:
            last = check_user_id(user_id)
            history = chunk.histories.setdefault(last, {})
        content_hash = bytes.fromhex(record.content_hash)
        record_id = record.id
        if record_id in history:
            if history[record_id][0] == content_hash:
                chunk.repeated += 1
                continue
            full = True
        else:
            full = records == CHUNK_RECORDS or characters >= CHUNK_CHARACTERS
        if full:
            yield chunk
            chunk = Chunk()
            records = characters = 0
            history = chunk.histories.setdefault(last, {})
        history[record_id] = (content_hash, record)
        records += 1
        characters += len(record.text)
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
        return IngestReport(sum(map(sum, self._seen)), self._added, self._changed, self._unchanged)

    def _add(self, part: Part, histories: Mapping[str, _History]) -> None:
        users = self._locked_users(part, list(histories))
        known = self._known_hashes(part, users, histories)
        added: list[tuple[object, ...]] = []
        changed: list[dict[str, object]] = []
        touched: list[dict[str, object]] = []
        for user_id, history in histories.items():
            uid, revision, records, appended = users[user_id]
            self._see(part, uid)
            place = uid * RECORDS_PER_USER + appended
            new = renewed = 0
            for record_id, (content_hash, record) in history.items():
                old = known.get((uid, record_id))
                if old is None:
                    added.append((place + new, uid, record_id, content_hash, *content_of(record)))
                    new += 1
                elif old != content_hash:
                    content = dict(zip(CONTENT, content_of(record), strict=True))
                    changed.append({"its_uid": uid, "its_id": record_id, "hash": content_hash, **content})
                    renewed += 1
            if new or renewed:
                touched.append(
                    {
                        "its_uid": uid,
                        "revision": revision + 1,
                        "records": records + new,
                        "appended": appended + new,
                    }
                )
            self._added += new
            self._changed += renewed
            self._unchanged += len(history) - new - renewed
        statements = _statements(part)
        if added:
            added.sort()  # the order of the table, which then grows at its end
            insert_rows(self._connection, part.records, ("place", "uid", "record_id", "hash", *CONTENT), added)
        if changed:
            self._connection.execute(statements.change_record, changed)
        if touched:
            self._connection.execute(statements.touch_user, touched)

    def _locked_users(self, part: Part, user_ids: list[str]) -> dict[str, tuple[int, int, int, int]]:
        """uid, revision, records and appended of these users, made if new, locked against every other writer."""
        if part.number not in self._floors:
            # Held until the end, so that no user can be forgotten and made again below the new floor.
            statement = select(parts.c.revision_floor).where(parts.c.part == part.number).with_for_update(read=True)
            self._floors[part.number] = self._connection.execute(statement).scalar_one()
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

    def _found_users(self, part: Part, user_ids: list[str]) -> dict[str, tuple[int, int, int, int]]:
        statement = _statements(part).lock_users
        return {
            user_id: (uid, revision, records, appended)
            for some in slices(user_ids)
            for user_id, uid, revision, records, appended in self._connection.execute(statement, {"user_ids": some})
        }

    def _known_hashes(
        self, part: Part, users: Mapping[str, tuple[int, int, int, int]], histories: Mapping[str, _History]
    ) -> dict[tuple[int, str], bytes]:
        """The stored hashes of those records of the input that the store has, by uid and record id."""
        keys = []
        for user_id, history in histories.items():
            uid, _, _, appended = users[user_id]
            # Who never had a record has none now: a new world is written without a look at what is there.
            if appended:
                keys += [(uid, record_id) for record_id in history]
        if not keys:
            return {}
        # One parameter holds all keys, whatever their number: a list of them in the statement would take longer to
        # write down than to look up.
        if self._connection.dialect.name == "sqlite":
            statement = _statements(part).hashes_by_json
            parameters: dict[str, object] = {"keys": json.dumps(keys, ensure_ascii=False)}
        else:
            statement = _statements(part).hashes_by_arrays
            uids, record_ids = zip(*keys, strict=True)
            parameters = {"uids": list(uids), "record_ids": list(record_ids)}
        return {
            (uid, record_id): content_hash
            for uid, record_id, content_hash in self._connection.execute(statement, parameters)
        }

    def _see(self, part: Part, uid: int) -> None:
        seen = self._seen[part.number]
        if uid >= len(seen):
            seen.extend(bytes(uid + 1 - len(seen)))
        seen[uid] = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Statements:
    lock_users: Select[Any]  # user_ids
    hashes_by_json: Select[Any]  # keys: a JSON array of [uid, record id]
    hashes_by_arrays: Select[Any]  # uids and record_ids, equally long
    change_record: Update  # its_uid, its_id and the new content
    touch_user: Update  # its_uid and the new numbers


@cache
def _statements(part: Part) -> _Statements:
    users, records = part.users.c, part.records.c
    hashes = select(records.uid, records.record_id, records.hash)
    pairs = func.json_each(bindparam("keys")).table_valued("value")
    arrays = (
        func.unnest(bindparam("uids", type_=ARRAY(BigInteger)), bindparam("record_ids", type_=ARRAY(Text)))
        .table_valued("uid", "record_id", name="given")
        .render_derived()
    )
    return _Statements(
        lock_users=select(users.user_id, users.uid, users.revision, users.records, users.appended)
        .where(users.user_id.in_(bindparam("user_ids", expanding=True)))
        .order_by(users.uid)
        .with_for_update(),
        hashes_by_json=hashes.join(
            pairs, _same(records, func.json_extract(pairs.c.value, "$[0]"), func.json_extract(pairs.c.value, "$[1]"))
        ),
        hashes_by_arrays=hashes.join(arrays, _same(records, arrays.c.uid, arrays.c.record_id)),
        change_record=update(part.records).where(
            records.uid == bindparam("its_uid"), records.record_id == bindparam("its_id")
        ),
        touch_user=update(part.users).where(users.uid == bindparam("its_uid")),
    )


def _same(records: Any, uid: ColumnElement[Any], record_id: ColumnElement[Any]) -> ColumnElement[bool]:
    return and_(records.uid == uid, records.record_id == record_id)


def slices(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`keys` in lists that a query can hold."""
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
