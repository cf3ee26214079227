"""The words of `bm25`, in several scripts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from persona.retrievers.words import tokens
from persona.retrievers.words.tokens import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("?! ... -- «»", []),
        ("Moody, and STYLISH.", ["moody", "and", "stylish"]),
        ("snake_case 4x4 3.5", ["snake_case", "4x4", "3", "5"]),
        ("McQueen's l’homme", ["mcqueen", "s", "l", "homme"]),
        ("state-of-the–art", ["state", "of", "the", "art"]),
        ("Café cafe\u0301 CAFÉ ｃａｆｅ", ["cafe"] * 4),
        ("Straße STRASSE", ["strasse"] * 2),
        ("İstanbul ıstanbul ISTANBUL", ["istanbul"] * 3),
        ("ΣΊΣΥΦΟΣ σίσυφος", ["σισυφοσ"] * 2),
        ("ещё еще", ["еще"] * 2),
        ("ﬁne x² №", ["fine", "x2", "no"]),
        ("per\u00adsonal", ["personal"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("سلام دنیا", ["سلام", "دنيا"]),
        ("قَرَأْتُ كِتَابًا", ["قرات", "كتابا"]),
        ("أحمد احمد إحمد آحمد ٱحمد", ["احمد"] * 5),
        ("عليـــكم عليكم", ["عليكم"] * 2),
        ("الدورى الدوري", ["الدوري"] * 2),
        ("كتاب خوبي کتاب خوبی", ["كتاب", "خوبي"] * 2),
        ("ہے ھے", ["هي"] * 2),
        ("קָרָאתִי סֵפֶר ספר", ["קראתי", "ספר", "ספר"]),
        ("Łódź lodz øre đak", ["lodz", "lodz", "ore", "dak"]),
        ("٢٠٢٤ ۲۰۲۴ २०२४ 2024", ["2024"] * 4),
        ("東京", ["東", "東京", "京"]),
        ("私はTokyoへ", ["私", "私は", "は", "tokyo", "へ"]),
        ("ｶﾞ ガ", ["ガ"] * 2),
        ("한국어", ["한", "한국", "국", "국어", "어"]),
        ("不", ["不"]),
        ("great ❤️ ❤", ["great", "❤", "❤"]),
        ("👍🏽👍", ["👍", "👍"]),
        ("👩\u200d🚀", ["👩", "🚀"]),
        ("good⭐film", ["good", "⭐", "film"]),
        ("\u0301\u0301a", ["a"]),
        ("a\x00b", ["a", "b"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_word_keeps_its_marks_in_every_script() -> None:
    """A letter with any combining mark of Unicode is one word: no mark is missing from the list."""
    broken = [
        mark
        for mark in map(chr, range(0x110000))
        if unicodedata.category(mark) in ("Mn", "Mc")
        and ord(mark) < 0xE0000  # tags and variation selectors, which stand in no word
        and len(words(f"ß{mark}ß")) != 1
        and not 0x1000 <= ord(mark) <= 0x109F  # Thai, Lao, Myanmar and Khmer come in characters
        and not 0x0E00 <= ord(mark) <= 0x0EFF
        and not 0x1780 <= ord(mark) <= 0x17FF
        and not 0x3000 <= ord(mark) <= 0x30FF  # the kana's voicing marks likewise
    ]
    assert broken == []


@given(st.text())
def test_the_short_cuts_change_nothing(text: str) -> None:
    assert words(text) == list(tokens._folded_words(text))


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_the_short_cut_for_ascii_changes_nothing(text: str) -> None:
    assert words(text) == list(tokens._folded_words(text))


def test_typographic_punctuation_ends_a_word() -> None:
    listed = [character for character in map(chr, range(0x110000)) if tokens._PUNCTUATION.match(character)]
    assert len(listed) > 80
    assert all(list(tokens._folded_words(f"a{character}b")) == ["a", "b"] for character in listed)


@example("0\u0e33")  # Thai, and in its normal form a digit, a mark and a vowel
@given(st.text(alphabet=st.characters(categories=["L", "N", "Z", "P", "S"])))
def test_words_are_words(text: str) -> None:
    """What is a word stays one."""
    for word in words(text):
        assert word in words(word)


@given(st.text())
def test_case_and_normal_form_make_no_difference(text: str) -> None:
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) == words(text)
    assert words(text.casefold()) == words(text)
