"""Records of many users: what goes in comes back, to its user and to nobody else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import persona.store.queries
import persona.store.upsert
from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError
from persona.records import Profile, Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import ForgetReport, IngestReport, ProfileStore, StoreCounts
from tests.store.profiles import same, texts, vectors_of

SAME_BUT_FOR = [
    *["ana", "Ana", "ANA", "ana ", " ana", "ana\n", "ana\t", "1", "01", "1.0", "１"],
    *["straße", "strasse", "İstanbul", "istanbul", "ıstanbul", "ﬁn", "fin", "Zo\u00eb", "Zoe\u0308"],
]
ODD = [
    *["../../etc/passwd", "it's; DROP TABLE persona_users_00; --", '"quoted"', "`", "a\\b", "%", "_", "null", " "],
    *["line\nbreak\r\n", "\u202eright to left", "\x01\x7f", "[1, 2]", ":user_id", "%(user_id)s", "?", "😀" * 512],
]
ILLEGAL = ["", "a\x00b", "\ud800", "x" * 513]


def test_a_record_comes_back_as_it_went_in(store: ProfileStore) -> None:
    records = [
        Record("plain"),
        Record(
            "all\nfields 😀 \u2028", target="", time="2013-09-03T10:00:00", id="7", metadata={"title": 'Ä "q"', "": "x"}
        ),
        Record("with blanks around  ", target=" 5 ", metadata={"n": "1"}),
        Record("said", role="assistant", speaker="Ms. Ö", expires="2999-10-03", id="8"),
        Record("until", expires="2999"),
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


TIMES = st.one_of(
    st.integers(2011, 2013).map(str),
    st.dates(date(2011, 1, 1), date(2013, 12, 31)).map(lambda day: day.isoformat()[:7]),
    st.dates(date(2011, 1, 1), date(2013, 12, 31)).map(date.isoformat),
    st.datetimes(datetime(2011, 12, 30), datetime(2012, 1, 2)).map(lambda moment: moment.isoformat(timespec="seconds")),
)


def _first_and_last(time: str) -> tuple[str, str]:
    """The first and the last second of a year, a month, a day or a second."""
    return time + "0000-01-01T00:00:00"[len(time) :], time + "9999-12-31T23:59:59"[len(time) :]


@given(st.lists(st.one_of(st.none(), TIMES), max_size=12), TIMES)
def test_as_of_is_what_had_begun_when_the_moment_ended(times: list[str | None], moment: str) -> None:
    profile = Profile.from_records("ana", [Record("x", time=time, id=str(n)) for n, time in enumerate(times)])
    end = _first_and_last(moment)[1]
    begun = [record for record in profile if record.time is None or _first_and_last(record.time)[0] <= end]
    assert list(profile.as_of(moment)) == begun


def test_as_of_reads_the_store_as_it_was(store: ProfileStore) -> None:
    times = [None, "2011", "2011-05-03", "2012-01-01T10:30:00+00:00", "2013"]
    store.upsert(("ana", Record(f"text {time}", time=time)) for time in times)
    whole = store.profile("ana")
    for moment, known in (
        ("2010", 1),
        ("2011", 3),
        (datetime(2012, 1, 1, 10, 30, tzinfo=UTC), 4),
        ("01,January,2012", 4),
    ):
        assert store.profile("ana", as_of=moment).records == whole.records[:known]
    # What was made from all records must not pass for what was made from these.
    assert (store.profile("ana", as_of="2012").revision, store.profile("ana", as_of="2014")) == (0, whole)
    assert store.profile("nobody", as_of="2014") == Profile("nobody")
    for wrong in ("soon", "", "2012-13"):
        with pytest.raises(DataFormatError, match="a time must be like"):
            store.profile("ana", as_of=wrong)


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
    added: list[dict[str, Any]] = [
        {"target": "5"},
        {"time": "2011"},
        {"metadata": {"n": "1"}},
        {"role": "user"},
        {"speaker": "Ana"},
    ]
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
