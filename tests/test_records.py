"""Records and profiles: content ids, views, order, and what is refused at the door."""

from __future__ import annotations

import hashlib
import json
import pickle
from datetime import date
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.errors import DataFormatError, InvalidUserIdError
from persona.records import Profile, Record, check_size, check_user_id

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(str.strip)


def test_the_id_is_the_content() -> None:
    one = Record("a", target="b", time="2011", metadata={"x": "1", "y": "2"})
    same = Record("a", target="b", time="2011", metadata={"y": "2", "x": "1"})
    assert one.id == same.id == one.content_hash
    make: Any = Record
    others = [{name: value} for name in ("target", "time", "role", "speaker") for value in ("", "2011")]
    others += [{"expires": "2011"}, {"expires": "2011-01"}]
    assert len({Record("b").id, *(make("a", **fields).id for fields in [{}, *others])}) == 2 + len(others)


def test_an_explicit_id_is_kept_and_no_part_of_the_content() -> None:
    assert Record("a", id="7").id == "7"
    assert Record("a", id="7").content_hash == Record("a", id="8").content_hash


def test_views() -> None:
    record = Record("body", target="5", metadata={"title": "head"})
    assert [record.view(name) for name in ("text", "target+text", "title+text")] == ["body", "5 body", "head body"]
    turn = Record("Hello.", time="2023-05-08T13:56:00", speaker="Ana", role="user")
    assert turn.view("turn") == "Ana, 8 May 2023: Hello."
    dated = [Record("x", time=time, role="user").view("turn") for time in ("2023-05", "2023", "once", "2023-13", None)]
    assert dated == ["user, May 2023: x", "user, 2023: x", *["user: x"] * 3]
    assert (Record("x", time="2023-12-31").view("turn"), Record("x").view("turn")) == ("31 December 2023: x", "x")
    assert Record("body").view("target+text") == Record("body").view("title+text") == "body"
    with pytest.raises(ValueError, match="one of text, target"):
        record.view("all")


@given(TEXT, st.lists(st.none() | TEXT, min_size=4, max_size=4), st.dictionaries(TEXT, TEXT, max_size=2), st.dates())
def test_records_survive_pickling_and_are_hashable(
    text: str, values: list[str | None], metadata: dict[str, str], day: date
) -> None:
    (target, time, role, speaker), expires = values, day.isoformat()
    record = Record(text, target, time, "", metadata, role, speaker, expires)
    again = pickle.loads(pickle.dumps(record))
    assert again == record
    assert hash(again) == hash(record)


def test_metadata_cannot_be_changed_from_outside() -> None:
    given_metadata = {"a": "b"}
    record = Record("x", metadata=given_metadata)
    view = Record("x", metadata=MappingProxyType(given_metadata))
    given_metadata["a"] = "c"
    assert record.metadata["a"] == view.metadata["a"] == "b"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": ""}, "must not be empty"),
        ({"text": " \n"}, "must not be empty"),
        ({"text": 5}, "must be a string"),
        ({"text": "a\x00b"}, "NUL"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"text": "a", "target": 5}, "target must be a string"),
        ({"text": "a", "role": 5}, "role must be a string"),
        ({"text": "a", "speaker": "\x00"}, "speaker must not hold NUL"),
        ({"text": "a", "expires": 2030}, "expires must be a string"),
        ({"text": "a", "expires": ""}, "`expires` must be like '2027', '2027-01-31' or"),
        ({"text": "a", "expires": "tomorrow"}, "was: 'tomorrow'"),
        ({"text": "a", "expires": "2030-1-1"}, "was: '2030-1-1'"),
        ({"text": "a", "expires": "2030-01-01T10:00:00+02:00"}, "\\(UTC\\), was"),
        ({"text": "a", "id": "x" * 513}, "at most 512"),
        ({"text": "a", "metadata": {"k": 1}}, "metadata 'k' must be a string"),
        ({"text": "a", "metadata": ["k"]}, r"metadata must be a mapping of strings, was: \['k'\] \(list\)"),
        ({"text": "a", "metadata": None}, "metadata must be a mapping of strings, was: None"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        Record(**fields)  # type: ignore[arg-type]


def test_a_profile_is_of_records() -> None:
    with pytest.raises(DataFormatError, match=r"a profile is of records, was: 'x' \(str\)"):
        Profile.from_records("u", cast(Any, [Record("y"), "x"]))


def test_a_profile_is_oldest_first_and_undated_records_lead() -> None:
    records = [
        Record("c", time="2012-01"),
        Record("u"),
        Record("a", time="2011"),
        Record("b", time="2011-05-02"),
        Record("v"),
    ]
    assert [record.text for record in Profile.from_records("u", records)] == ["u", "v", "a", "b", "c"]


@pytest.mark.parametrize("user_id", ["a", "😀", "../../x", "o'brien\"; DROP TABLE", "line\nbreak", " ", "x" * 512])
def test_any_other_string_is_a_user_id(user_id: str) -> None:
    assert check_user_id(user_id) == user_id


@pytest.mark.parametrize("user_id", ["", "a\x00", "x" * 513, "\udfff", None, 7])
def test_bad_user_ids_are_refused(user_id: object) -> None:
    with pytest.raises(InvalidUserIdError, match="a user id must"):
        check_user_id(user_id)


@pytest.mark.parametrize(
    "record",
    [
        Record("plain"),
        Record('quotes " \\ and \x07\n\u2028 é 😀', target="", time="2011"),
        Record("with metadata", target="5", metadata={"z": "1", "a": '"', "é": "\t"}),
        Record("said", role="user"),
        Record("said", speaker='"Ada"', expires="2030-01-01"),
    ],
)
def test_the_content_hash_is_that_of_the_content_as_json(record: Record) -> None:
    content: list[object] = [record.text, record.target, record.time, sorted(record.metadata.items())]
    added = [record.role, record.speaker, record.expires]
    content += added if any(added) else []
    encoded = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    assert record.content_hash == hashlib.blake2b(encoded, digest_size=16).hexdigest()


def test_a_view_of_a_record_is_not_endless() -> None:
    record = Record("x" * 1_500_000, target="y")
    assert {len(record.view(name)) for name in ("text", "target+text", "title+text")} == {1_000_000}


def test_a_record_that_is_too_long_is_refused_where_it_comes_in() -> None:
    check_size(Record("x" * 999_999, target="y"))
    with pytest.raises(DataFormatError, match=r"a record may have 1,000,000 characters, has 1,000,001: cut or split"):
        check_size(Record("x" * 999_999, target="y", metadata={"n": ""}))
