"""The contract of every retriever, on profiles made by hand and on those of a store with vectors."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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
    EntityRetriever,
    HybridRetriever,
    JointRetriever,
    KeyValueRetriever,
    LampBM25Retriever,
    MultiInterestRetriever,
    ProfileRetriever,
    RecencyRetriever,
    RoundsRetriever,
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


def test_wrong_questions_are_refused(case: Case) -> None:
    assert isinstance(case.retriever, Retriever)
    for profile in (case.profile(), case.profile(*FILMS)):
        for k in (0, -1, 1.5, "3", None, True):
            with pytest.raises(InvalidOptionError, match=r"`k` must be"):
                case.retriever.retrieve(profile, "thriller", k)  # type: ignore[arg-type]
            with pytest.raises(InvalidOptionError, match=r"`k` must be"):
                case.retriever.retrieve_batch([profile], ["thriller"], k)  # type: ignore[arg-type]
        for query in (None, b"thriller"):
            with pytest.raises(InvalidOptionError, match=r"a query must be a string, was: .* \("):
                case.retriever.retrieve(profile, query, 1)  # type: ignore[arg-type]
            with pytest.raises(InvalidOptionError, match="a query must be a string"):
                case.retriever.retrieve_batch([profile], [query], 1)  # type: ignore[list-item]
        with pytest.raises(InvalidOptionError, match="2 profiles and 1 queries"):
            case.retriever.retrieve_batch([profile] * 2, ["snow"], 1)


def test_an_empty_profile_has_nothing(case: Case) -> None:
    empty = case.profile()
    assert case.retriever.retrieve(empty, "thriller", 3) == ()
    assert case.retriever.retrieve_batch([empty, empty], ["thriller", ""], 3) == [(), ()]
    assert case.retriever.retrieve_batch([], [], 3) == []


SCRIPTS = ("東京は夜の七時", "सुंदर फ़िल्म", "مرحبا بالعالم", "❤️‍🔥👍🏽", "naïve café", "!!!", "\u200b\u0301", "ß" * 300)


@pytest.mark.parametrize(
    ("records", "queries"),
    [
        (FILMS, ("a quiet thriller", "", "   ", "\n\t", "zzz qqq", "?!")),
        (FILMS[:1], ("thriller", "nothing in common", "")),
        ((Record("no date, thriller", id="a"), FILMS[0], Record("no date either", id="b")), ("thriller",)),
        (tuple(Record(text, id=str(n)) for n, text in enumerate(SCRIPTS)), (*SCRIPTS, "夜", "cafe", "\u2028", "🏳️‍🌈")),
    ],
    ids=["films", "one record", "undated", "scripts and emoji"],
)
def test_every_record_comes_once_for_any_query(case: Case, records: Sequence[Record], queries: Sequence[str]) -> None:
    profile = case.profile(*records)
    before = deepcopy(profile)
    for query in queries:
        found = case.retriever.retrieve(profile, query, 100)
        assert sorted(ids(found)) == sorted(record.id for record in records)
        assert all(any(scored.record is record for record in profile) for scored in found)
        scores = [scored.score for scored in found]
        assert all(type(score) is float and math.isfinite(score) for score in scores)
        assert scores == sorted(scores, reverse=True)
        assert case.retriever.retrieve(profile, query, 100) == found
        k = np.int64(max(1, len(records) - 1))
        assert case.retriever.retrieve(profile, query, k) == found[:k]  # type: ignore[arg-type]
    assert profile == before


def test_equal_texts_are_different_records(case: Case) -> None:
    profile = case.profile(*(Record("the same words", id=str(number)) for number in range(20)))
    found = case.retriever.retrieve(profile, "the same words", 20)
    assert sorted(ids(found), key=int) == [str(number) for number in range(20)]
    one_by_one = MultiInterestRetriever | DiverseRetriever | JointRetriever | RoundsRetriever
    if not isinstance(case.retriever, RecencyRetriever | HybridRetriever | one_by_one):
        assert len({scored.score for scored in found}) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_a_record_that_stands_twice_in_a_profile_comes_twice(name: str) -> None:
    profile = Profile("ana", (FILMS[0], FILMS[1], FILMS[0]))
    found = MAKERS[name](None).retrieve(profile, "snow", 9)
    assert sorted(ids(found)) == ["family", "snow", "snow"]


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
            Record(" ".join(draw.choices(words, k=6)), target=f"crowd {number}", id=f"r{row}")
            for row in range(draw.randrange(1, 12))
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
            assert {scored.record.target for scored in some} == {user_id}


_RANK_ALL = """
import json, sys
sys.path.insert(0, {root!r})
from tests.retrievers.cases import FILMS, MAKERS
from persona.records import Profile
profile = Profile("ana", FILMS * 10)
rankings = [make(None).retrieve(profile, "a snow thriller", 30) for make in MAKERS.values()]
print(json.dumps([[(scored.record.id, scored.score) for scored in ranking] for ranking in rankings]))
"""


@pytest.mark.slow
def test_results_do_not_depend_on_the_process() -> None:
    script = _RANK_ALL.format(root=str(Path(__file__).parents[2]))
    environment = {**os.environ, "PYTHONHASHSEED": "1"}  # texts are hashed otherwise than here
    other = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    profile = Profile("ana", FILMS * 10)
    here = [make(None).retrieve(profile, "a snow thriller", 30) for make in MAKERS.values()]
    assert json.loads(other.stdout) == [[[scored.record.id, scored.score] for scored in ranking] for ranking in here]


_TEXTS = st.text(alphabet="ab é東❤️'-. \n", min_size=1, max_size=20).filter(str.strip)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=50, deadline=None)
@given(texts=st.lists(_TEXTS, max_size=12), query=st.text(alphabet="ab é東❤️ \x00", max_size=12), k=st.integers(1, 14))
def test_the_contract_on_any_profile(name: str, texts: list[str], query: str, k: int) -> None:
    records = (Record(text, str(number % 3), id=str(number)) for number, text in enumerate(texts))
    profile = Profile("ana", tuple(records))
    found = MAKERS[name](None).retrieve(profile, query, k)
    assert len({scored.record.id for scored in found}) == len(found) == min(k, len(texts))
    assert all(scored.record is profile[int(scored.record.id)] for scored in found)
    scores = [scored.score for scored in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda view: LampBM25Retriever(view),
        lambda view: BM25Retriever(view),
        lambda view: DenseRetriever(ENCODER, view=view),
        lambda view: EntityRetriever(DenseRetriever(ENCODER, view=view), view=view),
    ],
    ids=["bm25-lamp", "bm25", "dense", "entities"],
)
def test_the_view_is_what_is_searched(make: Callable[[str], Retriever]) -> None:
    records = [Record("gone", target=target, id=target) for target in ("penguins", "seals", "bears")]
    found = make("target+text").retrieve(Profile("ana", tuple(records)), "penguins", 2)
    assert found[0].record.id == "penguins"
    with pytest.raises(InvalidOptionError, match="`view` must be one of text"):
        make("body")


def test_a_retriever_without_a_method_says_which_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="ProfileRetriever must implement `rank` or `rank_batch`"):
        ProfileRetriever().retrieve(Profile("ana", FILMS), "snow", 1)


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
        if not code.startswith("# needs: "):
            exec(code, names)
    assert [line.split(" ", 2)[1] for line in capsys.readouterr().out.splitlines()] == ["4", "5"]
    assert isinstance(names["LongestFirst"], type)
