"""Names in texts, their fading counts, and the records that share them with a query."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers import DenseRetriever, EntityRetriever, RecencyRetriever
from persona.retrievers.words.entities import names_in
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written

BOND = (
    Record("we saw Bond and once more Bond", time="2011-01-01", id="1"),
    Record("a walk with Bond in Paris", time="2012-01-01", id="2"),
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Moody and stylish. Steve McQueen is cool, and so is Casino Royale.", ["Steve McQueen", "Casino Royale"]),
        ("The painter Vincent van Gogh and the Lord of the Rings", ["Vincent van Gogh", "Lord of the Rings"]),
        ("Stylish. It was stylish.", []),
        ("Paris is nice. We love Paris.", ["Paris", "Paris"]),
        ("iPhone or NASA? I do not know.", ["iPhone", "NASA"]),
        ("THIS IS ALL IN CAPITALS, REALLY", []),
        ("Ten Great Films You Have To See", []),
        ("seen with @ana in #Berlin!", ["@ana", "#Berlin"]),
        ("In Berlin, Ana, Ben and Carl met.", ["Berlin", "Ana", "Ben", "Carl"]),
        ("昨日「千と千尋の神隠し」をスタジオジブリで見た", ["千と千尋の神隠し", "スタジオジブリ"]),
        ("мы были в Москве и видели Большой театр", ["Москве", "Большой"]),
        ("wir trafen Jürgen in Ærø", ["Jürgen", "Ærø"]),
        ("We saw Berlin\nand Paris", ["Berlin", "Paris"]),
        ("", []),
        ("!!! 123 \u200b", []),
    ],
)
def test_names_in_texts(text: str, names: list[str]) -> None:
    assert names_in(text) == names


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_every_name_is_in_the_text(text: str) -> None:
    for name in names_in(text):
        assert name in text


def test_listed_names_are_found_in_any_spelling() -> None:
    retriever = EntityRetriever(names=["nouvelle vague", "Café Müller", "東京"])
    texts = ("a late echo of the NOUVELLE VAGUE, at cafe muller's", "昨日東京に行った", "vague novels")
    profile = Profile("ana", tuple(map(Record, texts)))
    assert {entity.name for entity in retriever.entities(profile)} == {"nouvelle vague", "Café Müller", "東京"}
    assert retriever.retrieve(profile, "the Nouvelle Vague?", 1)[0].record.text == texts[0]
    with pytest.raises(InvalidOptionError, match="must hold a word, was: '!!'"):
        EntityRetriever(names=["!!"])


def test_an_alias_is_found_before_vectors_and_capped_at_k() -> None:
    """Row 35 of docs/papers.md: what the query names exactly comes first, the rest by vector, k in all."""
    records = (
        Record("1 0 likes tea", id="near"),
        Record("0 1 plays chess", id="ana", metadata={"alias": "Mum, Maria Lopez"}),
        Record("-1 0.1 met Maria Lopez", id="said"),
        Record("0.9 0.1 likes jam", id="second"),
    )
    profile, retriever = Profile("ana", records), EntityRetriever(DenseRetriever(Written()))
    query = "1 0 what does MUM like?"
    assert ids(retriever.retrieve(profile, query, 3)) == ["ana", "near", "second"]
    assert ids(retriever.retrieve(profile, "1 0 and maria lopez", 4)) == ["ana", "said", "near", "second"]
    assert ids(retriever.retrieve(profile, "1 0 mum, or maria lopez", 1)) == ["ana"]
    assert ids(retriever.retrieve(profile, "1 0 the lopezes of Mumbai", 1)) == ["near"]


def test_weights_halve_with_the_half_life() -> None:
    """Row 60 of docs/papers.md: of a history only names, counts, times and weights; Bond 2^-1 + 1, Paris 1."""
    found = EntityRetriever(half_life_days=365).entities(Profile("ana", BOND))
    assert [(entity.name, entity.count, entity.last) for entity in found] == [
        ("Bond", 2, "2012-01-01"),
        ("Paris", 1, "2012-01-01"),
    ]
    assert [entity.weight for entity in found] == pytest.approx([1.5, 1.0])


def test_a_weight_is_the_sum_over_all_mentions() -> None:
    days = ["2010-03-05", "2010-03-06", "2011-12-31", "2014-02-28", "2014-02-28"]
    records = [Record(f"in Paris {day}", time=day, id=str(number)) for number, day in enumerate(days)]
    records.append(Record("in Rome", time="2015-06-01", id="rome"))
    retriever = EntityRetriever(half_life_days=100)
    found = {entity.name: entity.weight for entity in retriever.entities(Profile("ana", tuple(records[::-1])))}
    now = date(2015, 6, 1)
    assert found["Paris"] == pytest.approx(sum(2 ** (-(now - date.fromisoformat(day)).days / 100) for day in days))
    assert found["Rome"] == 1.0


def test_undated_records_are_as_old_as_the_oldest() -> None:
    found = {entity.name: entity for entity in EntityRetriever().entities(Profile("ana", (Record("in Rome"), *BOND)))}
    assert found["Rome"].weight == pytest.approx(0.5)
    assert found["Rome"].last is None
    for time in (None, "someday"):
        assert EntityRetriever().entities(Profile("ana", (Record("in Rome", time=time),)))[0].weight == 1.0


def test_options() -> None:
    with pytest.raises(InvalidOptionError, match="`half_life_days` must be a number above 0, was: 0"):
        EntityRetriever(half_life_days=0)
    with pytest.raises(InvalidOptionError, match="`view` must be one of"):
        EntityRetriever(view="body")


def test_records_are_ranked_by_the_weights_of_shared_names() -> None:
    profile = Profile("ana", (*BOND, Record("nothing here", time="2012-02", id="3")))
    retriever = EntityRetriever()
    found = retriever.retrieve(profile, "what of BOND, and what of paris?", 3)
    assert ids(found) == ["2", "1", "3"]
    weights = {entity.name: entity.weight for entity in retriever.entities(profile)}
    assert [scored.score for scored in found] == [weights["Bond"] + weights["Paris"], weights["Bond"], 0.0]
    # Names that are none of the user's count for nothing; then the newest come first.
    assert ids(retriever.retrieve(profile, "a walk in Rome", 3)) == ["3", "2", "1"]


def test_what_is_named_comes_first_and_the_base_fills_up() -> None:
    profile = Profile("ana", tuple(Record(text, id=text) for text in ("met Zoe", "a walk", "a swim", "a run")))
    newest = RecencyRetriever()
    found = EntityRetriever(newest).retrieve(profile, "what did zoe say?", 3)
    assert ids(found) == ["met Zoe", *ids(newest.retrieve(profile, "", 2))]
