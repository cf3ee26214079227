"""Personal data by its form (row 61)."""

from __future__ import annotations

import pytest

from persona.prompts.personal_data import personal_data


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ask Ana.Lopez@Example.org.", {"ana.lopez@example.org": "an e-mail address"}),
        ("Call (020) 7946-0958 now", {"02079460958": "a phone number"}),
        ("+442079460958", {"442079460958": "a phone number"}),
        ("4111 1111 1111 1111", {"4111111111111111": "a card number"}),
        ("4111 1111 1111 1112", {"4111111111111112": "a long number"}),
        ("account 123456789", {"123456789": "a long number"}),
        ("on 2026-01-31, 31.1.2026 or in 1999-2003, 1 000 000 people, 3.14159265, version 12.4", {}),
        ("no data at all", {}),
    ],
)
def test_what_has_the_form_of_personal_data(text: str, found: dict[str, str]) -> None:
    assert personal_data(text) == found
