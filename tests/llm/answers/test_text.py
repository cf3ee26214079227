"""What of an answer's text is the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.llm.answers.text import THINKING, answer_text, opened_thinking, settled_text, without_thinking
from persona.protocols import GenerationOptions

PLAIN, RAW = GenerationOptions(), GenerationOptions(raw=True)

PIECES = st.sampled_from(
    [
        *(part for pair in THINKING for part in pair),
        "**",
        "*",
        "_",
        "__",
        "5",
        "a b",
        " ",
        "\n",
        "Stop",
        "St",
        ".",
        "<th",
    ]
)
WRITTEN = st.lists(PIECES, max_size=12).map("".join)
OPTIONS = st.builds(GenerationOptions, stop=st.sampled_from([(), ("Stop",), ("\n", "5.")]), raw=st.booleans())
ENDS = st.sampled_from([None, "</think>", "[/THINK]"])


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>Perhaps 2? No.</think>\n\n4", "4"),
        ("  <think>\n</think>\n\n**4**", "4"),
        ("[THINK]2?[/THINK]4", "4"),
        ("◁think▷2?◁/think▷4", "4"),
        ("<|channel|>analysis<|message|>2?<|end|><|start|>assistant<|channel|>final<|message|>4", "4"),
        ("<|channel|>final<|message|>4", "4"),
        ("Perhaps 2?\n</think>\n\n4", "4"),
        ("<think>2?</think><think>3?</think> 4", "4"),
        ("<think>Perhaps 2? No, it", ""),
        ("<|channel|>analysis<|message|>The answer", ""),
        ("**5**", "5"),
        ("***5***\n", "5"),
        ("_not bad_", "not bad"),
        ("**Dark comedy**", "Dark comedy"),
    ],
)
def test_thinking_and_emphasis_go(written: str, answer: str) -> None:
    assert answer_text(written, PLAIN) == answer
    assert answer_text(written, RAW) == written


@pytest.mark.parametrize(
    "written",
    [
        "",
        " 5 ",
        "4 stars **at least**",
        "**Yes** and **no**",
        "* one\n* two",
        "*one\ntwo*",
        "__init__",
        "_name_",
        "2 * 3 * 4",
        "`5`",
        "the tag </think> ends it",
        "it opens with <think> and",
        "a\n\nb\n",
    ],
)
def test_an_answer_that_has_none_stays_as_it_is(written: str) -> None:
    assert answer_text(written, PLAIN) == answer_text(written, RAW) == written


def test_thinking_that_the_prompt_has_opened() -> None:
    assert opened_thinking("...<|assistant|>\n<think>\n") == "</think>"
    assert opened_thinking("...<think>\n\n</think>\n\n") is None
    assert answer_text("2? no. </think> 4", PLAIN, thinking_end="</think>") == "4"
    assert answer_text("2? no.", PLAIN, thinking_end="</think>") == ""
    assert without_thinking("2? no.</think>4", "</think>") == "4"


def test_an_answer_ends_before_the_first_stop_string_behind_its_thinking() -> None:
    options = GenerationOptions(stop=("\n", "Review:"))
    assert answer_text("4 Review: good\n5", options) == "4 "
    assert answer_text("<think>a\nb\n</think>\n\n4\n5", options) == "4"
    assert answer_text("**4**\nbecause", options) == "4"
    raw = GenerationOptions(stop=("Stop",), raw=True)
    assert answer_text("<think>Stop</think>**4** Stop", raw) == "<think>Stop</think>**4** "


@given(WRITTEN, OPTIONS, ENDS)
def test_it_changes_nothing_twice(written: str, options: GenerationOptions, end: str | None) -> None:
    once = answer_text(written, options, thinking_end=end)
    if not options.raw:
        assert answer_text(once, options) == once


@given(st.text(alphabet="ab5 .\n", max_size=20))
def test_text_without_marks_is_never_changed(written: str) -> None:
    assert answer_text(written, PLAIN) == written


@settings(max_examples=300)
@given(WRITTEN, OPTIONS, ENDS, st.integers(0, 40))
def test_what_is_settled_stays(written: str, options: GenerationOptions, end: str | None, length: int) -> None:
    begun = settled_text(written[:length], options, thinking_end=end)
    lone_end = any(line.strip() in dict(THINKING).values() for line in written.split("\n"))
    if not lone_end or options.raw:  # whatever was written before a lone end of thinking turns out to be thinking
        assert answer_text(written, options, thinking_end=end).startswith(begun)


def test_a_stream_shows_no_thinking_and_no_stop_string_and_does_not_lag() -> None:
    options = GenerationOptions(stop=("Stop",))
    written = "<think>Stop? 2?</think>\n\n4 or 5 S Stop"
    seen = [settled_text(written[:length], options) for length in range(len(written) + 1)]
    assert set(seen) == {"", "4", "4 o", "4 or", "4 or 5", "4 or 5 S"}
    assert settled_text("5 * 3", options) == "5 * 3"
    assert settled_text("**5", options) == settled_text("**5**", options) == ""
    assert settled_text("**5** of", options) == "**5** of"
