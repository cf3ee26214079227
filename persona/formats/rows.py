"""A record as a row of a table or a line of JSON.

    {"user_id": "ada", "text": "Moody and stylish.", "target": "5", "time": "2004-10-14", "id": "r1",
     "metadata": {"film": "Bullitt"}}
    {"user_id": "ada", "text": "I moved to Turin.", "role": "user", "speaker": "Ada", "expires": "2027-01-01"}

Only ``user_id`` and ``text`` are needed; null means that a field is missing. A field of any other name is refused, not
dropped: a column called ``date`` would be lost, and recency with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from persona.errors import DataFormatError
from persona.formats.fields import check_present, described, id_text, listed, plain_text, short_text
from persona.formats.times import normalise_time
from persona.records import Record, check_user_id

FIELDS = ("user_id", "text", "target", "time", "id", "metadata", "role", "speaker", "expires")
"""All fields of a row."""
NEEDED = ("user_id", "text")
"""The fields that a row must have."""


def check_fields(names: Iterable[str]) -> None:
    """Check the fields of a row or the columns of a table.

    Raises:
        DataFormatError: if one of `NEEDED` is missing or one is not of `FIELDS`.
    """
    names = list(names)
    check_present(names, NEEDED, "a row")
    surplus = [name for name in names if name not in FIELDS]
    if surplus:
        raise DataFormatError(
            f"a row may have {', '.join(FIELDS)}, and has {listed(surplus)}: rename, drop or move it to `metadata`"
        )


def record_of(row: Mapping[str, object]) -> tuple[str, Record] | None:
    """User id and record of a row whose fields are checked; None if the text is null or blank.

    A number as target, id or metadata becomes its text. A float NaN is a missing value: tables have such gaps.

    Raises:
        DataFormatError: if a field is of the wrong type, or a time is not a date.
        InvalidUserIdError: if the user id is not a legal id.
    """
    given = {name: value for name, value in row.items() if not _is_missing(value)}
    if "user_id" not in given:
        raise DataFormatError("`user_id` must be a string or an integer, was: null")
    user_id = check_user_id(id_text(given["user_id"], "user_id"))
    text = plain_text(given.get("text", ""), "text")
    if not text.strip():
        return None
    return user_id, Record(
        text,
        target=short_text(given["target"], "target") if "target" in given else None,
        time=normalise_time(given.get("time")),
        id=id_text(given["id"], "id") if "id" in given else "",
        metadata=_metadata(given.get("metadata")),
        role=plain_text(given["role"], "role") if "role" in given else None,
        speaker=plain_text(given["speaker"], "speaker") if "speaker" in given else None,
        expires=normalise_time(given.get("expires")),
    )


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)  # so does an Arrow map come
    if not isinstance(value, Mapping):
        raise DataFormatError(f"`metadata` must be an object, was: {described(value)}")
    return {
        plain_text(name, "metadata"): short_text(content, f"metadata.{listed([name])}")
        for name, content in value.items()
        if not _is_missing(content)
    }


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
