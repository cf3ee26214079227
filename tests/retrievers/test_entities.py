"""Names in texts, their fading counts, and that a forgotten one stays forgotten."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.encoders.hashing import HashingEncoder
from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers import EntityRetriever, EntityStore
from persona.retrievers.entities import EntityCounts
from persona.retrievers.entity_names import EntityExtractor, key
from persona.store.profile_store import ProfileStore


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Moody and stylish. Steve McQueen is cool, and so is Casino Royale.", ["Steve McQueen", "Casino Royale"]),
        ("The painter Vincent van Gogh and the Lord of the Rings", ["Vincent van Gogh", "Lord of the Rings"]),
        ("Stylish. It was stylish.", []),
        ("Paris is nice. We love Paris.", ["Paris", "Paris"]),
        ("iPhone or NASA? I do not know.", ["iPhone", "NASA"]),
        ("THIS IS ALL IN CAPITALS, REALLY", []),
        ("Ten Great Films You Have To See", []),
        ("seen with @ana in #Berlin!", ["@ana", "#Berlin"]),
        ("In Berlin, Ana, Ben and Carl met.", ["Berlin", "Ana", "Ben", "Carl"]),
        ("昨日「千と千尋の神隠し」をスタジオジブリで見た", ["千と千尋の神隠し", "スタジオジブリ"]),
        ("мы были в Москве и видели Большой театр", ["Москве", "Большой"]),
        ("wir trafen Jürgen in Ærø", ["Jürgen", "Ærø"]),
        ("We saw Berlin\nand Paris", ["Berlin", "Paris"]),
        ("", []),
        ("!!! 123 \u200b", []),
    ],
)
def test_names_in_texts(text: str, names: list[str]) -> None:
    assert EntityExtractor()(text) == names


def test_a_gazetteer_finds_its_names_in_any_spelling() -> None:
    find = EntityExtractor(["nouvelle vague", "Café Müller", "東京"])
    assert find("a late echo of the NOUVELLE VAGUE, at cafe muller's") == ["NOUVELLE VAGUE", "cafe muller"]
    assert find("昨日東京に行った") == ["東京"]
    assert find("vague novels") == []
    with pytest.raises(InvalidOptionError, match="must hold a word, was: '!!'"):
        EntityExtractor(["!!"])
    assert find.rules != EntityExtractor().rules


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60))
def test_every_name_is_in_the_text_and_has_a_word(text: str) -> None:
    for name in EntityExtractor()(text):
        assert name in text
        assert key(name)


BOND = (
    Record("we saw Bond and once more Bond", time="2011-01-01", id="1"),
    Record("a walk with Bond in Paris", time="2012-01-01", id="2"),
)


def test_weights_halve_with_the_half_life() -> None:
    found = EntityCounts(half_life_days=365).of(Profile("ana", BOND))
    assert [(one.name, one.count, one.last) for one in found] == [("Bond", 2, "2012-01-01"), ("Paris", 1, "2012-01-01")]
    assert [one.weight for one in found] == pytest.approx([1.5, 1.0])


def test_the_running_sum_is_the_sum_over_all_mentions() -> None:
    days = ["2010-03-05", "2010-03-06", "2011-12-31", "2014-02-28", "2014-02-28"]
    records = [Record(f"in Paris {day}", time=day, id=str(place)) for place, day in enumerate(days)]
    records.append(Record("in Rome", time="2015-06-01", id="rome"))
    found = {one.name: one.weight for one in EntityCounts(half_life_days=100).of(Profile("ana", tuple(records[::-1])))}
    from datetime import date

    now = date(2015, 6, 1)
    assert found["Paris"] == pytest.approx(sum(2 ** (-(now - date.fromisoformat(day)).days / 100) for day in days))
    assert found["Rome"] == 1.0


def test_undated_records_are_as_old_as_the_oldest() -> None:
    profile = Profile("ana", (Record("in Rome"), *BOND))
    found = {one.name: one for one in EntityCounts(half_life_days=365).of(profile)}
    assert found["Rome"].weight == pytest.approx(0.5)
    assert found["Rome"].last is None
    assert EntityCounts().of(Profile("ana", (Record("in Rome"),)))[0].weight == 1.0
    assert EntityCounts().of(Profile("ana", (Record("in Rome", time="someday"),)))[0].weight == 1.0


def test_options() -> None:
    with pytest.raises(InvalidOptionError, match="`half_life_days` must be above 0, was: 0"):
        EntityCounts(half_life_days=0)
    with pytest.raises(InvalidOptionError, match="`view` must be one of"):
        EntityCounts(view="body")


def test_records_are_ranked_by_the_weights_of_shared_entities() -> None:
    profile = Profile("ana", (*BOND, Record("nothing here", time="2012-02", id="3")))
    retriever = EntityRetriever(counts=EntityCounts(half_life_days=365))
    found = retriever.retrieve(profile, "what of BOND, and what of paris?", 3)
    assert [one.record.id for one in found] == ["2", "1", "3"]
    weights = {one.name: one.weight for one in retriever.counts.of(profile)}
    assert [one.score for one in found] == [weights["Bond"] + weights["Paris"], weights["Bond"], 0.0]
    # Names that are none of the user's count for nothing; then the newest come first.
    assert [one.record.id for one in retriever.retrieve(profile, "a walk in Rome", 3)] == ["3", "2", "1"]


@pytest.fixture
def store(store_url: str) -> object:
    with ProfileStore(store_url) as opened:
        opened.upsert(("ana", record) for record in BOND)
        opened.upsert([("ben", Record("once in Lisbon", id="1"))])
        yield opened


def names(store: ProfileStore, user_id: str = "ana") -> list[str]:
    return [one.name for one in EntityStore(store).entities(store.profile(user_id))]


def test_rows_are_made_once_and_again_when_records_change(store: ProfileStore) -> None:
    kept = EntityStore(store)
    assert kept.update() == 2
    assert kept.update() == 0
    store.upsert([("ana", Record("to Rome", time="2013", id="3"))])
    assert "Rome" in names(store)  # seen before the row is made anew
    assert kept.update() == 1
    assert EntityStore(store, EntityCounts(half_life_days=1)).update(["ana"]) == 1  # other rules


def test_a_row_holds_aggregates_alone(store: ProfileStore) -> None:
    EntityStore(store).update()
    row = store.index("ana", "entities:text")
    assert row is not None
    assert b"Bond" in row.data
    assert b"walk" not in row.data


def test_a_damaged_row_costs_nothing_but_time(store: ProfileStore) -> None:
    from persona.store.derived import StoredIndex

    before = names(store)
    for data in (b"", b"{}", b"[]", b"\xff", b'{"fingerprint": 1, "entities": 5}'):
        store.put_indexes([StoredIndex("ana", "entities:text", store.profile("ana").revision, data)])
        assert names(store) == before


def test_a_forgotten_entity_stays_forgotten(store: ProfileStore) -> None:
    kept = EntityStore(store)
    kept.update()
    assert kept.forget("ana", "BOND") is True
    assert kept.forget("ana", "bond") is False
    assert names(store) == ["Paris"]
    row = store.index("ana", "entities:text")
    assert row is not None
    assert b"Bond" not in row.data
    # Whatever makes the rows anew: new records, other rules, deleted records.
    store.upsert([("ana", Record("Again a film with Bond in Rome", time="2014", id="4"))])
    kept.update()
    assert names(store) == ["Rome", "Paris"]
    store.delete_records("ana", ["2"])
    assert EntityStore(store, EntityCounts(half_life_days=9)).update(["ana"]) == 1
    assert names(store) == ["Rome"]
    assert kept.update(["ana"]) == 1
    assert names(store) == ["Rome"]
    # And so it is for the retriever, and for nobody else.
    assert EntityRetriever(store).retrieve(store.profile("ana"), "Bond", 1)[0].score == 0.0
    assert kept.forget("ben", "Bond") is False
    assert names(store, "ben") == ["Lisbon"]


def test_a_row_that_was_counted_before_and_written_after_forgets_too(store: ProfileStore) -> None:
    kept = EntityStore(store)
    profile = store.profile("ana")
    counted = kept.counts.of(profile)
    kept.forget("ana", "Bond")
    kept._write([(profile, counted)])
    row = store.index("ana", "entities:text")
    assert row is not None
    assert b"Bond" not in row.data


def test_what_was_forgotten_is_kept_as_a_hash_and_goes_with_the_user(store: ProfileStore) -> None:
    kept = EntityStore(store)
    kept.forget("ana", "Bond")
    (one,) = kept.forgotten("ana")
    assert len(one) == 16
    assert kept.forgotten("ben") == frozenset()
    kept.forget("ben", "Bond")
    assert kept.forgotten("ben") != kept.forgotten("ana")
    store.forget("ana")
    assert kept.forgotten("ana") == frozenset()
    store.upsert(("ana", record) for record in BOND)
    assert "Bond" in names(store)  # another user by that id


def test_forget_leaves_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    with ProfileStore(f"sqlite:///{path}") as store:
        store.upsert([("ana", Record("a talk with Zebulonia", id="1")), ("ben", Record("in Lisbon", id="1"))])
        kept = EntityStore(store)
        kept.update()
        kept.forget("ana", "Somebody Else")
        (mark,) = kept.forgotten("ana")
        store.forget("ana")
    data = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    assert b"Zebulonia" not in data
    assert mark not in data
    assert b"Lisbon" in data
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_forgetting_needs_a_word_and_takes_unknown_users(store: ProfileStore) -> None:
    with pytest.raises(InvalidOptionError, match="an entity must hold a word, was: '!'"):
        EntityStore(store).forget("ana", "!")
    assert EntityStore(store).forget("nobody", "Bond") is False


def test_context_is_weight_times_likeness(store: ProfileStore) -> None:
    store.upsert([("ana", Record("we met James Blunt", time="2012-01-01", id="5"))])
    kept = EntityStore(store)
    found = kept.context("ana", "is james in paris", 9)
    assert [one.name for one, _ in found] == ["Paris", "James Blunt"]
    assert [score for _, score in found] == pytest.approx([1.0, 0.5])
    assert len(kept.context("ana", "is james in paris", 1)) == 1
    assert kept.context("nobody", "paris", 1) == ()
    close = kept.context("ana", "James Blunt", 1, encoder=HashingEncoder(dim=256))
    assert [one.name for one, _ in close] == ["James Blunt"]
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1"):
        kept.context("ana", "paris", 0)
