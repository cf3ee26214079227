"""One record changed: in its place, with all that was made from what it said before gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.versions import AdapterDraft
from persona.errors import DataFormatError, InvalidOptionError, UnknownRecordError, UnknownUserError
from persona.records import Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore
from tests.store.profiles import texts, vectors_of
from tests.store.upkeep.test_expiry import FAMILY

RECORDS = [
    Record("one", id="1"),
    Record("two", id="2", target="5", metadata={"film": "Bullitt"}),
    Record("three", id="3"),
]


@pytest.fixture
def filled(store: ProfileStore) -> ProfileStore:
    store.upsert([*(("ana", record) for record in RECORDS), ("ben", Record("b", id="2"))])
    bank = AdapterBank(store)
    bank.add_family(FAMILY)
    for user_id in ("ana", "ben"):
        profile = store.profile(user_id)
        store.put_vectors([vectors_of(profile)])
        store.put_indexes([StoredIndex(user_id, "summary:free", profile.revision, b"{}")])
        bank.publish(FAMILY, [AdapterDraft(user_id, torch.ones(FAMILY.size), profile.revision)])
    return store


def test_a_record_is_changed_where_it_is(filled: ProfileStore) -> None:
    new = filled.edit_record("ana", "2", target="1", expires="2999")
    assert new == Record("two", id="2", target="1", metadata={"film": "Bullitt"}, expires="2999")
    assert filled.profile("ana").records == (RECORDS[0], new, RECORDS[2])
    assert filled.profile("ana").revision == 2
    assert texts(filled.profile("ben")) == ["b"]


def test_what_was_made_from_it_goes(filled: ProfileStore) -> None:
    before = filled.profile("ana")
    filled.edit_record("ana", "2", text="deux")
    vectors = filled.vectors("ana", "toy")
    assert vectors is not None
    assert vectors.record_ids == ("1", "3")
    assert list(filled.stale_users("toy")) == ["ana"]
    assert filled.index("ana", "summary:free") is None
    bank = AdapterBank(filled)
    assert bank.current("ana", FAMILY) is None
    # What a slow writer made from the old record is not let in any more.
    assert filled.put_indexes([StoredIndex("ana", "summary:free", before.revision, b"{}")]) == 0
    assert bank.publish(FAMILY, [AdapterDraft("ana", torch.ones(FAMILY.size), before.revision)]) == ()
    assert filled.index("ben", "summary:free") is not None
    assert bank.current("ben", FAMILY) is not None
    assert filled.finish_forgetting(records=True) == 1


def test_the_same_content_changes_nothing(filled: ProfileStore) -> None:
    assert filled.edit_record("ana", "2", target="5") == RECORDS[1]
    assert filled.profile("ana").revision == 1
    assert filled.index("ana", "summary:free") is not None


@pytest.mark.parametrize(
    ("user_id", "record_id", "changes", "error", "message"),
    [
        ("anna", "2", {"text": "x"}, UnknownUserError, "did you mean 'ana'"),
        ("ana", "7", {"text": "x"}, UnknownRecordError, "'ana' has no record '7'"),
        ("ana", "2", {"text": " "}, DataFormatError, "must not be empty"),
        ("ana", "2", {"target": 5}, DataFormatError, "target must be a string"),
        ("ana", "2", {"expires": "soon"}, DataFormatError, "`expires` must be like"),
        ("ana", "2", {"id": "3"}, InvalidOptionError, "can be changed, was: id"),
        ("ana", "2", {"txet": "x"}, InvalidOptionError, "can be changed, was: txet"),
    ],
)
def test_what_cannot_be_changed(
    filled: ProfileStore, user_id: str, record_id: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        filled.edit_record(user_id, record_id, **changes)
    assert filled.profile("ana").records == tuple(RECORDS)
    assert filled.profile("ana").revision == 1
