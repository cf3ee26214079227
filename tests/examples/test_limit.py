"""LIMIT-style corpora: their form, and the published numbers from a generated twin."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest

from examples.limit import FIRST_NAMES, LAST_NAMES, LIKES, THINGS, LimitCorpus, fewest_documents, make_limit, run_limit
from persona.errors import InvalidOptionError
from persona.retrievers.registry import make_retrievers


def likes(text: str) -> list[str]:
    listed = text.partition(" likes ")[2].removesuffix(".")
    return re.split(r", | and ", listed)


@pytest.mark.parametrize(
    ("queries", "relevant", "n"), [(1000, 2, 46), (1035, 2, 46), (1036, 2, 47), (1, 2, 2), (5, 1, 5)]
)
def test_the_fewest_documents(queries: int, relevant: int, n: int) -> None:
    assert fewest_documents(queries, relevant) == n


def test_things_are_different_and_none_holds_a_separator() -> None:
    assert len(THINGS) == len(set(THINGS)) >= 1300
    assert not [thing for thing in THINGS if "," in thing or " and " in thing or " likes " in thing]
    assert len(set(FIRST_NAMES)) * len(set(LAST_NAMES)) >= 20_000


@pytest.mark.parametrize(("documents", "queries", "relevant"), [(46, 1000, 2), (200, 300, 2), (20, 40, 3), (8, 8, 1)])
def test_who_is_right_is_who_likes_it(documents: int, queries: int, relevant: int) -> None:
    corpus = make_limit(documents, queries, relevant, seed=1)
    assert (len(corpus.documents), len(corpus.queries)) == (documents, queries)
    liked = {name: set(likes(text)) for name, text in corpus.documents.items()}
    assert {len(things) for things in liked.values()} <= {LIKES, *range(LIKES, 120)}
    for query, right in zip(corpus.queries, corpus.relevant, strict=True):
        thing = query.removeprefix("Who likes ").removesuffix("?")
        assert {name for name, things in liked.items() if thing in things} == right
        assert len(right) == relevant
    assert len(set(corpus.relevant)) == queries  # no two questions have the same people
    carriers = set().union(*corpus.relevant)
    assert len(carriers) == fewest_documents(queries, relevant)


def test_all_pairs_but_a_few_are_asked_for() -> None:
    corpus = make_limit()
    assert len(set(corpus.relevant)) == 1000
    assert math.comb(46, 2) == 1035


def test_a_seed_is_a_corpus() -> None:
    assert make_limit(seed=3) == make_limit(seed=3)
    assert make_limit(seed=3).queries != make_limit(seed=4).queries


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": 45}, "need at least 46 documents, .* was: 45"),
        ({"queries": 5000}, "`queries` must be at most"),
        ({"documents": 10**6}, "there are names for [0-9]+, was: 1000000"),
        ({"relevant": 0}, "`relevant` must be at least 1, was: 0"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        make_limit(**options)


def twelve_line_bm25(corpus: LimitCorpus, depth: int) -> float:
    """Okapi BM25 on lower-case words, written for this test alone; recall at `depth`."""
    texts = {name: re.findall(r"\w+", text.lower()) for name, text in corpus.documents.items()}
    counts = {name: Counter(words) for name, words in texts.items()}
    frequency = Counter(word for words in counts.values() for word in words)
    average = sum(map(len, texts.values())) / len(texts)
    hits = 0.0
    for query, right in zip(corpus.queries, corpus.relevant, strict=True):
        scores = dict.fromkeys(texts, 0.0)
        for word in re.findall(r"\w+", query.lower()):
            idf = math.log(1 + (len(texts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            for name in texts:
                tf = counts[name][word]
                scores[name] += idf * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * len(texts[name]) / average))
        hits += len(right & set(sorted(scores, key=lambda name: -scores[name])[:depth])) / len(right)
    return hits / len(corpus.queries)


def test_the_published_numbers_from_a_generated_twin() -> None:
    """Row 59 of docs/papers.md: 46 documents, 1,000 queries; BM25's recall@2 is 0.99 and its recall@10 is 1.0."""
    corpus = make_limit()
    assert twelve_line_bm25(corpus, 2) == pytest.approx(0.991, abs=0.006)
    assert twelve_line_bm25(corpus, 10) >= 0.999
    (row,) = run_limit(corpus, make_retrievers(["bm25"]))
    assert row.recall[2] == pytest.approx(0.991, abs=0.006)
    assert row.recall[10] >= 0.999
    assert row.recall[100] == 1.0
    assert row.exact >= 0.98


@pytest.mark.slow
def test_one_vector_breaks_where_words_and_many_vectors_do_not() -> None:
    """A part of the small set; the whole is in docs/results/retrieval.md."""
    from persona.encoders.load import load_encoder

    whole = make_limit()
    part = LimitCorpus(whole.documents, whole.queries[:40], whole.relevant[:40])
    names = ("bm25", "dense", "late_interaction")
    rows = run_limit(part, make_retrievers(names, encoder=load_encoder("minilm")))
    recall = {row.method: row.recall[2] for row in rows}
    assert recall["dense"] < 0.4
    assert recall["late_interaction"] > 0.9
    assert recall["bm25"] > 0.95


def test_progress_is_reported_by_retriever() -> None:
    stages: list[tuple[str, int, int]] = []
    retrievers = make_retrievers(["bm25", "recency"])
    rows = run_limit(make_limit(12, 30, 2, seed=5), retrievers, progress=lambda *stage: stages.append(stage))
    assert [row.method for row in rows] == ["bm25", "recency"]
    assert rows[0].recall[2] > 0.9 > rows[1].recall[2]
    assert stages == [("bm25", 30, 30), ("recency", 30, 30)]
