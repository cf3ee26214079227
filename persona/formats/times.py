"""Dates as histories write them, turned into ISO 8601 strings that sort in time order.

>>> normalise_time("2013-9-3"), normalise_time(2011), normalise_time("08,August,2004")
('2013-09-03', '2011', '2004-08-08')
>>> normalise_time("2013-09-03 10:30:00+02:00")
'2013-09-03T08:30:00+00:00'

A date keeps its precision: 2011 does not become the first of January.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache

from persona.errors import DataFormatError

_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})(?:-([0-9]{1,2}))?)?")
_DATE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]"
    r"([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?) ?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_NAMED_MONTH = re.compile(r"([0-9]{1,2}), ?([^\W\d_]+), ?([0-9]{4})")

# Bloggers' dates carry the month in the language of the blog. No name stands for two months in two languages.
_MONTH_NAMES = (
    "january januari januar januari janvier enero janeiro gennaio styczeń",
    "february februari februar février febrero fevereiro febbraio luty",
    "march maart märz mars marts marzo março marzec",
    "april avril abril aprile kwiecień",
    "may mei mai maj mayo maio maggio",
    "june juni juin junio junho giugno czerwiec",
    "july juli juillet julio julho luglio lipiec",
    "august augustus augusti août agosto sierpień",
    "september septembre septiembre setembro settembre wrzesień",
    "october oktober octobre octubre outubro ottobre październik",
    "november novembre noviembre novembro listopad",
    "december dezember desember décembre diciembre dezembro dicembre grudzień",
)
_MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES, start=1) for name in names.split()}

_MISSING = frozenset({"", "none", "null", "nan", "nat"})
"""What programs write for a missing date."""

_RULE = "a time must be like '2011', '2013-09', '2013-09-03', '2013-09-03T10:30:00+02:00' or '08,August,2004'"


def normalise_time(value: object) -> str | None:
    """`value` as an ISO 8601 string of the same precision.

    Args:
        value: a year as a number; a string (``2011``, ``2013-9``, ``2013-09-03``, a date and time with or
            without an offset from UTC, a blog's ``08,August,2004``); a `date` or a `datetime`.

    Returns:
        ``YYYY``, ``YYYY-MM``, ``YYYY-MM-DD`` or ``YYYY-MM-DDThh:mm:ss[.ffffff]``; a time with an offset is
        moved to UTC and ends in ``+00:00``, so that strings compare as times do. None for None, a blank,
        and the word ``None`` (or ``null``, ``NaN``, ``NaT``), which occurs in real LaMP-style files.

    Raises:
        DataFormatError: if `value` is no date (``"yesterday"``) or not in the calendar (``"2013-13"``).
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _of_string(value.strip())
    if isinstance(value, datetime):
        return _of_datetime(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of years with gaps: tables keep those as floats
    if isinstance(value, int) and not isinstance(value, bool):
        return _of_string(str(value))
    raise DataFormatError(f"{_RULE}, was: {value!r:.80} ({type(value).__name__})")


def moment_of(value: object) -> str:
    """`normalise_time` of what must be a time.

    Raises:
        DataFormatError: if it is none, or says that there is none.
    """
    moment = normalise_time(value)
    if moment is None:
        raise DataFormatError(f"{_RULE}, was: {value!r:.80}")
    return moment


@lru_cache(maxsize=4096)
def day_of(time: str | None) -> int | None:
    """The day of a record's time, counted from year 1; a year or month alone is its first day."""
    if time is None:
        return None
    try:
        parts = [int(part) for part in time[:10].split("-")]
        year, month, day = (*parts, 1, 1)[:3]
        return date(year, month, day).toordinal()
    except ValueError:
        return None  # a record made by hand may hold any string


def _of_string(value: str) -> str | None:
    if value.lower() in _MISSING:
        return None
    try:
        if match := _DATE.fullmatch(value):
            year, month, day = match.groups()
            # January and the first replace what is missing: this only checks the calendar.
            date(int(year), int(month or 1), int(day or 1))
            return "-".join([year, *(part.zfill(2) for part in (month, day) if part)])
        if match := _DATE_TIME.fullmatch(value):
            day, clock, offset = match.groups()
            moment = f"{day}T{clock.replace(',', '.')}{offset or ''}".upper()
            return _of_datetime(datetime.fromisoformat(moment))
        if (match := _NAMED_MONTH.fullmatch(value)) and match[2].lower() in _MONTHS:
            return date(int(match[3]), _MONTHS[match[2].lower()], int(match[1])).isoformat()
    except (ValueError, OverflowError) as error:
        raise DataFormatError(f"{_RULE} and in the calendar, was: {value!r:.80} ({error})") from None
    raise DataFormatError(f"{_RULE}, was: {value!r:.80}")


def _of_datetime(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.isoformat(timespec="microseconds" if value.microsecond else "seconds")
