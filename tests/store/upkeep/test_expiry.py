"""What has expired: read by nothing from that moment on, and gone down to the bytes when it is removed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from sqlalchemy.dialects import sqlite

from persona.adapters.bank import AdapterBank
from persona.adapters.family import AdaptedModule, Family, LoraSpec
from persona.adapters.versions import AdapterDraft
from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.errors import InvalidOptionError
from persona.records import Record
from persona.store.derived import StoredIndex
from persona.store.holdings import holdings
from persona.store.profile_store import IngestReport, ProfileStore
from persona.store.schema import PART_TABLES
from persona.store.upkeep import expiry
from persona.store.upkeep.expiry import duration, has_expired, moment
from tests.store.profiles import texts, vectors_of

FAMILY = Family("tiny@1:float32", LoraSpec(r=2, alpha=4, targets=("q",)), (AdaptedModule("a.q", 5, 3),))
Clock = Callable[[str], None]


def filled(store: ProfileStore) -> AdapterBank:
    """Ana, one of whose records expires in 2027, and everything that can be made from them; and Ben."""
    bank = AdapterBank(store)
    bank.add_family(FAMILY)
    store.upsert(
        [
            ("ana", Record("lasting", id="1")),
            ("ana", Record("brief", id="2", expires="2027")),
            ("ben", Record("brief as well", expires="2028-06-01T12:00:00+00:00")),
        ]
    )
    for user_id in ("ana", "ben"):
        profile = store.profile(user_id)
        store.put_vectors([vectors_of(profile)])
        store.put_indexes([StoredIndex(user_id, "summary:free", profile.revision, b'{"text": "brief"}')])
        bank.publish(FAMILY, [AdapterDraft(user_id, torch.ones(FAMILY.size), profile.revision)])
    return bank


def seen(store: ProfileStore, bank: AdapterBank, user_id: str) -> tuple[object, ...]:
    """Everything that can be read on a user."""
    vectors, held = store.vectors(user_id, "toy"), holdings(store, user_id)
    current = bank.current(user_id, FAMILY)
    assert len(held.adapters) == len(bank.versions(user_id, FAMILY)) == (current is not None)
    assert len(held.indexes) == (store.index(user_id, "summary:free") is not None)
    return (
        texts(store.profile(user_id)),
        vectors and vectors.record_ids,
        store.index(user_id, "summary:free") is not None,
        current is not None,
    )


def test_nothing_reads_what_has_expired_from_that_moment_on(store: ProfileStore, clock: Clock) -> None:
    bank = filled(store)
    everything = ["lasting", "brief"], ("1", "2"), True, True
    assert seen(store, bank, "ana") == everything
    clock("2026-12-31T23:59:59+00:00")
    assert seen(store, bank, "ana") == everything
    assert store.counts().records == 3
    assert {each.user_id for each in bank.current_adapters(FAMILY)} == {"ana", "ben"}

    clock("2027-01-01T00:00:00+00:00")
    left = ["lasting"], ("1",), False, False
    assert seen(store, bank, "ana") == left
    assert store.counts().records == 2
    assert holdings(store, "ana").expired == 1
    assert {each.user_id for each in bank.current_adapters(FAMILY)} == {"ben"}
    assert seen(store, bank, "ben")[0] == ["brief as well"]

    assert store.remove_expired() == 1
    assert store.remove_expired() == 0
    assert seen(store, bank, "ana") == left
    assert (store.counts().records, holdings(store, "ana").expired) == (2, 0)
    assert store.profile("ana").revision == 2
    assert seen(store, bank, "ben")[2:] == (True, True)


def test_a_user_of_whom_all_has_expired(store: ProfileStore, clock: Clock) -> None:
    filled(store)
    clock("2029-01-01T00:00:00+00:00")
    assert texts(store.profile("ben")) == []
    assert "ben" in store
    assert store.remove_expired() == 2
    assert texts(store.profile("ben")) == []
    assert store.upsert([("ben", Record("new"))]).added == 1
    assert texts(store.profile("ben")) == ["new"]
    assert list(store.stale_users("toy")) == ["ben"]


def test_every_upsert_removes_what_has_expired(store: ProfileStore, clock: Clock) -> None:
    filled(store)
    clock("2027-06-01T00:00:00+00:00")
    report = store.upsert([("cy", Record("new")), ("cy", Record("too late", expires="2020"))])
    assert report == IngestReport(users=1, added=1, expired=2)
    assert store.remove_expired() == 0
    assert texts(store.profile("cy")) == ["new"]


def test_a_record_is_given_a_new_expiry(store: ProfileStore, clock: Clock) -> None:
    filled(store)
    assert store.upsert([("ana", Record("brief", id="2", expires="2030"))]).changed == 1
    clock("2029-01-01T00:00:00+00:00")
    assert texts(store.profile("ana")) == ["lasting", "brief"]
    assert store.upsert([("ana", Record("brief", id="2", expires="2020"))]).changed == 1  # and is gone with it
    assert texts(store.profile("ana")) == ["lasting"]
    assert store.upsert([("ana", Record("lasting", id="1", expires="2020"))]).expired == 1
    assert texts(store.profile("ana")) == []


def test_expires_after(store: ProfileStore, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    day = 86_400.0
    monkeypatch.setattr("time.time", lambda: 20_000 * day)
    clock(moment(20_000 * day))
    items = [
        ("ana", Record("undated")),
        ("ana", Record("with an id", id="7")),
        ("ana", Record("its own", expires="2999", id="8")),
    ]
    assert store.upsert(items[:1]).added == 1
    assert store.upsert(items, expires_after=timedelta(days=90)) == IngestReport(users=1, added=2, changed=1)
    kept = store.profile("ana")
    later = moment(20_090 * day)
    assert {record.text: record.expires for record in kept} == {
        "undated": later,
        "with an id": later,
        "its own": "2999",
    }
    assert kept[0].id == items[0][1].id  # so that the same file, read again, is the same record

    monkeypatch.setattr("time.time", lambda: 20_010 * day)
    clock(moment(20_010 * day))
    assert store.upsert(items, expires_after=timedelta(days=90)) == IngestReport(users=1, unchanged=3)
    assert store.profile("ana") == kept
    renewed = Record("with an id and news", id="7")
    assert store.upsert([("ana", renewed)], expires_after=timedelta(days=90)).changed == 1
    assert store.profile("ana")[1].expires == moment(20_100 * day)
    clock(moment(20_095 * day))
    assert texts(store.profile("ana")) == ["with an id and news", "its own"]


def test_it_is_gone_down_to_the_bytes(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "database"
    folder.mkdir()

    def found() -> int:
        return sum(path.read_bytes().count(b"SECRET") for path in folder.iterdir())

    with ProfileStore(f"sqlite:///{folder / 'persona.db'}") as store:
        for number in range(50):
            expiring = Record("SECRET " * 20, id=f"SECRET {number}", expires="2027")
            store.upsert([("ana", expiring), ("ana", Record(f"kept {number}")), ("ben", Record(f"kept {number}"))])
        store.put_vectors([vectors_of(store.profile("ana"))])
        assert found()
        clock("2027-06-01T00:00:00+00:00")
        assert store.remove_expired() == 50
        assert store.finish_forgetting() == 0
        assert store.finish_forgetting(records=True) == 1
        assert store.finish_forgetting(records=True) == 0
        assert found() == 0
        assert len(store.profile("ana")) == len(store.profile("ben")) == 50


def test_new_vectors_are_not_lost_to_what_had_expired_before(store: ProfileStore, clock: Clock) -> None:
    filled(store)
    clock("2027-06-01T00:00:00+00:00")
    encoder = load_encoder("hashing")
    embed_users(store, encoder)
    (name,) = [each.fingerprint for each in store.fingerprints() if each.fingerprint != "toy"]
    store.remove_expired()
    assert list(store.stale_users(name)) == []


def test_readers_look_at_no_other_user(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("a", expires="2999"))])
    with closing(sqlite3.connect(tmp_path / "persona.db")) as connection:
        sql = str(expiry.due_parts().compile(dialect=sqlite.dialect(paramstyle="named")))
        names = dict.fromkeys(expiry.due_parts().compile(dialect=sqlite.dialect(paramstyle="named")).params, 1)
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", {**names, "at": "2027"})]
    assert sum("USING COVERING INDEX persona_users" in step for step in steps) == len(PART_TABLES)


@pytest.mark.parametrize(
    ("expires", "at", "expired"),
    [
        (None, "2027-01-01T00:00:00+00:00", False),
        ("2027", "2026-12-31T23:59:59+00:00", False),
        ("2027", "2027-01-01T00:00:00+00:00", True),
        ("2027-01-02", "2027-01-01T23:59:59+00:00", False),
        ("2027-01-02T10:00:00", "2027-01-02T10:00:00+00:00", True),
        ("2027-01-02T10:00:00+00:00", "2027-01-02T10:00:00+00:00", True),
        ("2027-01-02T10:00:00+00:00", "2027-01-02T09:59:59+00:00", False),
        ("2027-01-02T10:00:00.500000+00:00", "2027-01-02T10:00:00+00:00", False),
        ("2027-01-02T10:00:00.500000+00:00", "2027-01-02T10:00:01+00:00", True),
    ],
)
def test_when_it_expires(expires: str | None, at: str, expired: bool) -> None:
    assert has_expired(expires, at) == expired


def test_durations() -> None:
    assert duration("90d") == timedelta(days=90)
    assert [duration(text).total_seconds() for text in ("1s", "2m", "3h", "1w")] == [1, 120, 10_800, 604_800]
    for text in ("", "90", "d", "-1d", "0d", "1.5d", "90 days", "999999999w", "１d"):
        with pytest.raises(InvalidOptionError, match="a duration must be like 90d"):
            duration(text)
