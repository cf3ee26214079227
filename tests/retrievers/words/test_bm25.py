"""BM25: equal to rank_bm25 to the last bit, and equal to a sum done by hand."""

from __future__ import annotations

import gzip
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from persona.records import Profile, Record
from persona.retrievers.words.bm25 import BM25Retriever, LampBM25Retriever, TermCounts, TermRetriever
from tests.retrievers.cases import ids


def profile_of(*texts: str) -> Profile:
    return Profile("ana", tuple(Record(text, id=str(number)) for number, text in enumerate(texts)))


def assert_equals_rank_bm25(texts: list[str], query: str) -> None:
    """Scores to the last bit, and rankings for several k."""
    peer = BM25Okapi([text.split() for text in texts])
    profile = profile_of(*texts)
    retriever = LampBM25Retriever()
    assert retriever.scores(profile, query).tolist() == peer.get_scores(query.split()).tolist()
    for k in (1, 4, len(texts), len(texts) + 5):
        expected = peer.get_top_n(query.split(), list(profile), n=k)
        assert ids(retriever.retrieve(profile, query, k)) == [record.id for record in expected]


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 18, 64, 200, 300])
@pytest.mark.parametrize("vocabulary", [1, 3, 30, 1000])
def test_equals_rank_bm25_ties_included(size: int, vocabulary: int) -> None:
    draw = random.Random(f"{size} {vocabulary}")

    def text(longest: int) -> str:
        return " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(draw.randint(1, longest)))

    for longest in (1, 4, 40):
        texts = [text(longest) for _ in range(size)]
        for query in (text(3), text(25), "w0", "nothing in common", ""):
            assert_equals_rank_bm25(texts, query)


_WORDS = st.lists(
    st.sampled_from(["a", "b", "the", "The", "the,", "é", "e\u0301", "東京", "❤️"]), min_size=1, max_size=8
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(_WORDS, min_size=1, max_size=24), query=_WORDS)
def test_equals_rank_bm25_on_any_profile(texts: list[list[str]], query: list[str]) -> None:
    assert_equals_rank_bm25([" \u2003\n".join(words) for words in texts], "\t".join(query))


@pytest.mark.shared
def test_equals_rank_bm25_on_real_profiles(shared: Path) -> None:
    questions = json.loads((shared / "data/lampstyle/LaMP_3_film/dev_questions.json").read_text())[:60]
    for question in questions:
        assert_equals_rank_bm25([entry["text"] for entry in question["profile"]], question["input"])
    posts: dict[str, list[str]] = {}
    with gzip.open(shared / "data/histories/blogs.jsonl.gz", "rt") as lines:
        for line, _ in zip(lines, range(1500), strict=False):
            post = json.loads(line)
            posts.setdefault(post["user_id"], []).append(post["text"])
    long_enough = [texts for texts in posts.values() if len(texts) > 1]
    assert long_enough
    for texts in long_enough:
        assert_equals_rank_bm25(texts[:-1], texts[-1])


def test_a_word_in_most_records_gets_a_quarter_of_the_mean_idf() -> None:
    texts = ["the cat", "the dog", "the owl"]
    rare, common = math.log(2.5) - math.log(1.5), math.log(0.5) - math.log(3.5)
    assert common < 0
    floor = 0.25 * ((common + rare + rare + rare) / 4)
    expected = floor * (1 * 2.5 / (1 + 1.5)) + rare * (1 * 2.5 / (1 + 1.5))
    assert LampBM25Retriever().scores(profile_of(*texts), "the owl").tolist()[2] == pytest.approx(expected, rel=1e-15)


def test_bm25_plus_by_hand() -> None:
    """Three records of 4, 2 and 3 words (mean 3), k1 1.5, b 0.75, delta 1: equation 3 of Lv and Zhai with pencil."""
    profile = profile_of("snow snow quiet film", "quiet night", "one two three")
    snow, quiet = math.log(4 / 1), math.log(4 / 2)
    long, short = 1.5 * (0.25 + 0.75 * 4 / 3), 1.5 * (0.25 + 0.75 * 2 / 3)
    assert (long, short) == (1.875, 1.125)
    expected = [
        snow * (2 * 2.5 / (2 + 1.875) + 1) + quiet * (1 * 2.5 / (1 + 1.875) + 1),
        quiet * (1 * 2.5 / (1 + 1.125) + 1),
        0.0,
    ]
    assert BM25Retriever().scores(profile, "Snow, quiet!").tolist() == pytest.approx(expected, rel=1e-14)


def test_a_word_said_twice_in_the_query_counts_twice() -> None:
    profile = profile_of("snow film", "night", "day")
    once, twice = (BM25Retriever().scores(profile, query)[0] for query in ("snow", "snow snow"))
    assert twice == 2 * once > 0


def test_bm25_plus_prefers_a_match_in_the_smallest_profiles() -> None:
    """Where the official one cannot: of two records its mean idf is zero, and a word of both has a negative idf."""
    profile = profile_of("a quiet thriller", "a loud comedy")
    assert BM25Retriever().retrieve(profile, "thriller", 1)[0].record is profile[0]
    assert LampBM25Retriever().scores(profile, "thriller").tolist() == [0.0, 0.0]


def test_bm25_plus_gives_equal_scores_newest_first() -> None:
    profile = profile_of(*["same"] * 40, "other", *["same"] * 40)
    found = BM25Retriever().retrieve(profile, "other", 81)
    assert [int(scored.record.id) for scored in found] == [40, *range(80, 40, -1), *range(39, -1, -1)]


def test_records_without_a_word() -> None:
    profile = profile_of("!!!", "...", "?")
    found = BM25Retriever().retrieve(profile, "anything", 3)
    assert [(scored.record.id, scored.score) for scored in found] == [("2", 0.0), ("1", 0.0), ("0", 0.0)]


@pytest.mark.parametrize("kind", [LampBM25Retriever, BM25Retriever])
def test_a_query_may_hold_what_no_record_can(kind: type[TermRetriever]) -> None:
    profile = profile_of("a b", "b c")
    for query, same in (("\ud800", ""), ("a \udfff", "a"), ("\x00", "")):
        assert kind().scores(profile, query).tolist() == kind().scores(profile, same).tolist()


def test_term_counts_of_the_example() -> None:
    counted = TermCounts.from_tokens([["b", "a", "b"], ["a"]])
    assert counted.numbers == {"b": 0, "a": 1}
    assert counted.bounds.tolist() == [0, 1, 3]
    assert counted.frequencies.tolist() == [1, 2]
    assert counted.records.tolist() == [0, 0, 1]
    assert counted.counts.tolist() == [2, 1, 1]
    assert counted.lengths.tolist() == [3, 1]


@pytest.mark.parametrize("kind", [LampBM25Retriever, BM25Retriever])
def test_the_words_of_a_profile_are_counted_once(kind: type[TermRetriever], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are kept by the texts: a changed profile or a part of one is counted anew, whatever its revision says."""
    whole, changed = profile_of("snow film", "night", "day"), profile_of("snow film", "night", "snow")
    part = replace(whole, records=whole.records[:2])
    expected = {asked.records: ids(kind().retrieve(asked, "snow", 3)) for asked in (whole, part, changed)}
    counted: list[str] = []
    cut = kind.tokens

    def counting(self: TermRetriever, text: str) -> list[str]:
        counted.append(text)
        return cut(self, text)

    monkeypatch.setattr(kind, "tokens", counting)
    retriever = kind()
    for asked, times in ((whole, 4), (whole, 1), (part, 3), (changed, 4), (whole, 1)):  # the query is cut each time
        again = replace(asked, records=tuple(map(replace, asked.records)))
        assert ids(retriever.retrieve(again, "snow", 3)) == expected[asked.records]
        assert len(counted) == times
        counted.clear()
