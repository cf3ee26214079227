"""A user's records as a memory: `add`, `search`, `get_all`, `get`, `update`, `delete`, `delete_all`, and no LLM.

>>> memory = Memory("sqlite:///memory.db")
>>> added = memory.add("I drink my coffee black.", user_id="ana", metadata={"topic": "coffee"})
>>> [(each["event"], each["memory"]) for each in added["results"]]
[('ADD', 'I drink my coffee black.')]
>>> found = memory.search("How does she take her coffee?", user_id="ana", k=1, where="topic=coffee")
>>> [each["memory"] for each in found["results"]]
['I drink my coffee black.']
>>> memory.delete_all(user_id="ana").records
1
>>> memory.close()

A memory is a record of the store (`persona.records.Record`), and a `Personalizer` on the same store puts it in front of
an LLM. Lists come as ``{"results": [MemoryItem, ...]}``: dictionaries that go into JSON as they are.

- Every call names its user. There is no default one, and the ids of one user's memories mean nothing for another.
- The same words added again are one memory, with the new time.
- `update`, `delete` and `delete_all` erase the bytes of what was there (`ProfileStore.forget` says what that reaches).

`AsyncMemory` is the same for an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, Literal, NotRequired, ParamSpec, Self, TypeAlias, TypedDict, TypeVar
from uuid import uuid4

from persona.errors import DataFormatError, InvalidOptionError, UnknownRecordError, UnknownUserError, located
from persona.formats.conversations import MESSAGES, Whose, turns_of
from persona.formats.rows import record_of
from persona.protocols import RecordEncoder, Retriever
from persona.records import Record, check_size, check_user_id
from persona.retrievers.base import check_k
from persona.retrievers.registry import make_retriever, needs_encoder
from persona.retrievers.where import Where, WhereRetriever
from persona.settings import Settings, open_store
from persona.store.erasure import ForgetReport
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.expiry import has_expired, now
from persona.summaries.feedback import feedback_fields

P = ParamSpec("P")
R = TypeVar("R")

Moment: TypeAlias = str | date | datetime | int | float
"""A time: ISO 8601, a date, or Unix seconds."""

_FIRST_SECOND = 10_000  # smaller numbers are years


class MemoryItem(TypedDict):
    """One memory.

    Attributes:
        id: unique within the user.
        memory: the text.
        user_id: whose it is.
        metadata: further fields, as text.
        time: of when it is, ISO 8601; None if unknown.
        target: what the user made of it (a score, a tag), where it is such a record.
        role: who said it, e.g. ``"user"``.
        speaker: the speaker's name.
        expires: when it ceases to hold, ISO 8601; None for never.
        score: how well it fits a search; the scale is the retriever's.
        event: what `add` did with it.
    """

    id: str
    memory: str
    user_id: str
    metadata: dict[str, str]
    time: str | None
    target: str | None
    role: str | None
    speaker: str | None
    expires: str | None
    score: NotRequired[float]
    event: NotRequired[Literal["ADD", "UPDATE", "NONE"]]


class Memories(TypedDict):
    """Several memories, best or newest first."""

    results: list[MemoryItem]


class Memory:
    """The memories of many users in one store.

    Args:
        store: a `ProfileStore` or its URL; None takes the setting `PERSONA_STORE`. One that is opened here is closed by
            `close`.
        retriever: what `search` ranks by, or its name (`persona.retrievers.registry.RETRIEVERS`); None takes ``bm25``,
            and with an encoder ``hybrid``, by words and by meaning.
        encoder: for retrievers that compare vectors, or its name. `add` stores the vectors of the user's records.

    Raises:
        InvalidOptionError: if a retriever by name needs an encoder and there is none, or reads none and there is one.
        PersonaError: if a part cannot be made.

    Every method raises `InvalidUserIdError` for an id that no user may have (None and the empty text among them), and
    `StoreError` if the database fails.
    """

    def __init__(
        self,
        store: ProfileStore | str | None = None,
        *,
        retriever: Retriever | str | None = None,
        encoder: RecordEncoder | str | None = None,
    ) -> None:
        name = ("bm25" if encoder is None else "hybrid") if retriever is None else retriever
        if encoder is not None and not (isinstance(name, str) and needs_encoder(name)):
            raise InvalidOptionError(f"the retriever {name!r:.80} is not made with an encoder: leave one of them out")
        if isinstance(encoder, str):
            from persona.encoders.load import load_encoder

            encoder = load_encoder(encoder)
        self._encoder = encoder
        self._opened = not isinstance(store, ProfileStore)
        self.store = store if isinstance(store, ProfileStore) else open_store(store, create=True)
        self.retriever = make_retriever(name, encoder=encoder, store=self.store) if isinstance(name, str) else name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, if it was opened here."""
        if self._opened:
            self.store.close()

    def add(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        user_id: str,
        roles: Sequence[str] = ("user",),
        metadata: Mapping[str, Any] | None = None,
        timestamp: Moment | None = None,
        expires: Moment | timedelta | None = None,
    ) -> Memories:
        """Remember a text, or the turns of a conversation.

        Args:
            messages: a text, or messages as OpenAI's clients take them, each with ``role`` and ``content``.
            user_id: whose memory it is.
            roles: whose turns are kept, of ``user``, ``assistant`` and ``system``.
            metadata: further fields; a number becomes its digits.
            timestamp: when it was said, where a message has no ``time`` of its own; None for now.
            expires: when it ceases to hold, or after what time; None for never.

        Returns:
            The memories in their order, each with its ``event``: ``ADD``; ``UPDATE`` where the user had the same words
            with another time or expiry; ``NONE`` where nothing is new.

        Raises:
            DataFormatError: if a message, the metadata or a time is of another form, or something is too long.
            InvalidOptionError: if there is no such role, or `expires` has passed.
        """
        whose = Whose(check_user_id(user_id), tuple([roles] if isinstance(roles, str) else roles))
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        given = list(messages) if isinstance(messages, Sequence) else messages
        fields = {"expires": _moment(expires), "metadata": metadata}
        said = now() if timestamp is None else _moment(timestamp)
        most = Settings().max_record_characters
        before = {record.id: record for record in self.store.profile(user_id)}
        by_words = {_words(record): record.id for record in before.values()}
        new: dict[str, Record] = {}
        for place, row in turns_of({"messages": given}, MESSAGES, whose):
            with located("messages", place):
                record = _checked({**row, **fields, "time": row["time"] or said}, most)
            if record is not None and row["id"] is None:
                # Named by its words, not by its time; a memory of that name which was changed since is another one.
                name = replace(record, id="", time=None, expires=None).id
                record = replace(record, id=by_words.get(_words(record), uuid4().hex if name in before else name))
            if record is not None:
                new[record.id] = record
        self.store.upsert((user_id, record) for record in new.values())
        self.embed([user_id])
        return {"results": [{**_item(user_id, each), "event": _event(before, each)} for each in new.values()]}

    def feedback(
        self,
        text: str,
        *,
        user_id: str,
        score: float | None = None,
        instruction: str | None = None,
        timestamp: Moment | None = None,
    ) -> Memories:
        """Remember what a user said of an answer: later answers get it as guidance. Arguments as `feedback_record`."""
        return self.add(text, user_id=user_id, metadata=feedback_fields(score, instruction), timestamp=timestamp)

    def search(
        self, query: str, *, user_id: str, k: int = 10, where: str | None = None, threshold: float | None = None
    ) -> Memories:
        """The memories that fit a query best, with their scores.

        Args:
            query: what is sought.
            user_id: among whose memories.
            k: how many at most, at least 1.
            where: only these, e.g. ``"time>=2026 and topic=coffee"`` (`persona.retrievers.where`).
            threshold: only those with at least this score; None takes all.

        Raises:
            InvalidOptionError: if `k` is below 1, `query` is no string, or `where` cannot be read.
        """
        retriever = self.retriever if where is None else WhereRetriever(self.retriever, where)
        found = retriever.retrieve(self.store.profile(user_id), query, k)
        best = [each for each in found if threshold is None or each.score >= threshold]
        return {"results": [{**_item(user_id, each.record), "score": each.score} for each in best]}

    def get_all(self, *, user_id: str, where: str | None = None, k: int | None = None) -> Memories:
        """All memories of a user, newest first.

        Args:
            user_id: whose.
            where: only these, as in `search`.
            k: how many at most, at least 1; None for all.

        Raises:
            InvalidOptionError: if `k` is below 1, or `where` cannot be read.
        """
        conditions = Where() if where is None else Where.parse(where)
        kept = conditions.part(self.store.profile(user_id)).records[::-1]
        return {"results": [_item(user_id, record) for record in kept[: None if k is None else check_k(k)]]}

    def get(self, memory_id: str, *, user_id: str) -> MemoryItem | None:
        """One memory; None if the user has none of that id."""
        record = self._record(memory_id, user_id)
        return None if record is None else _item(user_id, record)

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        *,
        user_id: str,
        metadata: Mapping[str, Any] | None = None,
        timestamp: Moment | None = None,
        expires: Moment | timedelta | None = None,
    ) -> MemoryItem:
        """Give one memory another text, or other fields; it keeps its id.

        Args:
            memory_id: which.
            text: the new text; None leaves it.
            user_id: whose.
            metadata: takes the place of all that there was; None leaves it.
            timestamp: when it was said; None leaves it.
            expires: when it ceases to hold, or after what time; None leaves it.

        Raises:
            UnknownRecordError: if the user has no such memory.
            DataFormatError: if a value is of another form, or the memory is too long.
            InvalidOptionError: if nothing is to be changed, or `expires` has passed.
        """
        old = self._record(memory_id, user_id)
        if old is None:
            raise _unknown(memory_id, user_id)
        given = {"text": text, "metadata": metadata, "time": _moment(timestamp), "expires": _moment(expires)}
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            raise InvalidOptionError("name what to change: the text, `metadata`, `timestamp` or `expires`")
        row = {"text": old.text, **changes, "user_id": user_id, "id": old.id}
        new = _checked(row, Settings().max_record_characters)
        if new is None:
            raise DataFormatError("a memory must not be blank: `delete` removes one")
        try:
            changed = self.store.edit_record(user_id, old.id, **{name: getattr(new, name) for name in changes})
        except (UnknownRecordError, UnknownUserError):  # gone meanwhile
            raise _unknown(memory_id, user_id) from None
        self.store.finish_forgetting(records=True)
        return _item(user_id, changed)

    def delete(self, memory_id: str, *, user_id: str) -> None:
        """Delete one memory, its bytes too.

        Raises:
            UnknownRecordError: if the user has no such memory.
        """
        if not isinstance(memory_id, str) or not self.store.delete_records(user_id, [memory_id]):
            check_user_id(user_id)
            raise _unknown(memory_id, user_id)
        self.store.finish_forgetting(records=True)

    def delete_all(self, *, user_id: str) -> ForgetReport:
        """Erase a user: all memories, and everything that was made from them (`ProfileStore.forget`)."""
        return self.store.forget(user_id)

    def embed(self, user_ids: Iterable[str]) -> None:
        """Store vectors of the records of these users that have none, where there is an encoder; `add` does this."""
        if self._encoder is not None:
            from persona.encoders.embedding import embed_users

            embed_users(self.store, self._encoder, user_ids=user_ids)

    def _record(self, memory_id: str, user_id: str) -> Record | None:
        return next((record for record in self.store.profile(user_id) if record.id == memory_id), None)


def _in_thread(
    method: Callable[Concatenate[Memory, P], R],
) -> Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, R]]:
    """A method of `Memory` that an event loop awaits while a thread works."""

    @wraps(method)
    async def call(self: AsyncMemory, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self.memory, *args, **kwargs)

    return call


class AsyncMemory:
    """`Memory` for an event loop, which it does not block: the same methods, awaited.

    Args:
        memory: does the work.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    add = _in_thread(Memory.add)
    feedback = _in_thread(Memory.feedback)
    search = _in_thread(Memory.search)
    get_all = _in_thread(Memory.get_all)
    get = _in_thread(Memory.get)
    update = _in_thread(Memory.update)
    delete = _in_thread(Memory.delete)
    delete_all = _in_thread(Memory.delete_all)


def _checked(row: Mapping[str, object], most: int) -> Record | None:
    """The record of a row, of at most `most` characters; None if it is blank."""
    pair = record_of(row)
    if pair is None:
        return None
    check_size(pair[1], most)
    if has_expired(pair[1].expires, now()):
        raise InvalidOptionError(f"a memory must expire in the future, was: {pair[1].expires}")
    return pair[1]


def _words(record: Record) -> tuple[object, ...]:
    """What makes two records one memory: all but id, time and expiry."""
    return record.text, record.target, record.role, record.speaker, frozenset(record.metadata.items())


def _event(before: Mapping[str, Record], record: Record) -> Literal["ADD", "UPDATE", "NONE"]:
    if record.id not in before:
        return "ADD"
    return "NONE" if before[record.id] == record else "UPDATE"


def _item(user_id: str, record: Record) -> MemoryItem:
    return {
        "id": record.id,
        "memory": record.text,
        "user_id": user_id,
        "metadata": dict(record.metadata),
        "time": record.time,
        "target": record.target,
        "role": record.role,
        "speaker": record.speaker,
        "expires": record.expires,
    }


def _moment(value: Moment | timedelta | None) -> object:
    """A time as rows take it: seconds and durations become dates in UTC."""
    if isinstance(value, timedelta):
        return datetime.now(UTC) + value
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= _FIRST_SECOND:
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            raise DataFormatError(f"a time in Unix seconds must be in the calendar, was: {value!r:.80}") from None
    return value


def _unknown(memory_id: object, user_id: str) -> UnknownRecordError:
    return UnknownRecordError(f"{user_id!r} has no memory {memory_id!r:.80}: `get_all` lists them")
