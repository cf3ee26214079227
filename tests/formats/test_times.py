from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import DataFormatError, PersonaError
from persona.formats.times import normalise_time


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2011, "2011"),
        (2011.0, "2011"),
        ("2011", "2011"),
        (" 2011 ", "2011"),
        ("2013-9", "2013-09"),
        ("2013-9-3", "2013-09-03"),
        ("2013-09-03", "2013-09-03"),
        ("2012-02-29", "2012-02-29"),
        ("08,August,2004", "2004-08-08"),
        ("8, august, 2004", "2004-08-08"),
        ("14,juillet,2004", "2004-07-14"),
        ("01,Março,2004", "2004-03-01"),
        ("31,październik,2003", "2003-10-31"),
        ("2013-09-03T10:30:00", "2013-09-03T10:30:00"),
        ("2013-09-03 10:30", "2013-09-03T10:30:00"),
        ("2013-09-03T10:30:00Z", "2013-09-03T10:30:00+00:00"),
        ("2013-09-03T00:30:00+02:00", "2013-09-02T22:30:00+00:00"),
        ("2013-09-03 10:30:00 -0530", "2013-09-03T16:00:00+00:00"),
        ("2013-09-03T10:30:00.25", "2013-09-03T10:30:00.250000"),
        ("2013-09-03T10:30:00,25z", "2013-09-03T10:30:00.250000+00:00"),
        (date(2013, 9, 3), "2013-09-03"),
        (datetime(2013, 9, 3, 10, 30), "2013-09-03T10:30:00"),
        (datetime(2013, 9, 3, 10, 30, tzinfo=timezone(timedelta(hours=2))), "2013-09-03T08:30:00+00:00"),
    ],
)
def test_what_histories_write_becomes_iso(value: object, expected: str) -> None:
    assert normalise_time(value) == expected


@pytest.mark.parametrize("value", [None, "", "  ", "None", "null", "NaN", "NaT"])
def test_a_missing_time_is_none(value: object) -> None:
    assert normalise_time(value) is None


@pytest.mark.parametrize(
    "value",
    [
        *["yesterday", "2013-13", "2013-02-30", "2013-00-01", "0000", "13-09-03", "2013/09/03", "20130903", "٢٠١١"],
        *["1378202400", "1378202400123", "31,June,2004", "08,Juni X,2004", "08,Augustember,2004"],
        *["2013-09-03T25:00:00", "2013-09-03T10:30:00+25:00", "0001-01-01T00:00:00+02:00"],
        *[1378202400, -5, True, 2011.5, float("inf"), ["2011"]],
    ],
)
def test_nonsense_is_refused_with_what_was_given(value: object) -> None:
    with pytest.raises(DataFormatError, match="a time must be like '2011'") as caught:
        normalise_time(value)
    assert repr(value)[:20] in str(caught.value) or str(value) in str(caught.value)


@settings(deadline=None)
@given(st.datetimes(), st.datetimes())
def test_strings_sort_as_times_do(first: datetime, second: datetime) -> None:
    strings = [normalise_time(moment.replace(tzinfo=UTC)) for moment in (first, second)]
    assert None not in strings
    assert (first < second) == (str(strings[0]) < str(strings[1]))


@settings(deadline=None)
@given(st.one_of(st.dates(), st.datetimes(), st.datetimes(timezones=st.just(UTC))))
def test_normal_form_is_kept(moment: date) -> None:
    once = normalise_time(moment)
    assert normalise_time(once) == once


@settings(deadline=None)
@given(st.one_of(st.text(), st.integers(), st.floats(), st.from_regex(r"[0-9]{1,4}[-,][0-9A-z]{1,9}[-,][0-9]{1,4}")))
def test_anything_is_a_time_or_a_clear_error(value: object) -> None:
    try:
        result = normalise_time(value)
    except PersonaError:
        return
    assert result is None or result[:4].isdecimal()
