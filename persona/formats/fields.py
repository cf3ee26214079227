"""What a field of a foreign file may hold, and the string that it becomes.

>>> short_text(5, "score"), short_text(5.0, "score"), short_text("5 stars", "score")
('5', '5', '5 stars')
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from persona.errors import DataFormatError
from persona.records import unstorable


def plain_text(value: object, name: str) -> str:
    """`value`, which must be a string that a database can store.

    Raises:
        DataFormatError: if it is not. A number is refused too: it is in the wrong column.
    """
    if not isinstance(value, str):
        raise DataFormatError(f"`{name}` must be a string, was: {described(value)}")
    flaw = unstorable(value)
    if flaw:
        raise DataFormatError(f"`{name}` must not hold {flaw}: remove it")
    return value


def short_text(value: object, name: str) -> str:
    """A score, tag or title: a string, or a finite number, which becomes its digits (``5`` also for 5.0).

    Raises:
        DataFormatError: if `value` is neither.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return plain_text(value, name)
    raise DataFormatError(f"`{name}` must be a string or a number, was: {described(value)}")


def number_in(text: str) -> float | None:
    """The finite number that a text is; None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def id_text(value: object, name: str) -> str:
    """An id: a string, or an integer, which becomes its digits (a float may have lost some already).

    Raises:
        DataFormatError: if `value` is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return plain_text(value, name)
    raise DataFormatError(f"`{name}` must be a string or an integer, was: {described(value)}")


def check_present(given: Iterable[object], needed: Iterable[str], what: str) -> None:
    """Check that all `needed` fields are among the `given` ones of `what`, e.g. ``a row``.

    Raises:
        DataFormatError: if one is not; the message lists the given ones.
    """
    given = list(given)
    missing = [field for field in needed if field not in given]
    if missing:
        raise DataFormatError(f"{what} must have `{missing[0]}`, has: {listed(given)}")


def listed(names: Iterable[object]) -> str:
    """Foreign names for an error message: in one line, and not without end."""
    shown = (name if isinstance(name, str) and name.isprintable() else repr(name) for name in names)
    return f"{', '.join(shown) or 'nothing':.200}"


def described(value: object) -> str:
    """`value` for an error message: its beginning and its type."""
    shown = "null" if value is None else f"{value!r:.80}"
    return f"{shown} ({type(value).__name__})"
