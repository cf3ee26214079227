"""Filters on time, label and metadata: what they mean, and that they are exact for every retriever."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers import RecencyRetriever, Where, WhereRetriever
from persona.retrievers.where import Condition
from tests.retrievers.cases import MAKERS

REVIEW = Record("Moody.", target="5", time="2011-05-03", metadata={"genre": "crime drama", "time": "late", "n": "10"})


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("time>=2011", True),
        ("time=2011", True),
        ("time = 2011-05", True),
        ("time!=2011", False),
        ("time<=2011", True),
        ("time<2011", False),
        ("time>2011", False),
        ("time>2011-04", True),
        ("time<2011-05-04", True),
        ("time in 2009, 2011", True),
        ("time>=2011-05-03 and time<=2011-5-3", True),
        ("label=5", True),
        ("label=5.0", True),
        ("label>4 AND label<=5", True),
        ("label in 1,2", False),
        ("label in 1,5", True),
        ("label=five", False),
        ("label>apple", False),
        ('genre="crime drama"', True),
        ("genre=crime", False),
        ('genre in comedy,"crime drama"', True),
        ("genre>comedy", True),
        ("n>9", True),
        ("n<9", False),
        ("meta.time=late", True),
        ("meta.genre!=comedy", True),
        ("unknown=1", False),
        ("unknown!=1", True),
        ("label=5 and genre=comedy", False),
    ],
)
def test_what_a_filter_means(text: str, fits: bool) -> None:
    assert Where.parse(text).matches(REVIEW) is fits


def test_a_record_that_knows_less_than_the_value_asks_counts_as_before_it() -> None:
    year = Record("x", time="2011")
    assert Where.parse("time<2011-05").matches(year)
    assert not Where.parse("time>=2011-05").matches(year)


def test_undated_records_fit_no_time() -> None:
    for op in ("=", "<", "<=", ">", ">=", " in "):
        assert not Where.parse(f"time{op}2011").matches(Record("x"))
    assert Where.parse("time!=2011").matches(Record("x"))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("", "''"),
        ("time", "'time'"),
        ("time>=", "'time>='"),
        ("label=5 or label=4", "'or label=4'"),
        ("label=5 and", "'and'"),
        ("label=5 and and label=4", "'and label=4'"),
        ("label=5, label=4", "'label=5, label=4'"),
        ('genre="crime', "'genre=\"crime'"),
        ("label==5", "'label==5'"),
        ("label in", "'label in'"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(text: str, rest: str) -> None:
    with pytest.raises(InvalidOptionError, match="FIELD OP VALUE") as error:
        Where.parse(text)
    assert str(error.value).endswith(f"could not read: {rest}")


def test_a_time_must_be_a_date() -> None:
    with pytest.raises(InvalidOptionError, match="a time must be like"):
        Where.parse("time>=yesterday")
    with pytest.raises(InvalidOptionError, match="a time must be like"):
        Where.parse("time=None")


def test_conditions_are_checked() -> None:
    with pytest.raises(InvalidOptionError, match="operator must be one of"):
        Condition("label", "~", ("5",))
    with pytest.raises(InvalidOptionError, match="needs one value"):
        Condition("label", "=", ("4", "5"))
    with pytest.raises(InvalidOptionError, match="field must not be empty"):
        Condition("", "=", ("4",))
    with pytest.raises(InvalidOptionError, match=r"times must be as records have them, \('2011-05-03',\), was: "):
        Condition("time", "=", ("2011-5-3",))


def test_no_condition_fits_everything_and_keeps_the_profile() -> None:
    profile = Profile("ana", (REVIEW,), revision=3)
    assert Where().part(profile) is profile
    assert Where.parse("label=5").part(profile) is profile
    part = Where.parse("label=4").part(profile)
    assert (part.user_id, part.records, part.revision) == ("ana", (), 3)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='time label=<>!in,and"5 2011é\n', max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        where = Where.parse(text)
    except InvalidOptionError:
        return
    assert where.conditions


def history(n: int = 100) -> Profile:
    """Record i has the label i, and a metadata field by which any share can be chosen."""
    draw = random.Random(0)
    words = ["snow", "thriller", "comedy", "family", "quiet", "Berlin", "love", "train"]
    return Profile(
        "ana",
        tuple(
            Record(
                " ".join(draw.choices(words, k=5)), target=str(i % 5), time=str(1900 + i), metadata={"place": str(i)}
            )
            for i in range(n)
        ),
    )


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kept", [0, 1, 2, 10, 50, 100])  # of 100 records: 0 %, one, some, 10 %, 50 %, all
def test_exact_at_every_selectivity(name: str, kept: int) -> None:
    """Row 12 of docs/papers.md: records that fit are searched, whole, at every selectivity: recall 1 by brute force."""
    profile, base = history(), MAKERS[name](None)
    # The records that fit are spread over the profile.
    chosen = random.Random(kept).sample(range(100), kept)
    where = Where((Condition("place", "in", tuple(map(str, chosen)) or ("none",)),))
    brute = Profile("ana", tuple(record for number, record in enumerate(profile) if number in set(chosen)))
    filtered = WhereRetriever(base, where)
    for k in (1, 40):
        found = filtered.retrieve(profile, "a quiet thriller in Berlin", k)
        assert found == base.retrieve(brute, "a quiet thriller in Berlin", k)
        assert len(found) == min(k, kept)
        assert all(where.matches(scored.record) for scored in found)
        assert filtered.retrieve_batch([profile] * 2, ["snow", "a quiet thriller in Berlin"], k)[1] == found


def test_a_text_is_read_when_the_retriever_is_made() -> None:
    assert WhereRetriever(RecencyRetriever(), "label=5").where == Where.parse("label=5")
    with pytest.raises(InvalidOptionError):
        WhereRetriever(RecencyRetriever(), "label")
