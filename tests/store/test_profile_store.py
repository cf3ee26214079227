from __future__ import annotations

import dataclasses
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

import persona.store.queries
import persona.store.upsert
from persona.errors import (
    DataFormatError,
    FingerprintMismatchError,
    InvalidOptionError,
    InvalidUserIdError,
    MissingDependencyError,
    StoreError,
)
from persona.records import Profile, Record
from persona.store.database import Database
from persona.store.derived import StoredIndex
from persona.store.profile_store import ForgetReport, IngestReport, ProfileStore, StoreCounts, StoredEncoder
from persona.store.queries import queries
from persona.store.schema import PART_TABLES, PARTS, metadata, part_of, user_table
from persona.store.vectors import UserVectors

SAME_BUT_FOR = [
    *["ana", "Ana", "ANA", "ana ", " ana", "ana\n", "ana\t", "1", "01", "1.0", "１"],
    *["straße", "strasse", "İstanbul", "istanbul", "ıstanbul", "ﬁn", "fin", "Zo\u00eb", "Zoe\u0308"],
]
ODD = [
    *["../../etc/passwd", "it's; DROP TABLE persona_users_00; --", '"quoted"', "`", "a\\b", "%", "_", "null", " "],
    *["line\nbreak\r\n", "\u202eright to left", "\x01\x7f", "[1, 2]", ":user_id", "%(user_id)s", "?", "😀" * 512],
]
ILLEGAL = ["", "a\x00b", "\ud800", "x" * 513]


@pytest.fixture
def store(store_url: str) -> Iterator[ProfileStore]:
    with ProfileStore(store_url) as opened:
        yield opened


def texts(profile: Profile) -> list[str]:
    return [record.text for record in profile]


def vectors_of(profile: Profile, fingerprint: str = "toy", dim: int = 4, seed: int = 0) -> UserVectors:
    matrix = np.random.default_rng(seed).standard_normal((len(profile), dim)).astype(np.float16)
    return UserVectors(
        profile.user_id,
        fingerprint,
        tuple(record.id for record in profile),
        tuple(record.content_hash for record in profile),
        matrix,
        profile.revision,
    )


def same(one: UserVectors | None, other: UserVectors) -> bool:
    return (
        one is not None
        and (one.user_id, one.fingerprint, one.record_ids, one.hashes, one.revision)
        == (other.user_id, other.fingerprint, other.record_ids, other.hashes, other.revision)
        and one.matrix.tobytes() == other.matrix.tobytes()
    )


# Records


def test_a_record_comes_back_as_it_went_in(store: ProfileStore) -> None:
    records = [
        Record("plain"),
        Record(
            "all\nfields 😀 \u2028", target="", time="2013-09-03T10:00:00", id="7", metadata={"title": 'Ä "q"', "": "x"}
        ),
        Record("with blanks around  ", target=" 5 ", metadata={"n": "1"}),
        Record("said", role="assistant", speaker="Ms. Ö", expires="2013-10-03", id="8"),
        Record("expired, and held all the same", expires="1999"),
    ]
    assert store.upsert(("ana", record) for record in records) == IngestReport(users=1, added=5)
    back = store.profile("ana")
    assert sorted(back, key=lambda record: record.id) == sorted(records, key=lambda record: record.id)
    assert {record.content_hash for record in back} == {record.content_hash for record in records}
    with pytest.raises(TypeError):
        cast("dict[str, str]", back[0].metadata)["title"] = "no"


def test_the_oldest_record_comes_first(store: ProfileStore) -> None:
    records = [
        Record("year", time="2013"),
        Record("undated, first"),
        Record("day", time="2013-09-03"),
        Record("early", time="1999"),
        Record("undated, second"),
        Record("day again", time="2013-09-03"),
    ]
    store.upsert(("ana", record) for record in records)
    assert texts(store.profile("ana")) == texts(Profile.from_records("ana", records))
    assert texts(store.profile("ana"))[:3] == ["undated, first", "undated, second", "early"]


def test_a_changed_record_keeps_its_place_and_a_new_one_comes_last(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {name}", id=name)) for name in "zyx")
    store.upsert([("ana", Record("new text", id="z")), ("ana", Record("text a", id="a"))])
    assert [record.id for record in store.profile("ana")] == ["z", "y", "x", "a"]
    assert store.profile("ana")[0].text == "new text"


def test_a_second_ingest_changes_nothing(store: ProfileStore) -> None:
    pairs = [(f"user {number % 50}", Record(f"text {number}", time=str(2000 + number % 9))) for number in range(500)]
    assert store.upsert(pairs) == IngestReport(users=50, added=500)
    before = [store.profile(user_id) for user_id in store.user_ids()]
    assert store.upsert(pairs) == IngestReport(users=50, unchanged=500)
    assert [store.profile(user_id) for user_id in store.user_ids()] == before
    assert {profile.revision for profile in before} == {1}


def test_only_users_who_changed_get_a_new_revision(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a", id="1")), ("bo", Record("b", id="1")), ("cy", Record("c", id="1"))])
    report = store.upsert(
        [("ana", Record("a", id="1")), ("bo", Record("B", id="1")), ("cy", Record("more")), ("dee", Record("d"))]
    )
    assert report == IngestReport(users=4, added=2, changed=1, unchanged=1)
    assert [store.profile(user_id).revision for user_id in ("ana", "bo", "cy", "dee")] == [1, 2, 2, 1]


def test_a_new_value_of_any_field_is_a_change(store: ProfileStore) -> None:
    values: dict[str, Any] = {"text": "a", "id": "1"}
    added = [{"target": "5"}, {"time": "2011"}, {"metadata": {"n": "1"}}, {"role": "user"}, {"speaker": "Ana"}]
    for revision, field in enumerate([{}, *added, {"expires": "2030"}], start=1):
        values |= field
        store.upsert([("ana", Record(**values))])
        assert store.profile("ana").records == (Record(**values),)
        assert store.profile("ana").revision == revision


def test_a_record_that_comes_twice(store: ProfileStore) -> None:
    once, again = Record("a", id="1"), Record("b", id="1")
    # The outcome is that of one upsert after the other, wherever the input is cut.
    assert store.upsert([("ana", once), ("ana", once)]) == IngestReport(users=1, added=1, unchanged=1)
    assert store.upsert([("ana", again), ("bo", once), ("ana", once), ("ana", again)]) == IngestReport(2, 1, 3, 0)
    assert texts(store.profile("ana")) == ["b"]


def test_an_empty_store_knows_nobody(store: ProfileStore) -> None:
    assert store.upsert([]) == IngestReport()
    assert store.put_vectors([]) == store.put_indexes([]) == 0
    assert store.counts() == StoreCounts(0, 0, 0, 0)
    assert store.fingerprints() == ()
    assert list(store.user_ids()) == []
    assert store.profile("nobody") == Profile("nobody")
    assert "nobody" not in store
    assert store.vectors("nobody", "toy") is None
    assert store.index("nobody", "bm25") is None
    assert store.delete_records("nobody", ["1"]) == 0
    assert store.forget("nobody") == ForgetReport()


@pytest.mark.parametrize(
    "pair", [("ana", {"text": "bad"}), Record("alone"), "ana", ("ana", "text", Record("three")), 5]
)
def test_what_is_no_record_is_refused(store: ProfileStore, pair: object) -> None:
    with pytest.raises(DataFormatError, match="pairs of a user id and a Record"):
        store.upsert(cast(Any, [("ana", Record("good")), pair]))
    assert "ana" not in store


def test_the_letters_of_one_record_id_are_not_taken_for_ids(store: ProfileStore) -> None:
    store.upsert([("ana", Record("text", id="a")), ("ana", Record("other", id="ab"))])
    with pytest.raises(InvalidOptionError, match=r"`record_ids` must be several, as in \['ab'\]"):
        store.delete_records("ana", "ab")
    assert len(store.profile("ana")) == 2


@pytest.mark.parametrize("user_id", ILLEGAL)
def test_illegal_ids_are_refused_at_every_door(store: ProfileStore, user_id: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.upsert([("ana", Record("good")), (user_id, Record("a"))]),
        lambda: store.profile(user_id),
        lambda: user_id in store,
        lambda: store.delete_records(user_id, ["1"]),
        lambda: store.forget(user_id),
        lambda: store.vectors(user_id, "toy"),
        lambda: store.index(user_id, "bm25"),
        lambda: StoredIndex(user_id, "bm25", 1, b""),
    ]
    for call in calls:
        with pytest.raises(InvalidUserIdError):
            call()
    assert "ana" not in store


def test_ids_that_look_alike_are_different_users(store: ProfileStore) -> None:
    ids = SAME_BUT_FOR + ODD
    assert len(set(ids)) == len(ids)
    store.upsert((user_id, Record(f"of number {number}")) for number, user_id in enumerate(ids))
    for number, user_id in enumerate(ids):
        assert texts(store.profile(user_id)) == [f"of number {number}"]
        assert user_id in store
    assert sorted(store.user_ids()) == sorted(ids)
    for user_id in ids[::2]:
        store.forget(user_id)
    assert sorted(store.user_ids()) == sorted(ids[1::2])


def test_record_ids_that_look_alike_are_different_records(store: ProfileStore) -> None:
    ids = SAME_BUT_FOR + ODD
    pairs = [("ana", Record("the same text", id=record_id)) for record_id in ids]
    assert store.upsert(pairs).added == len(ids)
    assert store.upsert(pairs).unchanged == len(ids)
    assert [record.id for record in store.profile("ana")] == ids
    assert store.delete_records("ana", [ids[0], "none", ids[0]]) == 1
    assert [record.id for record in store.profile("ana")] == ids[1:]


def test_strings_of_a_subclass_are_strings(store: ProfileStore) -> None:
    store.upsert([(np.str_("ana"), Record(np.str_("a text"), target=np.str_("5"), id=np.str_("1")))])
    assert store.profile(np.str_("ana")).records == (Record("a text", target="5", id="1"),)


legal_ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=512)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.sets(legal_ids, min_size=2, max_size=8))
def test_users_never_mix(store: ProfileStore, ids: set[str]) -> None:
    ordered = sorted(ids)
    store.upsert((user_id, Record(f"{number} of {len(ids)}", id="1")) for number, user_id in enumerate(ordered))
    for number, user_id in enumerate(ordered):
        assert texts(store.profile(user_id)) == [f"{number} of {len(ids)}"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_store_does_what_a_dictionary_would(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_RECORDS", data.draw(st.integers(1, 7)))
    users = [f"{number} of run {store.counts().users}" for number in range(3)]
    model: dict[str, dict[str, Record]] = {}
    revisions: dict[str, int] = {}
    record = st.builds(
        Record, st.sampled_from("abc"), time=st.sampled_from([None, "2011", "2012"]), id=st.sampled_from("12345")
    )
    upserts = st.lists(st.tuples(st.sampled_from(users), record), max_size=12)
    steps = st.one_of(
        upserts, st.tuples(st.sampled_from(users), st.sets(st.sampled_from("12345"))), st.sampled_from(users)
    )
    for step in data.draw(st.lists(steps, max_size=6)):
        if isinstance(step, list):
            expected = IngestReport(len({user_id for user_id, _ in step}), *_applied(model, step))
            assert store.upsert(step) == expected
        elif isinstance(step, str):
            report = store.forget(step)
            assert report.records == len(model.pop(step, {}))
        else:
            user_id, record_ids = step
            there = record_ids & model.get(user_id, {}).keys()
            assert store.delete_records(user_id, record_ids) == len(there)
            for record_id in there:
                del model[user_id][record_id]
        for user_id in users:
            profile = store.profile(user_id)
            assert profile.records == Profile.from_records(user_id, model.get(user_id, {}).values()).records
            assert (user_id in store) == (user_id in model)
            assert profile.revision >= revisions.get(user_id, 0) or user_id not in model
            revisions[user_id] = max(profile.revision, revisions.get(user_id, 0))
    everyone = [store.profile(user_id) for user_id in store.user_ids()]
    assert store.counts().records == sum(map(len, everyone))
    assert store.counts().users == len(everyone)


def _applied(model: dict[str, dict[str, Record]], step: list[tuple[str, Record]]) -> tuple[int, int, int]:
    added = changed = unchanged = 0
    for user_id, record in step:
        records = model.setdefault(user_id, {})
        old = records.get(record.id)
        added += old is None
        changed += old is not None and old != record
        unchanged += old == record
        records[record.id] = record
    return added, changed, unchanged


@pytest.mark.slow
def test_thousands_of_users_who_share_topics(store: ProfileStore) -> None:
    """Reading one user never returns another's row, though all write the same texts under the same record ids."""
    n_users, topics = 3_000, [f"a shared text on topic {topic}" for topic in range(7)]

    def history(number: int) -> list[Record]:
        shared = [
            Record(topics[(number + place) % 7], target=str(number % 5), id=f"r{place}")
            for place in range(1 + number % 4)
        ]
        return [*shared, Record(f"only user {number} wrote this", id="own")]

    # One record of each user at a time, so that the rows of different users come to lie between each other.
    ids = [f"user-{number}" for number in range(n_users)]
    histories = [history(number) for number in range(n_users)]
    for place in range(5):
        store.upsert(
            (ids[number], histories[number][place]) for number in range(n_users) if place < len(histories[number])
        )
    batch = [vectors_of(store.profile(user_id), seed=number) for number, user_id in enumerate(ids)]
    assert store.put_vectors(batch) == n_users
    assert store.put_indexes(StoredIndex(user_id, "kind", 1, user_id.encode()) for user_id in ids) == n_users

    for number, user_id in enumerate(ids):
        profile = store.profile(user_id)
        assert profile.records == tuple(histories[number])
        assert same(store.vectors(user_id, "toy"), batch[number])
        index = store.index(user_id, "kind")
        assert index is not None
        assert index.data == user_id.encode()
    assert sorted(store.user_ids()) == sorted(ids)
    assert store.counts() == StoreCounts(n_users, sum(map(len, histories)), n_users, n_users)

    gone = ids[1234]
    store.forget(gone)
    assert [user_id for user_id in ids if user_id not in store] == [gone]
    assert store.counts().records == sum(map(len, histories)) - len(histories[1234])


# All or nothing


@pytest.mark.parametrize("error", [DataFormatError("line 9 is broken"), KeyboardInterrupt(), ZeroDivisionError()])
def test_an_error_in_the_input_undoes_everything(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_RECORDS", 10)
    store.upsert([("ana", Record("old", id="1")), ("bo", Record("b"))])
    before = store.profile("ana"), store.counts()

    def broken() -> Iterator[tuple[str, Record]]:
        yield "ana", Record("new", id="1")
        yield from ((f"user {number}", Record(f"text {number}")) for number in range(95))
        raise error

    with pytest.raises(type(error)) as raised:
        store.upsert(broken())
    assert raised.value is error
    assert (store.profile("ana"), store.counts()) == before
    assert store.upsert([("ana", Record("new", id="1"))]).changed == 1


def test_the_input_is_streamed(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_RECORDS", 100)
    taken, at_write = 0, []
    add = persona.store.upsert.Upsert.add

    def spy(self: persona.store.upsert.Upsert, chunk: persona.store.upsert.Chunk) -> None:
        at_write.append(taken)
        add(self, chunk)

    def records() -> Iterator[tuple[str, Record]]:
        nonlocal taken
        for number in range(1000):
            taken = number + 1
            yield f"user {number // 30}", Record(f"text {number}")

    monkeypatch.setattr(persona.store.upsert.Upsert, "add", spy)
    assert store.upsert(records()) == IngestReport(users=34, added=1000)
    assert at_write == [101, 201, 301, 401, 501, 601, 701, 801, 901, 1000]


def test_long_texts_make_short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona.store.upsert, "CHUNK_CHARACTERS", 1000)
    pieces = list(persona.store.upsert.chunks(("ana", Record("x" * 300, id=str(number))) for number in range(10)))
    assert [len(piece.histories["ana"]) for piece in pieces] == [4, 4, 2]


def test_users_are_paged(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona.store.queries, "PAGE", 2)
    queries.cache_clear()
    try:
        ids = [f"user {number}" for number in range(200)]
        store.upsert((user_id, Record("a")) for user_id in ids)
        listed = list(store.user_ids())
        assert sorted(listed) == sorted(ids)
        assert list(store.user_ids()) == listed
        assert sorted(store.stale_users("toy")) == sorted(ids)
        # Pages go on behind the last user of the one before, whatever happens to that user.
        seen = []
        for user_id in store.user_ids():
            seen.append(user_id)
            if len(seen) % 8 == 0:
                store.forget(user_id)
        assert seen == listed
        assert store.counts().users == 175
    finally:
        queries.cache_clear()


# Vectors and indexes


def test_vectors_come_back(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {number}")) for number in range(5))
    profile = store.profile("ana")
    one, two = vectors_of(profile, "toy"), vectors_of(profile, "other", dim=7, seed=1)
    assert store.put_vectors([one, two]) == 2
    assert same(store.vectors("ana", "toy"), one)
    assert same(store.vectors("ana", "other"), two)
    assert store.vectors("ana", "third") is None
    empty = UserVectors("ana", "none", (), (), np.zeros((0, 4), np.float16), 1)
    store.put_vectors([empty])
    assert same(store.vectors("ana", "none"), empty)
    assert store.fingerprints() == (
        StoredEncoder("other", 7, 1),
        StoredEncoder("toy", 4, 1),
        StoredEncoder("none", 4, 1),
    )
    assert store.counts().vectors == 3


def test_who_is_stale(store: ProfileStore) -> None:
    store.upsert((user_id, Record("a", id="1")) for user_id in ("ana", "bo", "cy", "dee"))
    assert sorted(store.stale_users("toy")) == ["ana", "bo", "cy", "dee"]
    store.put_vectors(vectors_of(store.profile(user_id)) for user_id in ("ana", "bo", "cy"))
    assert list(store.stale_users("toy")) == ["dee"]
    assert sorted(store.stale_users("other")) == ["ana", "bo", "cy", "dee"]
    store.upsert([("ana", Record("A", id="1")), ("bo", Record("more"))])
    store.delete_records("dee", ["1"])
    assert sorted(store.stale_users("toy")) == ["ana", "bo"]
    behind = store.vectors("ana", "toy")
    assert behind is not None
    assert behind.revision < store.profile("ana").revision
    # Users without records are known, and there is nothing to embed.
    assert "dee" in store
    assert store.profile("dee") == Profile("dee", (), revision=2)


def test_later_vectors_replace_earlier_ones_and_never_the_other_way(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a", id="1"))])
    first = vectors_of(store.profile("ana"))
    store.upsert([("ana", Record("b", id="2"))])
    second = vectors_of(store.profile("ana"), seed=1)
    for batch in ([first], [second], [first], [first, second, first]):
        store.put_vectors(batch)
    assert store.put_vectors([dataclasses.replace(first, revision=3)]) == 0  # of a revision that is still to come
    assert same(store.vectors("ana", "toy"), second)
    assert store.fingerprints() == (StoredEncoder("toy", 4, 1),)


def test_a_forgotten_user_is_not_resurrected(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a", id="1")), ("bo", Record("b", id="1"))])
    vectors = [vectors_of(store.profile(user_id)) for user_id in ("ana", "bo")]
    indexes = [StoredIndex(user_id, "kind", 1, b"words") for user_id in ("ana", "bo")]
    store.forget("ana")
    assert store.put_vectors(vectors) == 1
    assert store.put_indexes(indexes) == 1
    assert "ana" not in store
    assert store.vectors("ana", "toy") is None
    assert store.index("ana", "kind") is None

    # Not even as part of a new user by the same id, who starts above every revision that was.
    store.upsert([("ana", Record("another person's", id="1"))])
    assert store.profile("ana").revision == 2
    assert store.put_vectors(vectors) == 1
    assert store.put_indexes(indexes) == 1
    assert store.vectors("ana", "toy") is None
    assert store.index("ana", "kind") is None
    assert list(store.stale_users("toy")) == ["ana"]


def test_deleted_records_take_their_vectors_with_them(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {name}", id=name)) for name in "abcd")
    profile = store.profile("ana")
    before = vectors_of(profile)
    store.put_vectors([before, vectors_of(profile, "other", dim=3)])
    store.put_indexes([StoredIndex("ana", "kind", 1, b"all the words")])
    assert store.delete_records("ana", iter(["b", "d", "none"])) == 2
    assert [record.id for record in store.profile("ana")] == ["a", "c"]
    after = store.vectors("ana", "toy")
    assert after is not None
    assert (after.record_ids, after.revision) == (("a", "c"), store.profile("ana").revision)
    assert after.matrix.tolist() == before.matrix[[0, 2]].tolist()
    assert list(store.stale_users("toy")) == []
    assert store.index("ana", "kind") is None
    # A slow writer that had read the profile before cannot bring them back.
    assert store.put_vectors([before]) == 0
    assert store.put_indexes([StoredIndex("ana", "kind", 1, b"all the words")]) == 0
    assert store.delete_records("ana", ["b"]) == 0
    assert store.profile("ana").revision == 2


def test_vectors_that_lag_still_lag_after_a_deletion(store: ProfileStore) -> None:
    store.upsert(("ana", Record(f"text {name}", id=name)) for name in "ab")
    store.put_vectors([vectors_of(store.profile("ana"))])
    store.upsert([("ana", Record("text c", id="c"))])
    store.delete_records("ana", ["a"])
    after = store.vectors("ana", "toy")
    assert after is not None
    assert after.record_ids == ("b",)
    assert list(store.stale_users("toy")) == ["ana"]


def test_vectors_of_one_encoder_have_one_length(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a")), ("bo", Record("b"))])
    ana, bo = store.profile("ana"), store.profile("bo")
    with pytest.raises(FingerprintMismatchError, match="'toy' has 4, was given 5"):
        store.put_vectors([vectors_of(ana), vectors_of(bo, dim=5)])
    store.put_vectors([vectors_of(ana)])
    with pytest.raises(FingerprintMismatchError, match="'toy' has 4, was given 5"):
        store.put_vectors([vectors_of(ana, "new"), vectors_of(bo, dim=5)])
    assert store.fingerprints() == (StoredEncoder("toy", 4, 1),)


def test_indexes_come_back(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a"))])
    indexes = [StoredIndex("ana", "bm25:text", 1, b"\x00\xff"), StoredIndex("ana", "Bm25:text", 1, b"")]
    assert store.put_indexes(indexes) == 2
    assert store.index("ana", "bm25:text") == indexes[0]
    assert store.index("ana", "Bm25:text") == indexes[1]
    assert store.index("ana", "bm25") is None
    assert store.put_indexes([StoredIndex("ana", "bm25:text", 1, b"new"), StoredIndex("bo", "x", 1, b"")]) == 1
    found = store.index("ana", "bm25:text")
    assert found is not None
    assert found.data == b"new"


@pytest.mark.parametrize(
    ("kind", "message"),
    [("", "1 to 512 characters"), ("x" * 513, "1 to 512 characters"), ("a\0", "not hold NUL"), ("\ud800", "surrogate")],
)
def test_a_kind_must_be_a_name(kind: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"an index's kind must .*{message}"):
        StoredIndex("ana", kind, 1, b"")


# Forgetting; the bytes are tested in test_store_erasure.py


def test_forget_takes_everything_of_one_user(store: ProfileStore) -> None:
    store.upsert((user_id, Record(f"text {number}")) for user_id in ("ana", "bo") for number in range(3))
    store.put_vectors(vectors_of(store.profile(user_id), name) for user_id in ("ana", "bo") for name in ("f", "g"))
    store.put_indexes(StoredIndex(user_id, "kind", 1, b"x") for user_id in ("ana", "bo"))
    before = store.profile("bo"), store.vectors("bo", "f"), store.index("bo", "kind")
    assert store.forget("ana") == ForgetReport(records=3, vectors=2, indexes=1)
    assert "ana" not in store
    assert store.profile("ana") == Profile("ana")
    assert store.counts() == StoreCounts(1, 3, 2, 1)
    assert store.profile("bo") == before[0]
    assert before[1] is not None
    assert same(store.vectors("bo", "f"), before[1])
    assert store.index("bo", "kind") == before[2]
    assert store.forget("ana") == ForgetReport()


def test_forget_covers_tables_that_are_yet_to_come(store_url: str) -> None:
    part = part_of("ana")
    notes = user_table("notes", part.number, sqlalchemy.Column("note", sqlalchemy.Text))
    engine = sqlalchemy.create_engine(store_url)
    try:
        with ProfileStore(store_url) as store:
            store.upsert([("ana", Record("a"))])
            with engine.begin() as connection:
                notes.create(connection, checkfirst=True)
                uid = connection.execute(sqlalchemy.select(part.users.c.uid)).scalar_one()
                connection.execute(notes.insert(), [{"uid": uid, "note": "a word"}, {"uid": uid, "note": "another"}])
            assert store.forget("ana") == ForgetReport(records=1, others=2)
            with engine.connect() as connection:
                assert connection.execute(sqlalchemy.select(notes)).all() == []
    finally:
        notes.drop(engine)
        metadata.remove(notes)
        engine.dispose()


def test_no_table_of_users_data_is_outside_the_parts() -> None:
    for table in metadata.tables.values():
        assert ("uid" in table.columns) == ("part" in table.info)
        if "part" in table.info:
            part = PART_TABLES[table.info["part"]]
            assert table in part.tables()
            owners = {
                key.column.table for column in table.columns for key in column.foreign_keys if column.name == "uid"
            }
            assert owners == (set() if table is part.users else {part.users})


def test_the_parts_are_where_they_were() -> None:
    # Users are found by this assignment: another one would lose those of every store that exists.
    assert PARTS == 32
    assert [part_of(user_id).number for user_id in ("ana", "bo", "Zoë", "😀")] == [2, 19, 10, 4]


# The database


def test_stores_on_one_database_see_each_other(store_url: str) -> None:
    with ProfileStore(store_url) as one, ProfileStore(store_url) as two:
        one.upsert([("ana", Record("a"))])
        assert two.upsert([("ana", Record("a")), ("ana", Record("b"))]) == IngestReport(1, 1, 0, 1)
        assert len(one.profile("ana")) == 2
    with ProfileStore(store_url) as again:
        assert texts(again.profile("ana")) == ["a", "b"]


def test_a_closed_store_says_so(store_url: str) -> None:
    store = ProfileStore(store_url)
    store.close()
    store.close()
    for call in (lambda: store.profile("ana"), lambda: store.upsert([("ana", Record("a"))]), store.counts):
        with pytest.raises(StoreError, match="is closed: open it again"):
            call()


def test_the_password_is_in_no_message() -> None:
    for url in (
        "postgresql+psycopg://me:secret@127.0.0.1:1/x",
        "mysql://me:secret@host/x",
        "postgresql://me:secret@host:port/x",
    ):
        with pytest.raises(StoreError) as raised:
            ProfileStore(url)
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("persona.db", "must have the form sqlite:///file.db or postgresql"),
        ("", "must have the form"),
        ("mysql://host/x", "must have the form .* was: mysql"),
        ("postgresql+asyncpg://host/x", "must have the form .* was: postgresql"),
        ("sqlite://", "lies in a file"),
        ("sqlite:///:memory:", "lies in a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "lies in a file"),
        ("sqlite:////no/such/folder/persona.db", "its folder must exist and allow writing"),
        ("sqlite:////proc/persona.db", "its folder must exist and allow writing"),
        ("sqlite:////tmp", "its folder must exist and allow writing"),
        ("sqlite:persona.db", "must have the form"),
        ("sqlite://persona.db", "lies in a file"),
        ("sqlite:///persona.db?mode=ro", "lies in a file"),
        ("postgresql+psycopg://127.0.0.1:1/x", "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_opened(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        ProfileStore(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["a page", "photos"])
def test_another_programs_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "a page":
        path.write_text("<html>" + "no database " * 1000)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"no SQLite database|no store of persona"):
        ProfileStore(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "persona.db"
    with ProfileStore(f"sqlite:///{path}") as store:
        store.upsert((f"user {number}", Record(f"text {number}")) for number in range(300))
    data = bytearray(path.read_bytes())
    for place in range(8192 * 3, len(data) - 100, 97):
        data[place] ^= 0xFF
    path.write_bytes(data)

    def read_all() -> None:
        with ProfileStore(f"sqlite:///{path}") as store:
            for number in range(300):
                store.profile(f"user {number}")

    with pytest.raises(StoreError, match=r"damaged|no SQLite database"):
        read_all()


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ProfileStore("sqlite:///persona.db") as store:
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        store.upsert([("ana", Record("a"))])
    assert (tmp_path / "persona.db").stat().st_size
    assert list((tmp_path / "below").iterdir()) == []


@pytest.mark.parametrize("name", ["empty.db", "with blank.db", "Ü%41#.db", "a'b.db", "file:x.db"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "empty.db":
        path.touch()
    for added in (1, 0):
        with ProfileStore(f"sqlite:///{path}") as store:
            assert store.upsert([("ana", Record("a"))]).added == added
    assert path.stat().st_size
    assert all(other.name.startswith(name) for other in tmp_path.iterdir())


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'persona-llm\[postgres\]'"):
        ProfileStore("postgresql://host/x")


@pytest.mark.postgres
def test_a_server_that_was_restarted_goes_unnoticed(postgres_store_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_store_url, isolation_level="AUTOCOMMIT")

    def cut() -> None:
        with engine.connect() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"{others} AND application_name = 'cut'").all()

    with ProfileStore(f"{postgres_store_url}&application_name=cut") as store:
        store.upsert([("restart", Record("a", id="1"))])
        cut()
        assert texts(store.profile("restart")) == ["a"]
        cut()
        assert store.upsert([("restart", Record("b", id="1"))]).changed == 1
        cut()
        assert store.forget("restart").records == 1
    engine.dispose()


def test_sqlite_is_set_up_as_promised(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'persona.db'}")
    wanted = {
        "journal_mode": "wal",
        "secure_delete": 1,
        "foreign_keys": 1,
        "synchronous": 1,
        "busy_timeout": 30_000,
        "page_size": 8192,
        "temp_store": 2,
    }
    with database.connected() as connection:
        assert {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted} == wanted
    database.close()


def test_reading_one_user_scans_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'persona.db'}")
    asked = queries(PART_TABLES[0])
    with database.connected() as connection:
        for statement in (asked.known, asked.profile, asked.vectors, asked.index):
            compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
            names = dict.fromkeys(compiled.params, "x")
            steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", names)]
            assert steps
            assert all(step.startswith("SEARCH") for step in steps), steps
    database.close()
