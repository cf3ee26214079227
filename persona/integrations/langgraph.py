"""LangGraph's long-term memory in a persona store: `PersonaStore` is a `BaseStore`.

    store = PersonaStore("sqlite:///persona.db", user_id="ana")           # bound to one user
    store.put(("facts",), "drink", {"text": "Drinks tea."})
    shared = PersonaStore("sqlite:///persona.db")                         # the namespace begins with the user
    shared.search(("ana", "facts"), query="What does she drink?")

An item is a record of the user, so a `Personalizer` puts it in front of an LLM and `ProfileStore.forget` erases it. The
record's text is what the item is searched by: its fields ``index``, or all of it. Records that came another way are
items of the namespace ``("records",)``, by their ids.

No operation goes beyond one user: where the store is bound to none, a search or a listing that does not begin with a
user is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from persona.errors import DataFormatError, InvalidUserIdError, check_one_of, needed
from persona.memory import Memory
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, Record, check_size, check_user_id
from persona.settings import Settings
from persona.store.profile_store import ProfileStore

with needed("langchain"):
    from langgraph.store import base

Namespace = tuple[str, ...]

RECORDS = ("records",)
"""The namespace of records that came another way."""

_FIELD = "langgraph"
"""The metadata field of a record that makes it an item."""

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class _Stored:
    """An item as its record has it.

    Attributes:
        record: where it lies.
        namespace: inside the user.
        key: unique in the namespace.
        value: what was put.
        created: when it was put first.
        indexed: whether it is searched.
        ttl: minutes that it lives after it was written or, where that is asked for, read; None for ever.
    """

    record: Record
    namespace: Namespace
    key: str
    value: dict[str, Any]
    created: datetime
    indexed: bool = True
    ttl: float | None = None


class PersonaStore(base.BaseStore):
    """The items of many users in a persona store.

    Args:
        store: a `ProfileStore` or its URL; None takes the setting `PERSONA_STORE`.
        user_id: whose all items are; None: the first element of every namespace is the user.
        retriever: what ``search(query=...)`` ranks by, or its name; None takes ``bm25``, with an encoder ``hybrid``.
        encoder: for retrievers that compare vectors, or its name.
        fields: the paths of a value that are searched, where `put` names none; None is all of it.
        ttl: as LangGraph's stores have it. By default reading renews no lease: every read would write.

    Raises:
        InvalidUserIdError: if `user_id` is no legal id.
        PersonaError: if a part cannot be made.

    LangGraph allows no full stop in a namespace: users whose ids have one (addresses of mail) need a bound store.
    """

    supports_ttl = True

    def __init__(
        self,
        store: ProfileStore | str | None = None,
        *,
        user_id: str | None = None,
        retriever: Retriever | str | None = None,
        encoder: RecordEncoder | str | None = None,
        fields: Sequence[str] | None = None,
        ttl: base.TTLConfig | None = None,
    ) -> None:
        self.user_id = None if user_id is None else check_user_id(user_id)
        self.memory = Memory(store, retriever=retriever, encoder=encoder)
        self.ttl_config = {"refresh_on_read": False, "omit_expired": True, **(ttl or {})}
        self._fields = fields

    def batch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """The results of operations; all read what was there before, and then those that write do so together.

        Raises:
            InvalidUserIdError: if one names no user.
            InvalidOptionError: if a filter has no such operator.
            DataFormatError: if a value is no JSON, or too long.
        """
        asked = [(op, self._user_of(op)) for op in ops]
        profiles = {user_id: self.memory.store.profile(user_id) for user_id in {user_id for _, user_id in asked}}
        puts: dict[tuple[str, str], base.PutOp] = {}
        renewed: dict[tuple[str, str], Record] = {}
        results: list[base.Result] = []
        for op, user_id in asked:
            read: list[_Stored] = []
            if isinstance(op, base.PutOp):
                puts[user_id, _record_id(self._inner(op.namespace), op.key)] = op
                results.append(None)
            elif isinstance(op, base.GetOp):
                got = _got(profiles[user_id], _record_id(self._inner(op.namespace), op.key))
                read = [] if got is None else [got]
                results.append(None if got is None else self._item(user_id, got))
            elif isinstance(op, base.SearchOp):
                found = self._found(op, profiles[user_id])
                read = [each for each, _ in found]
                results.append([self._item(user_id, each, base.SearchItem, score=score) for each, score in found])
            else:
                results.append(self._namespaces(op, profiles[user_id]))
            if read and op.refresh_ttl:  # type: ignore[union-attr]
                renewed |= {(user_id, each.record.id): _renewed(each) for each in read if each.ttl is not None}
        self._write(puts, renewed, profiles)
        return results

    async def abatch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """`batch` for an event loop, which it does not block."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _user_of(self, op: base.Op) -> str:
        """The user whom an operation is on."""
        if self.user_id is not None:
            return self.user_id
        if isinstance(op, base.ListNamespacesOp):
            prefixes = [each.path for each in op.match_conditions or () if each.match_type == "prefix"]
            path: Sequence[str] = next((each for each in prefixes if each and each[0] != "*"), ())
        else:
            path = op.namespace_prefix if isinstance(op, base.SearchOp) else op.namespace
        if not path:
            raise InvalidUserIdError(
                "no user is named: begin the namespace with the user's id, or bind the store, "
                "`PersonaStore(store, user_id=...)`"
            )
        return check_user_id(path[0])

    def _inner(self, namespace: Namespace) -> Namespace:
        return tuple(namespace) if self.user_id is not None else tuple(namespace[1:])

    def _outer(self, user_id: str, namespace: Namespace) -> Namespace:
        return namespace if self.user_id is not None else (user_id, *namespace)

    def _found(self, op: base.SearchOp, profile: Profile) -> list[tuple[_Stored, float | None]]:
        prefix, end = self._inner(op.namespace_prefix), op.offset + op.limit
        fitting = [
            each
            for each in map(_stored, reversed(profile.records))
            if each.namespace[: len(prefix)] == prefix
            and all(_fits(each.value.get(name), wanted) for name, wanted in (op.filter or {}).items())
        ]
        if not op.query or end < 1:
            return [(each, None) for each in fitting[op.offset : end]]
        records = tuple(each.record for each in reversed(fitting) if each.indexed)
        ranked = self.memory.retriever.retrieve(replace(profile, records=records), op.query, end)
        by_id = {each.record.id: each for each in fitting}
        found: list[tuple[_Stored, float | None]] = [(by_id[each.record.id], each.score) for each in ranked]
        found += [(each, None) for each in fitting if not each.indexed]
        return found[op.offset : end]

    def _namespaces(self, op: base.ListNamespacesOp, profile: Profile) -> list[Namespace]:
        outer = {self._outer(profile.user_id, each.namespace) for each in map(_stored, profile)}
        fitting = {each for each in outer if all(_is_at(condition, each) for condition in op.match_conditions or ())}
        return sorted({each[: op.max_depth] for each in fitting})[op.offset : op.offset + op.limit]

    def _write(
        self,
        puts: Mapping[tuple[str, str], base.PutOp],
        renewed: Mapping[tuple[str, str], Record],
        profiles: Mapping[str, Profile],
    ) -> None:
        records = dict(renewed)
        gone: dict[str, list[str]] = {}
        for (user_id, record_id), op in puts.items():
            records.pop((user_id, record_id), None)
            if op.value is None:
                gone.setdefault(user_id, []).append(record_id)
            else:
                records[user_id, record_id] = self._record(op, record_id, _got(profiles[user_id], record_id))
        if records:
            self.memory.store.upsert((user_id, record) for (user_id, _), record in records.items())
            self.memory.embed({user_id for user_id, _ in records})
        if sum(self.memory.store.delete_records(user_id, record_ids) for user_id, record_ids in gone.items()):
            self.memory.store.finish_forgetting(records=True)

    def _record(self, op: base.PutOp, record_id: str, before: _Stored | None) -> Record:
        now = datetime.now(UTC)
        assert op.value is not None
        try:
            about = {
                "namespace": self._inner(op.namespace),
                "key": op.key,
                "value": dict(op.value),
                "created": (now if before is None else before.created).isoformat(),
                "indexed": op.index is not False,
                "ttl": op.ttl,
            }
            written = json.dumps(about, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataFormatError(f"an item's value must be JSON: {error}") from None
        text = "" if op.index is False else _text(json.loads(written)["value"], op.index or self._fields)
        record = Record(
            _storable(text) or _storable(op.key) or "-",
            time=now.isoformat(),
            id=record_id,
            metadata={_FIELD: written},
            expires=_expiry(op.ttl),
        )
        check_size(record, Settings().max_record_characters)
        return record

    def _item(self, user_id: str, each: _Stored, kind: type[base.Item] = base.Item, **more: Any) -> Any:
        return kind(
            value=each.value,
            key=each.key,
            namespace=self._outer(user_id, each.namespace),
            created_at=each.created,
            updated_at=_moment(each.record.time),
            **more,
        )


def _record_id(namespace: Namespace, key: str) -> str:
    """The id of an item's record: of its place, but in `RECORDS` the key itself."""
    if namespace == RECORDS and key:
        return key
    return f"{_FIELD}:{hashlib.blake2b(json.dumps([*namespace, key]).encode(), digest_size=16).hexdigest()}"


def _got(profile: Profile, record_id: str) -> _Stored | None:
    """The item in the user's record of that id; None if there is none."""
    return next((_stored(record) for record in profile if record.id == record_id), None)


def _stored(record: Record) -> _Stored:
    """The item in a record; one that came another way is an item of its own fields."""
    try:
        about = json.loads(record.metadata[_FIELD])
        namespace, key = tuple(about["namespace"]), about["key"]
        if _record_id(namespace, key) == record.id:
            created = datetime.fromisoformat(about["created"])
            return _Stored(record, namespace, key, about["value"], created, about["indexed"], about["ttl"])
    except (KeyError, TypeError, ValueError):  # nothing of ours
        pass
    names = ("text", "target", "time", "role", "speaker")
    value: dict[str, Any] = {name: given for name in names if (given := getattr(record, name)) is not None}
    if record.metadata:
        value["metadata"] = dict(record.metadata)
    return _Stored(record, RECORDS, record.id, value, _moment(record.time))


def _text(value: dict[str, Any], fields: Sequence[str] | None) -> str:
    """What an item is searched by, for people to read: a line for each field."""
    if fields is not None:
        return "\n".join(text for field in fields for text in base.get_text_at_path(value, field))
    lines = list(_lines(value, ""))
    return lines[0][1] if len(lines) == 1 else "\n".join(f"{path}: {text}" for path, text in lines)


def _lines(value: Any, path: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _lines(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _lines(inner, path)
    elif value is not None:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _storable(text: str) -> str:
    """Without what no database stores, which the item itself may hold."""
    return text.replace("\x00", " ").encode(errors="replace").decode().strip()


def _renewed(each: _Stored) -> Record:
    return replace(each.record, expires=_expiry(each.ttl))


def _expiry(minutes: float | None) -> str | None:
    return None if minutes is None else (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def _moment(time: str | None) -> datetime:
    """A record's time, of which only the year or the month may be known; 1970 if nothing is."""
    if time is None:
        return _EPOCH
    try:
        moment = datetime.fromisoformat(time + "-01-01"[max(0, len(time) - 4) :] if len(time) < 10 else time)
    except ValueError:
        return _EPOCH
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_at(condition: base.MatchCondition, namespace: Namespace) -> bool:
    """Whether a namespace begins or ends as the condition says; ``*`` is any element."""
    path = condition.path
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", element) for element, wanted in zip(part, path, strict=True))


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a field is as a filter wants it: equal, or by operators; what is no number is neither more nor less."""
    if isinstance(wanted, Mapping):
        if any(name.startswith("$") for name in wanted):
            return all(_compares(name, value, other) for name, other in wanted.items())
        return isinstance(value, Mapping) and all(_fits(value.get(name), other) for name, other in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    return bool(value == wanted)


def _compares(name: str, value: Any, other: Any) -> bool:
    check_one_of(_OPERATORS, operator=name)
    if name in ("$eq", "$ne"):
        return _OPERATORS[name](value, other)
    try:
        return _OPERATORS[name](float(value), float(other))
    except (TypeError, ValueError):
        return False
