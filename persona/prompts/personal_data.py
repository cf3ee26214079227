"""Personal data in a text, found by its form: e-mail addresses, phone and card numbers, other long numbers.

>>> sorted(personal_data("Write to ana@example.org or +44 20 7946 0958 by 2026-01-31.").items())
[('442079460958', 'a phone number'), ('ana@example.org', 'an e-mail address')]

Dates, spans of years, decimals and numbers in groups of three are none. Names have no form and are not found.
"""

from __future__ import annotations

import re

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"(?<![\w.])(?:\+|\()?\d(?:[ ().\-/]{0,2}\d){6,}(?!\w)")
_NO_NUMBER = re.compile(
    r"\d{4}([-/.])\d\d?\1\d\d?|\d\d?([-/.])\d\d?\2\d{4}|\d{4} ?[-/] ?\d{4}|\d{1,3}(?: \d{3})+|\d+\.\d+"
)
_CARD = range(13, 20)
_PHONE = range(7, 16)


def personal_data(text: str) -> dict[str, str]:
    """What was found, addresses in lower case and numbers as their digits, each with what it is."""
    found = {match.lower().rstrip("."): "an e-mail address" for match in _EMAIL.findall(text)}
    for match in _NUMBER.finditer(_EMAIL.sub(" ", text)):
        written = match[0]
        digits = re.sub(r"\D", "", written)
        if _NO_NUMBER.fullmatch(written):
            continue
        if len(digits) in _CARD and _passes_luhn(digits):
            found[digits] = "a card number"
        elif len(digits) in _PHONE and written != digits:
            found[digits] = "a phone number"
        else:
            found[digits] = "a long number"
    return found


def _passes_luhn(digits: str) -> bool:
    """Whether the last digit is the checksum of the others (ISO/IEC 7812)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(each - 9 * (each > 9) for each in doubled) % 10 == 0
