"""LangGraph's store on ours: the same as its `InMemoryStore` inside one user, and nothing beyond one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError
from persona.integrations.langgraph import PersonaStore
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import Record
from persona.store.profile_store import ProfileStore

ALL = 10_000
WORDS = ("tea", "coffee", "rum", "Turin", "cat")


@pytest.fixture
def profiles(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        yield opened


def value_of(rng: random.Random) -> dict[str, Any]:
    value = {
        "text": " ".join(rng.sample(WORDS, 2)),
        "n": rng.choice([1, 2, 2.5, "3"]),
        "tags": rng.sample(WORDS, 2),
        "deep": {"flag": rng.random() < 0.5, "none": None, "nul": "\x00\ud800é"},
    }
    return {name: value[name] for name in rng.sample(list(value), rng.randint(1, 4))}


def filter_of(rng: random.Random) -> dict[str, Any] | None:
    return rng.choice(
        [
            None,
            {"n": 2},
            {"n": {"$ne": 1}},
            {"text": {"$eq": "tea rum"}, "deep": {"flag": True}},
            {"tags": ["tea", "cat"]},
            {"deep": {"nothing": None}},
        ]
    )


def namespace_of(rng: random.Random, least: int = 1) -> tuple[str, ...]:
    return tuple(rng.choice("abc") for _ in range(rng.randint(least, 3)))


def operation(rng: random.Random) -> Any:
    kind = rng.choice(["put", "put", "delete", "get", "search", "namespaces"])
    if kind == "put":
        index: Any = rng.choice([None, False, ["text"], ["tags[*]", "deep.flag"]])
        return PutOp(namespace_of(rng), rng.choice("xyz"), value_of(rng), index)
    if kind == "delete":
        return PutOp(namespace_of(rng), rng.choice("xyz"), None)
    if kind == "get":
        return GetOp(namespace_of(rng), rng.choice("xyz"))
    if kind == "search":
        query = rng.choice([None, "tea", "a cat"])
        return SearchOp(namespace_of(rng, 0), filter_of(rng), ALL, 0, query)
    sides: list[Any] = ["prefix", "suffix"]
    paths = [tuple(rng.choice("abc*") for _ in range(rng.randint(1, 2))) for _ in range(rng.randint(0, 2))]
    conditions = tuple(MatchCondition(rng.choice(sides), path) for path in paths)
    return ListNamespacesOp(conditions, rng.choice([None, 1, 2]), ALL, 0)


def below(op: Any, user_id: str) -> Any:
    """The operation on a store that is bound to no user."""
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(user_id, *op.namespace_prefix))
    if isinstance(op, ListNamespacesOp):
        conditions = [
            each._replace(path=(user_id, *each.path)) if each.match_type == "prefix" else each
            for each in op.match_conditions or ()
        ]
        depth = None if op.max_depth is None else op.max_depth + 1
        return op._replace(match_conditions=(MatchCondition("prefix", (user_id,)), *conditions), max_depth=depth)
    return op._replace(namespace=(user_id, *op.namespace))


def plain(result: Any, strip: int = 0) -> Any:
    """A result without times and scores; of items the set, since their order is each store's own."""
    if result is None:
        return None
    if not isinstance(result, list):
        return result.namespace[strip:], result.key, result.value
    if any(isinstance(each, tuple) for each in result):
        return [each[strip:] for each in result]
    return sorted((plain(each, strip) for each in result), key=repr)


def empty_ones_left_out(oracle: InMemoryStore) -> None:
    for namespace in [name for name, items in oracle._data.items() if not items]:
        del oracle._data[namespace]


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_inside_one_user_it_is_what_the_memory_store_is(profiles: ProfileStore, seed: int, bound: bool) -> None:
    rng, oracle = random.Random(seed), InMemoryStore()
    profiles.upsert([("bo", Record("I drink tea in Turin."))])
    store = PersonaStore(profiles, user_id="ana" if bound else None)
    for _ in range(40):
        ops = [operation(rng) for _ in range(rng.randint(1, 6))]
        empty_ones_left_out(oracle)
        expected = oracle.batch(ops)
        given = store.batch([op if bound else below(op, "ana") for op in ops])
        assert [plain(each, strip=0 if bound else 1) for each in given] == list(map(plain, expected))
    assert len(profiles.profile("ana")) > 5
    assert len(profiles.profile("bo")) == 1


def test_pages_join_to_the_whole_and_the_best_is_first(profiles: ProfileStore) -> None:
    store = PersonaStore(profiles, user_id="ana")
    for number in range(7):
        store.put(("facts",), str(number), {"text": f"fact {WORDS[number % 5]} {number}"}, index=["text"])
    store.put(("facts",), "raw", {"text": "cat cat cat"}, index=False)
    for query in (None, "cat"):
        whole = store.search(("facts",), query=query, limit=ALL)
        pages = [store.search(("facts",), query=query, limit=3, offset=offset) for offset in (0, 3, 6)]
        assert [each.key for page in pages for each in page] == [each.key for each in whole]
        assert len(whole) == 8
    assert [each.key for each in store.search((), limit=2)] == ["raw", "6"]
    best, *_, last = store.search((), query="a cat", limit=ALL)
    assert (best.key, best.score is not None, last.key, last.score) == ("4", True, "raw", None)
    assert store.search((), query="cat", limit=0) == []
    assert store.search((), filter={"text": {"$gt": 3}}) == []
    store.put(("numbers",), "one", {"n": "1", "deep": {"n": 2}})
    for fits, wanted in ((True, {"$gte": 1, "$lt": 1.5}), (False, {"$gt": 1}), (False, {"$lte": None})):
        assert bool(store.search(("numbers",), filter={"n": wanted})) == fits
    assert store.search((), filter={"deep": {"n": {"$lte": 2}}})[0].key == "one"
    with pytest.raises(InvalidOptionError, match="`operator` must be one of"):
        store.search((), filter={"text": {"$in": ["a"]}})


def test_an_item_keeps_when_it_was_made(profiles: ProfileStore) -> None:
    store = PersonaStore(profiles, user_id="ana")
    store.put(("facts",), "drink", {"text": "tea"})
    first = store.get(("facts",), "drink")
    store.put(("facts",), "drink", {"text": "rum"})
    second = store.get(("facts",), "drink")
    assert first is not None
    assert second is not None
    assert second.created_at == first.created_at == first.updated_at < second.updated_at
    assert [record.text for record in profiles.profile("ana")] == ["rum"]


def test_without_a_user_everything_is_refused(profiles: ProfileStore) -> None:
    store = PersonaStore(profiles)
    store.put(("ana",), "drink", {"text": "tea"})
    calls: list[Callable[[], Any]] = [
        lambda: store.search(()),
        lambda: store.list_namespaces(),
        lambda: store.list_namespaces(prefix=("*",)),
        lambda: store.list_namespaces(suffix=("ana",)),
        lambda: store.batch([GetOp((), "drink")]),
        lambda: store.batch([PutOp(("bo",), "drink", {}), PutOp((), "drink", {})]),
        lambda: store.batch([SearchOp(("",))]),
        lambda: asyncio.run(store.asearch(())),
        lambda: PersonaStore(profiles, user_id=""),
    ]
    for call in calls:
        with pytest.raises(InvalidUserIdError):
            call()
    assert list(profiles.user_ids()) == ["ana"]
    assert store.search(("bo",)) == []
    assert store.get(("bo",), "drink") is None
    assert store.list_namespaces(prefix=("ana",)) == [("ana",)]
    # A bound store has no way to another user: the name is one more element.
    assert PersonaStore(profiles, user_id="bo").search(("ana",)) == []


def test_items_live_for_minutes(profiles: ProfileStore) -> None:
    store = PersonaStore(profiles, user_id="ana")
    store.put(("facts",), "short", {"text": "tea"}, ttl=0.02)
    store.put(("facts",), "kept", {"text": "rum"}, ttl=0.02)
    store.put(("facts",), "long", {"text": "cat"})
    time.sleep(0.5)
    assert store.get(("facts",), "short") is not None
    before = profiles.profile("ana").revision
    assert store.get(("facts",), "kept", refresh_ttl=True) is not None
    assert profiles.profile("ana").revision == before + 1
    expires = {record.text: record.expires for record in profiles.profile("ana")}
    assert expires["cat"] is None
    assert cast(str, expires["rum"]) > cast(str, expires["tea"])
    brief = PersonaStore(profiles, user_id="ana", ttl={"default_ttl": -1.0})
    brief.put(("facts",), "gone", {"text": "coffee"})
    assert brief.get(("facts",), "gone") is None
    assert profiles.profile("ana").revision == before + 1


def test_records_that_came_another_way_are_items_and_items_are_records(profiles: ProfileStore) -> None:
    profiles.upsert([("ana", Record("Moody.", target="5", id="r1", time="2011", metadata={"film": "Bullitt"}))])
    profiles.upsert([("ana", Record("Odd.", id="r2", metadata={"langgraph": '{"namespace": ["a"]}'}))])
    store = PersonaStore(profiles, user_id="ana")
    item = store.get(("records",), "r1")
    assert item is not None
    assert item.value == {"text": "Moody.", "target": "5", "time": "2011", "metadata": {"film": "Bullitt"}}
    assert item.created_at.isoformat() == "2011-01-01T00:00:00+00:00"
    assert len(store.search(("records",))) == 2
    store.put(("records",), "r1", {"text": "Stylish.", "year": 1968})
    assert [record.text for record in profiles.profile("ana")][-1] == "text: Stylish.\nyear: 1968"
    store.put(("facts",), "drink", {"content": {"content": "I drink my coffee black."}})
    answer = Personalizer(load_llm(lambda prompt: prompt), profiles).generate("ana", "How do I take my coffee?")
    assert "I drink my coffee black." in answer.text
    store.delete(("records",), "r1")
    store.delete(("records",), "nothing")
    assert store.get(("records",), "r1") is None
    profiles.forget("ana")
    assert store.search(()) == []


def test_deleted_is_gone_from_the_bytes_and_bad_values_are_refused_whole(
    profiles: ProfileStore, tmp_path: Path
) -> None:
    store = PersonaStore(profiles, user_id="ana")
    store.put(("facts",), "drink", {"text": "quixotic zebra"})
    store.delete(("facts",), "drink")
    assert b"zebra" not in b"".join(path.read_bytes() for path in tmp_path.glob("persona.db*"))
    for value in ({"text": object()}, {"n": float("nan")}, {"text": "a" * 1_100_000}):
        with pytest.raises(DataFormatError):
            store.batch([PutOp(("facts",), "fine", {"text": "tea"}), PutOp(("facts",), "bad", value)])
    assert store.search(()) == []


def test_async_is_the_same(profiles: ProfileStore) -> None:
    async def use() -> list[str]:
        store = PersonaStore(profiles)
        await asyncio.gather(*(store.aput((user,), "drink", {"text": user}) for user in ("ana", "bo")))
        found = [*await store.asearch(("ana",)), *await store.asearch(("bo",), query="bo")]
        await store.adelete(("bo",), "drink")
        assert await store.aget(("bo",), "drink") is None
        return [each.value["text"] for each in found]

    assert asyncio.run(use()) == ["ana", "bo"]


def test_a_graph_uses_it_as_its_store(profiles: ProfileStore) -> None:
    def noted(state: dict[str, Any], runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        runtime.store.put(("facts",), "last", {"text": state["text"]})
        return {"text": str(len(runtime.store.search((), query="tea")))}

    builder: Any = cast(Any, StateGraph)(dict[str, Any])
    builder.add_node("noted", noted)
    builder.add_edge("__start__", "noted")
    graph = builder.compile(store=PersonaStore(profiles, user_id="ana"))
    assert graph.invoke({"text": "I drink tea."})["text"] == "1"
    assert asyncio.run(graph.ainvoke({"text": "I drink rum."}))["text"] == "1"
    assert [record.text for record in profiles.profile("ana")] == ["I drink rum."]
