"""The data of users: records, all that is held, feedback, and erasure with a receipt.

Reading and writing need a key with the scope ``write``, deleting one with ``erase``; the key speaks for the user in the
URL or for any. What is written is in the text channels of the next request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request

from persona.errors import UnknownRecordError, UnknownUserError
from persona.protocols import Encoding
from persona.records import Record
from persona.serve.access import caller
from persona.serve.data.embedding import BackgroundEmbedding
from persona.serve.data.paths import PREFIX, RecordId, UserId
from persona.serve.data.shapes import (
    Deleted,
    Feedback,
    Held,
    Learned,
    RecordChange,
    RecordIn,
    RecordOut,
    RecordPage,
    Records,
    Written,
    feedback_record,
)
from persona.serve.errors import described
from persona.serve.keys import ApiKey
from persona.serve.state import ServerState
from persona.store.holdings import holdings
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.receipt import Receipt, forget_with_receipt


@asynccontextmanager
async def _embedding(app: FastAPI) -> AsyncIterator[None]:
    """While the application runs, new records are embedded behind its requests."""
    state: ServerState = app.state.persona
    encodings = set[Encoding]().union(*(channel.encodings() for channel in state.personalizer.channels))
    app.state.embedding = BackgroundEmbedding(state.store, encodings)
    try:
        yield
    finally:
        app.state.embedding.close(state.options.drain_seconds)


router = APIRouter(tags=["data"], lifespan=_embedding, responses=described(400, 401, 403, 408, 413, 500, 503))
_USER = PREFIX + "{user_id}"
_RECORD = _USER + "/records/{record_id}"
_UNKNOWN = described(404)

Asking = Annotated[ApiKey, Depends(caller)]


@router.get("/v1/key")
def key(asking: Asking) -> ApiKey:
    """What the key of this request allows, and whom it speaks for."""
    return asking


@router.put(_USER + "/records")
def put_records(request: Request, user_id: UserId, body: Records, asking: Asking) -> Written:
    """Put records in: new ones are added, those with a known id replaced, the rest left alone."""
    store = _store(request, asking, "write", user_id)
    return _put(request, store, user_id, [each.record() for each in (body if isinstance(body, list) else [body])])


@router.get(_USER + "/records", responses=_UNKNOWN)
def list_records(
    request: Request,
    user_id: UserId,
    asking: Asking,
    after: Annotated[str | None, Query(description="The id of the last record before them.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> RecordPage:
    """The user's records, oldest first; a user who is not known has none."""
    records = _store(request, asking, "write", user_id).profile(user_id).records
    start = 0 if after is None else 1 + records.index(_known(records, after))
    page = records[start : start + limit]
    return RecordPage(data=[RecordOut.of(record) for record in page], has_more=start + limit < len(records))


@router.get(_RECORD, responses=_UNKNOWN)
def get_record(request: Request, user_id: UserId, record_id: RecordId, asking: Asking) -> RecordOut:
    """One record."""
    return RecordOut.of(_known(_store(request, asking, "write", user_id).profile(user_id).records, record_id))


@router.put(_RECORD)
def put_record(request: Request, user_id: UserId, record_id: RecordId, body: RecordIn, asking: Asking) -> Written:
    """Put one record in, in place of one with its id."""
    store = _store(request, asking, "write", user_id)
    return _put(request, store, user_id, [body.record(record_id)])


@router.patch(_RECORD, responses=_UNKNOWN)
def change_record(
    request: Request, user_id: UserId, record_id: RecordId, body: RecordChange, asking: Asking
) -> RecordOut:
    """Change fields of one record. What was made from the old content goes, and its bytes are overwritten."""
    store = _store(request, asking, "write", user_id)
    old = _known(store.profile(user_id).records, record_id)
    new = store.edit_record(user_id, record_id, **body.changes(old))
    store.finish_forgetting(records=True)
    _embed(request, user_id)
    return RecordOut.of(new)


@router.delete(_RECORD, responses=_UNKNOWN)
def delete_record(request: Request, user_id: UserId, record_id: RecordId, asking: Asking) -> Deleted:
    """Delete one record, its bytes too; summaries, soft prompts and adapters go with it, for they may repeat it."""
    store = _store(request, asking, "erase", user_id)
    if not store.delete_records(user_id, [record_id]):
        raise _unknown(record_id)
    store.finish_forgetting(records=True)
    _embed(request, user_id)
    return Deleted(id=record_id)


@router.post(_USER + "/feedback", status_code=201)
def learn(request: Request, user_id: UserId, body: Feedback, asking: Asking) -> Learned:
    """Learn from a rating, a correction or a choice: it becomes a record."""
    store = _store(request, asking, "write", user_id)
    record = feedback_record(body)
    _put(request, store, user_id, [record])
    return Learned(record=RecordOut.of(record))


@router.get(_USER, responses=_UNKNOWN)
def held(request: Request, user_id: UserId, asking: Asking) -> Held:
    """Everything that is held on the user."""
    store = _store(request, asking, "write", user_id)
    if user_id not in store:
        raise UnknownUserError("the store holds nothing on that user")
    return Held.model_validate(holdings(store, user_id).as_dict())


@router.delete(_USER)
def forget(request: Request, user_id: UserId, asking: Asking) -> Receipt:
    """Erase everything of the user, the bytes too, and say what was there; API keys that speak for the user as well."""
    return forget_with_receipt(_store(request, asking, "erase", user_id), user_id)


def _store(request: Request, asking: ApiKey, scope: str, user_id: str) -> ProfileStore:
    """The store, for a caller who may do that with that user's data."""
    asking.check(scope)
    asking.user(user_id)
    state: ServerState = request.app.state.persona
    return state.store


def _put(request: Request, store: ProfileStore, user_id: str, records: list[Record]) -> Written:
    done = store.upsert((user_id, record) for record in records)
    if done.added or done.changed:
        _embed(request, user_id)
    # An expired record of the request is neither; the store's own number counts those of other users too.
    expired = len(records) - done.added - done.changed - done.unchanged
    ids = [record.id for record in records]
    return Written(ids=ids, added=done.added, changed=done.changed, unchanged=done.unchanged, expired=expired)


def _embed(request: Request, user_id: str) -> None:
    embedding: BackgroundEmbedding | None = getattr(request.app.state, "embedding", None)
    if embedding is not None:  # the application's lifespan may be another one's
        embedding.add(user_id)


def _known(records: tuple[Record, ...], record_id: str) -> Record:
    found = next((record for record in records if record.id == record_id), None)
    if found is None:
        raise _unknown(record_id)
    return found


def _unknown(record_id: str) -> UnknownRecordError:
    return UnknownRecordError(f"the user has no record {record_id!r:.80}")
