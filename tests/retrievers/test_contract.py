"""The contract of every retriever, on profiles made by hand and on those of a store with vectors."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import InvalidOptionError
from persona.protocols import Retriever
from persona.records import Profile, Record
from persona.retrievers import (
    BM25Retriever,
    DenseRetriever,
    DiverseRetriever,
    HybridRetriever,
    KeyValueRetriever,
    LampBM25Retriever,
    MultiInterestRetriever,
    RecencyRetriever,
)
from persona.store.profile_store import ProfileStore
from tests.retrievers.cases import ENCODER, FILMS, MAKERS, READS_A_STORE, fill, ids

_number = count()


@dataclass
class Case:
    """One retriever, and how a profile for it is made: each profile is another user's."""

    retriever: Retriever
    store: ProfileStore | None

    def profile(self, *records: Record) -> Profile:
        user_id = f"user {next(_number)}"
        if isinstance(self.retriever, KeyValueRetriever):  # it knows only what the user did with a text
            records = tuple(replace(record, target=record.target or "kept") for record in records)
        if self.store is None:
            return Profile.from_records(user_id, records)
        fill(self.store, {user_id: records})
        return self.store.profile(user_id)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path_factory.mktemp('retrievers') / 'persona.db'}") as opened:
        yield opened


@pytest.fixture(params=[*MAKERS, *(f"{name} in a store" for name in READS_A_STORE)])
def case(request: pytest.FixtureRequest, store: ProfileStore) -> Case:
    name = request.param.removesuffix(" in a store")
    kept = store if name != request.param else None
    return Case(MAKERS[name](kept), kept)


def test_is_a_retriever(case: Case) -> None:
    assert isinstance(case.retriever, Retriever)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
@pytest.mark.parametrize("size", [0, 4])
def test_k_must_be_a_whole_number_of_at_least_1(case: Case, size: int, k: object) -> None:
    profile = case.profile(*FILMS[:size])
    with pytest.raises(InvalidOptionError, match=r"`k` must be"):
        case.retriever.retrieve(profile, "thriller", k)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match=r"`k` must be"):
        case.retriever.retrieve_batch([profile], ["thriller"], k)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("query", [None, b"thriller"])
def test_a_query_must_be_a_string(case: Case, size: int, query: object) -> None:
    profile = case.profile(*FILMS[:size])
    with pytest.raises(InvalidOptionError, match=r"a query must be a string, was: .* \("):
        case.retriever.retrieve(profile, query, 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="a query must be a string"):
        case.retriever.retrieve_batch([profile], [query], 1)  # type: ignore[list-item]


def test_numpy_integers_are_whole_numbers(case: Case) -> None:
    assert len(case.retriever.retrieve(case.profile(*FILMS), "thriller", np.int64(2))) == 2  # type: ignore[arg-type]


def test_every_record_comes_once_if_k_is_larger_than_the_profile(case: Case) -> None:
    profile = case.profile(*FILMS)
    assert sorted(ids(case.retriever.retrieve(profile, "a quiet thriller", 100))) == sorted(r.id for r in FILMS)


def test_an_empty_profile_has_nothing(case: Case) -> None:
    empty = case.profile()
    assert case.retriever.retrieve(empty, "thriller", 3) == ()
    assert case.retriever.retrieve_batch([empty, empty], ["thriller", ""], 3) == [(), ()]
    assert case.retriever.retrieve_batch([], [], 3) == []


def test_one_record_is_found_by_any_query(case: Case) -> None:
    profile = case.profile(FILMS[0])
    for query in ("thriller", "nothing in common", ""):
        (found,) = case.retriever.retrieve(profile, query, 3)
        assert found.record is profile[0]


def test_equal_texts_are_different_records(case: Case) -> None:
    profile = case.profile(*(Record("the same words", id=str(number)) for number in range(20)))
    found = case.retriever.retrieve(profile, "the same words", 20)
    assert sorted(ids(found), key=int) == [str(number) for number in range(20)]
    if not isinstance(case.retriever, RecencyRetriever | HybridRetriever | MultiInterestRetriever | DiverseRetriever):
        assert len({one.score for one in found}) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_a_record_that_stands_twice_in_a_profile_comes_twice(name: str) -> None:
    profile = Profile("ana", (FILMS[0], FILMS[1], FILMS[0]))
    found = MAKERS[name](None).retrieve(profile, "snow", 9)
    assert sorted(ids(found)) == ["family", "snow", "snow"]


def test_undated_records_are_found_too(case: Case) -> None:
    profile = case.profile(Record("no date, thriller", id="a"), FILMS[0], Record("no date either", id="b"))
    assert sorted(ids(case.retriever.retrieve(profile, "thriller", 3))) == ["a", "b", "snow"]


def test_any_script_and_emoji(case: Case) -> None:
    texts = ["東京は夜の七時", "सुंदर फ़िल्म", "مرحبا بالعالم", "❤️‍🔥👍🏽", "naïve café", "!!!", "\u200b\u0301", "ß" * 300]
    profile = case.profile(*(Record(text, id=str(number)) for number, text in enumerate(texts)))
    for query in [*texts, "夜", "cafe", "\u2028", "🏳️‍🌈"]:
        found = case.retriever.retrieve(profile, query, len(texts))
        assert sorted(ids(found)) == [str(number) for number in range(len(texts))]


@pytest.mark.parametrize("query", ["", "   ", "\n\t", "zzz qqq", "?!"])
def test_a_query_without_a_match_still_gets_k_records(case: Case, query: str) -> None:
    found = case.retriever.retrieve(case.profile(*FILMS), query, 3)
    assert len(set(ids(found))) == 3


def test_records_are_members_of_that_profile(case: Case) -> None:
    profile = case.profile(*FILMS)
    copy = deepcopy(profile)
    for asked in (profile, copy):
        for one in case.retriever.retrieve(asked, "snow thriller", 4):
            assert any(one.record is record for record in asked)


def test_scores_are_finite_and_do_not_rise(case: Case) -> None:
    scores = [one.score for one in case.retriever.retrieve(case.profile(*FILMS), "a thriller in the snow", 4)]
    assert all(type(score) is float and math.isfinite(score) for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_fewer_records_are_the_beginning_of_more(case: Case) -> None:
    texts = [f"word{number % 3} and word{number % 5}" for number in range(40)]
    profile = case.profile(*(Record(text, id=str(number)) for number, text in enumerate(texts)))
    everything = case.retriever.retrieve(profile, "word1 word2", 40)
    for k in (1, 2, 7, 39):
        assert case.retriever.retrieve(profile, "word1 word2", k) == everything[:k]


def test_a_batch_is_one_after_the_other(case: Case) -> None:
    first, second, empty = case.profile(*FILMS), case.profile(*FILMS[1:3]), case.profile()
    profiles = [first, second, first, first, empty, second]
    queries = ["snow", "snow", "loud", "snow", "snow", ""]
    batch = case.retriever.retrieve_batch(profiles, queries, 2)
    assert batch == [case.retriever.retrieve(p, q, 2) for p, q in zip(profiles, queries, strict=True)]
    assert [len(found) for found in batch] == [2, 2, 2, 2, 0, 2]


def test_a_batch_needs_a_query_for_each_profile(case: Case) -> None:
    with pytest.raises(InvalidOptionError, match="2 profiles and 1 queries"):
        case.retriever.retrieve_batch([case.profile(*FILMS)] * 2, ["snow"], 1)


def test_nothing_is_changed(case: Case) -> None:
    profile = case.profile(*FILMS)
    before = deepcopy(profile)
    first = case.retriever.retrieve(profile, "snow", 2)
    assert case.retriever.retrieve(profile, "snow", 2) == first
    assert profile == before


def test_part_of_a_stored_profile_is_a_profile(case: Case) -> None:
    """A LaMP question sees only the records before it: a part, with or without the revision of the whole."""
    whole = case.profile(*FILMS)
    for revision in (0, whole.revision):
        part = Profile(whole.user_id, whole.records[1:3], revision)
        fresh = Profile(whole.user_id, FILMS[1:3])
        for query in ("snow", "a loud thriller"):
            found = case.retriever.retrieve(part, query, 4)
            assert found == case.retriever.retrieve(fresh, query, 4)


def test_other_records_under_a_stored_revision_are_ranked_by_their_own_text(case: Case) -> None:
    """As in a control that gives a user another's history: ids and revision fit, the words do not."""
    whole = case.profile(*FILMS)
    swapped = Profile(
        whole.user_id,
        tuple(Record(FILMS[-1 - number].text, r.target, r.time, r.id) for number, r in enumerate(whole)),
        whole.revision,
    )
    fresh = Profile(whole.user_id, swapped.records)
    assert case.retriever.retrieve(swapped, "loud family", 4) == case.retriever.retrieve(fresh, "loud family", 4)


def test_changed_and_new_records_are_seen_before_they_are_embedded(store: ProfileStore) -> None:
    for name in ("bm25-lamp", "bm25", "dense", "hybrid"):
        user_id = f"ana-{name}"
        fill(store, {user_id: FILMS})
        retriever = MAKERS[name](store)
        retriever.retrieve(store.profile(user_id), "penguins", 1)
        store.upsert([(user_id, Record("penguins on ice", id="new")), (user_id, Record("penguins", id="snow"))])
        changed = store.profile(user_id)
        found = retriever.retrieve(changed, "penguins", 5)
        assert set(ids(found[:2])) == {"new", "snow"}
        assert found == MAKERS[name](None).retrieve(changed, "penguins", 5)


def test_another_users_records_are_never_returned(store: ProfileStore) -> None:
    """Users share topics, words and record ids; the target of a record says whose it is."""
    words = ["snow", "thriller", "comedy", "family", "quiet", "loud", "war", "love", "train", "city"]
    draw = random.Random(7)
    histories = {
        f"crowd {number}": [
            Record(" ".join(draw.choices(words, k=6)), target=f"crowd {number}", id=f"r{place}")
            for place in range(draw.randrange(1, 12))
        ]
        for number in range(150)
    }
    fill(store, histories)
    asked = [(draw.choice(list(histories)), " ".join(draw.choices(words, k=4))) for _ in range(300)]
    profiles = [store.profile(user_id) for user_id, _ in asked]
    for make in MAKERS.values():
        found = make(store).retrieve_batch(profiles, [query for _, query in asked], 4)
        for (user_id, _), profile, some in zip(asked, profiles, found, strict=True):
            assert len(some) == min(4, len(profile))
            assert {one.record.target for one in some} == {user_id}


_RANK_ALL = """
import json, sys
sys.path.insert(0, {root!r})
from tests.retrievers.cases import FILMS, MAKERS
from persona.records import Profile
profile = Profile("ana", FILMS * 10)
rankings = [make(None).retrieve(profile, "a snow thriller", 30) for make in MAKERS.values()]
print(json.dumps([[(one.record.id, one.score) for one in ranking] for ranking in rankings]))
"""


@pytest.mark.slow
def test_results_do_not_depend_on_the_process() -> None:
    script = _RANK_ALL.format(root=str(Path(__file__).parents[2]))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == len(MAKERS)


_TEXTS = st.text(alphabet="ab é東❤️'-. \n", min_size=1, max_size=20).filter(str.strip)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=50, deadline=None)
@given(texts=st.lists(_TEXTS, max_size=12), query=st.text(alphabet="ab é東❤️ \x00", max_size=12), k=st.integers(1, 14))
def test_the_contract_on_any_profile(name: str, texts: list[str], query: str, k: int) -> None:
    records = (Record(text, str(number % 3), id=str(number)) for number, text in enumerate(texts))
    profile = Profile("ana", tuple(records))
    found = MAKERS[name](None).retrieve(profile, query, k)
    assert len({one.record.id for one in found}) == len(found) == min(k, len(texts))
    assert all(one.record is profile[int(one.record.id)] for one in found)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("make", [LampBM25Retriever, BM25Retriever, lambda view: DenseRetriever(ENCODER, view=view)])
def test_an_unknown_view_is_refused(make: Callable[..., Retriever]) -> None:
    with pytest.raises(InvalidOptionError, match="`view` must be one of text"):
        make(view="body")


@pytest.mark.parametrize("name", ["bm25-lamp", "bm25", "dense"])
def test_the_view_is_what_is_searched(name: str) -> None:
    makers: dict[str, Callable[..., Retriever]] = {
        "bm25-lamp": LampBM25Retriever,
        "bm25": BM25Retriever,
        "dense": lambda view: DenseRetriever(ENCODER, view=view),
    }
    records = [Record("gone", target=target, id=target) for target in ("penguins", "seals", "bears")]
    found = makers[name](view="target+text").retrieve(Profile("ana", tuple(records)), "penguins", 2)
    assert found[0].record.id == "penguins"
    assert found[0].score > found[1].score


def test_reading_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, persona.retrievers as r; assert 'LampBM25Retriever' in dir(r);"
        "print([name for name in ('numpy', 'torch', 'langchain_core', 'sqlalchemy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_package_exports_what_it_names() -> None:
    import persona.retrievers as package

    assert {getattr(package, name).__name__ for name in package.__all__} == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Retriever'"):
        _ = package.Retriever


def test_the_examples_in_the_docs_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "retrievers.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)
    assert [line.split(" ", 2)[1] for line in capsys.readouterr().out.splitlines()] == ["4", "5"]
    assert isinstance(names["LongestFirst"], type)
