"""BM25: equal to rank_bm25 to the last bit, equal to a sum done by hand, alike from text and from the store's index."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from persona.errors import DataFormatError, InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers import bm25 as bm25_module
from persona.retrievers import score_index
from persona.retrievers.bm25 import BM25Retriever, LampBM25Retriever, TermRetriever
from persona.retrievers.cache import ByteBoundedCache
from persona.retrievers.indexing import build_indexes
from persona.retrievers.score_index import ScoreIndex, read_fingerprint
from persona.retrievers.term_counts import TermCounts
from persona.store.profile_store import ProfileStore, StoredIndex


def profile_of(*texts: str, user_id: str = "ana", revision: int = 0) -> Profile:
    records = tuple(Record(text, id=str(number)) for number, text in enumerate(texts))
    return Profile(user_id, records, revision)


class OneIndex:
    """A store that holds one index, for whoever asks."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.reads = 0

    def index(self, user_id: str, kind: str) -> object:
        self.reads += 1
        return None if self.data is None else SimpleNamespace(data=self.data)


def stored(kind: type[TermRetriever], data: bytes | None) -> TermRetriever:
    return kind(store=cast(ProfileStore, OneIndex(data)))


def index_bytes(retriever: TermRetriever, profile: Profile) -> bytes:
    index = retriever.index(profile)
    assert index is not None
    return index.to_bytes()


def assert_equals_rank_bm25(texts: list[str], query: str) -> None:
    """Scores to the last bit and rankings for several k, from the text and from an index."""
    peer = BM25Okapi([text.split() for text in texts])
    profile = profile_of(*texts, revision=1)
    scores = peer.get_scores(query.split())
    fresh = LampBM25Retriever()
    kept = stored(LampBM25Retriever, index_bytes(fresh, profile))
    for retriever in (fresh, kept):
        assert retriever.scores(profile, query).tolist() == scores.tolist()
        for k in (1, 4, len(texts), len(texts) + 5):
            expected = peer.get_top_n(query.split(), list(profile), n=k)
            found = retriever.retrieve(profile, query, k)
            assert [one.record.id for one in found] == [record.id for record in expected]


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
    assert [int(one.record.id) for one in found] == [40, *range(80, 40, -1), *range(39, -1, -1)]


def test_records_without_a_word() -> None:
    profile = profile_of("!!!", "...", "?")
    found = BM25Retriever().retrieve(profile, "anything", 3)
    assert [(one.record.id, one.score) for one in found] == [("2", 0.0), ("1", 0.0), ("0", 0.0)]
    index = index_bytes(BM25Retriever(), profile)
    assert stored(BM25Retriever, index).retrieve(profile_of("!!!", "...", "?", revision=1), "anything", 3) == found


def test_a_query_may_hold_what_no_record_can() -> None:
    profile = profile_of("a b", "b c", revision=1)
    for kind in (LampBM25Retriever, BM25Retriever):
        kept = stored(kind, index_bytes(kind(), profile))
        for query in ("\ud800", "a \udfff", "a\x00b", "\x00"):
            assert kept.scores(profile, query).tolist() == kind().scores(profile, query).tolist()


def test_term_counts_of_the_example() -> None:
    counted = TermCounts.from_tokens([["b", "a", "b"], ["a"]])
    assert counted.places == {"b": 0, "a": 1}
    assert counted.firsts.tolist() == [0, 1]
    assert counted.bounds.tolist() == [0, 1, 3]
    assert counted.records.tolist() == [0, 0, 1]
    assert counted.counts.tolist() == [2, 1, 1]
    assert counted.lengths.tolist() == [3, 1]
    assert counted.find(["a", "x", "b", "a"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind", [LampBM25Retriever, BM25Retriever])
def test_the_index_is_what_is_ranked_by(kind: type[TermRetriever]) -> None:
    """An index of twice the weights, put where the true one belongs, doubles the scores: it is read, not the text."""
    profile = profile_of("snow film", "quiet snow night", "day", revision=5)
    index = kind().index(profile)
    assert index is not None
    hashes = [key for key in index.keys if key != 2**64 - 1]
    at = np.frombuffer(index.postings, [("weight", "f8"), ("record", "u2")])
    size = at.itemsize
    frequencies = [(end - start) // size for start, end in zip(index.starts, index.starts[1:], strict=False)]
    doubled = ScoreIndex.build(
        index.fingerprint,
        np.array(hashes, np.uint64),
        np.array([frequency for frequency in frequencies if frequency]),
        at["record"],
        2 * at["weight"],
        index.n_records,
    )
    assert doubled is not None
    scores = stored(kind, doubled.to_bytes()).scores(profile, "quiet snow")
    assert scores.tolist() == (2 * kind().scores(profile, "quiet snow")).tolist()
    assert scores.any()


def test_an_index_is_read_once_and_kept() -> None:
    profile = profile_of("snow film", "night", revision=1)
    store = OneIndex(index_bytes(LampBM25Retriever(), profile))
    retriever = LampBM25Retriever(store=cast(ProfileStore, store))
    for _ in range(5):
        retriever.retrieve(profile, "snow", 1)
    assert store.reads == 1


def test_without_a_cache_the_store_is_read_for_each_query() -> None:
    profile = profile_of("snow film", "night", revision=1)
    store = OneIndex(index_bytes(LampBM25Retriever(), profile))
    retriever = LampBM25Retriever(store=cast(ProfileStore, store), cache_bytes=0)
    for _ in range(3):
        assert retriever.retrieve(profile, "snow", 2) == LampBM25Retriever().retrieve(profile, "snow", 2)
    assert store.reads == 3
    with pytest.raises(InvalidOptionError, match="`cache_bytes` must be at least 0, was: -1"):
        LampBM25Retriever(cache_bytes=-1)


def test_an_index_that_is_missing_is_made_once() -> None:
    profile = profile_of("snow film", "night", "day", revision=1)
    store = OneIndex(None)
    retriever = LampBM25Retriever(store=cast(ProfileStore, store))
    for _ in range(5):
        assert retriever.retrieve(profile, "snow", 3) == LampBM25Retriever().retrieve(profile, "snow", 3)
    assert store.reads == 1


def test_an_index_of_other_texts_rules_or_view_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    old = profile_of("snow film", "night", "day", revision=1)
    new = profile_of("snow film", "night", "snow", revision=1)
    data = index_bytes(LampBM25Retriever(), old)
    expected = LampBM25Retriever().retrieve(new, "snow", 3)
    assert stored(LampBM25Retriever, data).retrieve(new, "snow", 3) == expected
    assert not LampBM25Retriever().is_current(data, new)
    assert LampBM25Retriever().is_current(data, old)
    assert not BM25Retriever().is_current(data, old)
    monkeypatch.setattr(LampBM25Retriever, "rules", "okapi-2")
    assert not LampBM25Retriever().is_current(data, old)


def test_texts_are_told_apart_from_their_concatenation() -> None:
    data = index_bytes(LampBM25Retriever(), profile_of("a b", "c"))
    assert not LampBM25Retriever().is_current(data, profile_of("a", "b c"))
    assert not LampBM25Retriever().is_current(data, profile_of("a b c"))


def test_a_damaged_index_changes_no_ranking() -> None:
    """Every byte altered, every length cut: each time the index is refused, and the text ranked."""
    profile = profile_of("snow film", "quiet snow night", "day", revision=1)
    data = index_bytes(LampBM25Retriever(), profile)
    expected = LampBM25Retriever().scores(profile, "quiet snow").tolist()
    altered = [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in range(len(data))]
    cut = [data[:length] for length in range(len(data))]
    for bad in (*altered, *cut, data + b"\0", b"", b"\x80\x04pickle"):
        with pytest.raises(DataFormatError, match="a stored index must be whole and of the format PRSNIDX3"):
            ScoreIndex.from_bytes(bad)
        assert stored(LampBM25Retriever, bad).scores(profile, "quiet snow").tolist() == expected


def test_reading_an_index_takes_its_bytes_in_place_and_gives_them_back() -> None:
    data = index_bytes(BM25Retriever(), profile_of("snow film", "quiet snow night"))
    index = ScoreIndex.from_bytes(data)
    assert index.to_bytes() == data
    assert read_fingerprint(data) == index.fingerprint
    for view in (index.keys, index.starts, index.postings):
        assert view.obj is data
        assert view.readonly


def test_a_word_is_found_at_its_home_or_soon_behind_it() -> None:
    """Each hash stands at the place that its first bits name or behind those that are smaller, with gaps between."""
    index = LampBM25Retriever().index(profile_of(*(f"w{number} w{number + 1}" for number in range(3000))))
    assert index is not None
    keys, gap = index.keys.tolist(), 2**64 - 1
    hashes = [key for key in keys if key != gap]
    assert hashes == sorted(score_index.term_hashes([f"w{number}" for number in range(3001)]))
    homes = {key: key >> index.shift for key in hashes}
    steps = []
    for place, key in enumerate(keys):
        if key != gap:
            steps.append(place - homes[key])
            assert gap not in keys[homes[key] : place]
    assert min(steps) == 0
    assert sum(steps) / len(steps) < 2
    assert keys[-1] == gap


@pytest.mark.parametrize("hashes", [[], [0], [0, 1, 2, 3], [2**64 - 3, 2**64 - 2], [0, 2**63, 2**64 - 2]])
def test_hashes_at_the_ends_are_found(hashes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and last home, hashes that crowd there, and words that are absent on either side."""
    numbers = np.arange(len(hashes))
    index = ScoreIndex.build(b"f" * 16, np.array(hashes, np.uint64), numbers + 1, numbers.repeat(numbers + 1),
                             np.ones((numbers + 1).sum()), len(hashes))  # fmt: skip
    assert index is not None
    absent = [number for number in (0, 1, 5, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1) if number not in hashes]
    monkeypatch.setattr(score_index, "term_hashes", lambda tokens: tokens)
    for number, one in enumerate(hashes):
        expected = np.zeros(len(hashes))
        expected[number] = number + 1
        assert index.score([*absent, one]).tolist() == expected.tolist()  # type: ignore[list-item]
    assert index.score(absent).tolist() == [0.0] * len(hashes)  # type: ignore[arg-type]


def test_more_records_than_16_bits_can_number() -> None:
    profile = profile_of(*(f"w{number}" for number in range(2**16 + 1)), revision=1)
    data = index_bytes(LampBM25Retriever(), profile)
    assert ScoreIndex.from_bytes(data).width == 4
    kept = stored(LampBM25Retriever, data)
    for number in (0, 2**16 - 1, 2**16):
        assert kept.retrieve(profile, f"w{number}", 1)[0].record is profile[number]


def test_words_with_one_hash_are_not_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = profile_of("snow film", "quiet snow night", "day", revision=1)
    expected = LampBM25Retriever().retrieve(profile, "snow", 3)
    monkeypatch.setattr(bm25_module, "term_hashes", lambda tokens: [len(token) for token in tokens])
    assert LampBM25Retriever().index(profile) is None
    assert stored(LampBM25Retriever, None).retrieve(profile, "snow", 3) == expected
    # As a gap is marked with the greatest hash, no term may have it.
    monkeypatch.setattr(bm25_module, "term_hashes", lambda tokens: [2**64 - 1 - place for place in range(len(tokens))])
    assert LampBM25Retriever().index(profile) is None


def test_hashes_are_those_of_the_format() -> None:
    """The format names XXH3 over UTF-8; these values are from its reference implementation (xxhsum -H3)."""
    assert score_index.term_hashes([""]) == [0x2D06800538D394C2]


def test_the_cache_forgets_what_was_used_least_recently() -> None:
    cache = ByteBoundedCache[str](100)
    for key in "abc":
        cache.put(key, key.upper(), 40)
    assert [cache.get(key) for key in "abc"] == [None, "B", "C"]
    cache.get("b")
    cache.put("d", "D", 20)
    cache.put("e", "E", 30)
    assert [cache.get(key) for key in "bcde"] == ["B", None, "D", "E"]
    cache.put("b", "B2", 10)
    assert (len(cache), cache.n_bytes, cache.get("b")) == (3, 60, "B2")
    cache.put("b", "too big", 101)
    assert (len(cache), cache.n_bytes, cache.get("b")) == (2, 50, None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path_factory.mktemp('bm25') / 'persona.db'}") as opened:
        yield opened


def test_build_indexes_makes_what_is_missing_or_stale(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"user {number}" for number in range(6)]
    store.upsert((user, Record(f"snow for {user}")) for user in users)
    assert build_indexes(store) == 6
    assert build_indexes(store) == 0
    store.upsert([("user 2", Record("more snow"))])
    assert build_indexes(store) == 1
    assert (
        build_indexes(store, ["user 1", "user 2", "nobody"], [LampBM25Retriever(), BM25Retriever("target+text")]) == 4
    )
    assert store.counts().indexes == 10
    monkeypatch.setattr(BM25Retriever, "rules", "plus-2")
    assert build_indexes(store) == 6


def test_build_indexes_writes_in_chunks(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"chunked {number}" for number in range(5)]
    store.upsert((user, Record(f"snow for {user}")) for user in users)
    batches: list[int] = []

    def put(batch: list[StoredIndex]) -> int:
        batches.append(len(batch))
        return len(batch)

    monkeypatch.setattr(store, "put_indexes", put)
    monkeypatch.setattr("persona.retrievers.indexing.CHUNK_BYTES", 200)
    assert build_indexes(store, users) == 5
    assert len(batches) > 1
    assert sum(batches) == 5


def test_a_profile_of_the_store_is_ranked_by_its_index_and_alike(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    words = [f"w{number}" for number in range(40)]
    store.upsert(("zoe", Record(" ".join(draw.choices(words, k=12)), id=str(number))) for number in range(60))
    kinds: list[type[Any]] = [LampBM25Retriever, BM25Retriever]
    build_indexes(store, ["zoe"], [kind() for kind in kinds])
    profile = store.profile("zoe")
    for kind in kinds:
        expected = kind().retrieve(profile, "w1 w2 w3 w3", 60)
        with monkeypatch.context() as patch:
            patch.setattr(TermCounts, "from_tokens", lambda tokens: pytest.fail("the text was read"))
            assert kind(store=store).retrieve(profile, "w1 w2 w3 w3", 60) == expected
