"""The memory-style face of the store."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from persona.encoders.hashing import HashingEncoder
from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError, PersonaError, UnknownRecordError
from persona.memory import AsyncMemory, Memory
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint

METHODS = ("add", "search", "get_all", "get", "update", "delete", "delete_all")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory(f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        yield opened


def texts(memory: Memory, user_id: str, **options: Any) -> list[str]:
    return [each["memory"] for each in memory.get_all(user_id=user_id, **options)["results"]]


def test_turns_of_the_user_are_remembered_and_others_on_request(memory: Memory) -> None:
    talk: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "I live in Turin."}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "12 degrees", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is 12 degrees.", "name": "bot"},
        {"role": "user", "content": "  "},
    ]
    (item,) = memory.add(talk, user_id="ana", metadata={"topic": "home", "rank": 3}, timestamp="2026-05-01")["results"]
    assert item["event"] == "ADD"
    assert memory.get(item["id"], user_id="ana") == {
        "id": item["id"],
        "memory": "I live in Turin.",
        "user_id": "ana",
        "metadata": {"topic": "home", "rank": "3"},
        "time": "2026-05-01",
        "target": None,
        "role": "user",
        "speaker": None,
        "expires": None,
    }
    memory.add(talk, user_id="bo", roles=["assistant"])
    assert texts(memory, "bo") == ["It is 12 degrees."]


def test_the_same_words_are_one_memory_with_the_newest_time(memory: Memory) -> None:
    (first,) = memory.add("I like tea.", user_id="ana", timestamp=1_700_000_000)["results"]
    assert first["time"] == "2023-11-14T22:13:20+00:00"
    (same,) = memory.add("I like tea.", user_id="ana", timestamp="2023-11-14T22:13:20Z")["results"]
    assert (same["id"], same["event"]) == (first["id"], "NONE")
    (again,) = memory.add("I like tea.", user_id="ana")["results"]
    assert (again["id"], again["event"]) == (first["id"], "UPDATE")
    assert str(again["time"]) > "2026"
    assert texts(memory, "ana") == ["I like tea."]


def test_a_memory_that_was_changed_is_not_overwritten_by_its_old_words(memory: Memory) -> None:
    (tea,) = memory.add("I like tea.", user_id="ana")["results"]
    assert memory.update(tea["id"], "I like coffee.", user_id="ana", metadata={"n": 1})["memory"] == "I like coffee."
    for event, year in (("ADD", 2025), ("UPDATE", 2026)):
        (back,) = memory.add("I like tea.", user_id="ana", timestamp=year)["results"]
        assert (back["event"], back["id"] == tea["id"]) == (event, False)
    assert sorted(texts(memory, "ana")) == ["I like coffee.", "I like tea."]


def test_search_ranks_filters_and_cuts(memory: Memory) -> None:
    for number, text in enumerate(["I drink coffee.", "My cat is called Mia.", "Coffee keeps me awake."]):
        memory.add(text, user_id="ana", metadata={"number": number}, timestamp=f"202{number}-01-01")
    found = memory.search("coffee", user_id="ana", k=2)["results"]
    assert {each["memory"] for each in found} == {"I drink coffee.", "Coffee keeps me awake."}
    assert found[0]["score"] >= found[1]["score"] > 0
    assert len(memory.search("coffee", user_id="ana", threshold=0.01)["results"]) == 2
    (late,) = memory.search("coffee", user_id="ana", where="time>=2021 and number!=1")["results"]
    assert late["memory"] == "Coffee keeps me awake."
    assert texts(memory, "ana", k=2) == ["Coffee keeps me awake.", "My cat is called Mia."]
    assert texts(memory, "ana", where="number=0") == ["I drink coffee."]
    assert memory.search("coffee", user_id="nobody") == {"results": []}
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1"):
        memory.search("coffee", user_id="ana", k=0)


def test_an_encoder_makes_it_search_by_meaning_too(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'memory.db'}") as store:
        memory = Memory(store, encoder=HashingEncoder())
        memory.add("I drink coffee.", user_id="ana")
        assert memory.search("drinking coffee", user_id="ana")["results"][0]["memory"] == "I drink coffee."
        assert list(store.stale_users(vector_fingerprint(HashingEncoder(), "text"))) == []
        memory.close()
        assert "ana" in store  # whoever opened it closes it
        with pytest.raises(InvalidOptionError, match="give it an encoder"):
            Memory(store, retriever="dense")
        with pytest.raises(InvalidOptionError, match="not made with an encoder"):
            Memory(store, retriever="bm25", encoder=HashingEncoder())


def test_memories_expire(memory: Memory) -> None:
    (item,) = memory.add("I am in Rome.", user_id="ana", expires=timedelta(days=1))["results"]
    assert str(item["expires"]) > datetime.now(UTC).isoformat()
    assert memory.update(item["id"], user_id="ana", expires="2999-01-01")["expires"] == "2999-01-01"
    for call in (memory.add, lambda *a, **k: memory.update(item["id"], *a, **k)):
        with pytest.raises(InvalidOptionError, match="must expire in the future, was: 2020"):
            call("I was in Rome.", user_id="ana", expires="2020")


def test_without_a_user_nothing_is_done(memory: Memory) -> None:
    given = ((name, ("text",) if name in ("add", "search") else ()) for name in METHODS)
    for name, arguments in ((name, ("id",) if name in ("get", "update", "delete") else args) for name, args in given):
        for user_id in (None, "", 7):
            with pytest.raises(InvalidUserIdError, match="a user id must"):
                getattr(memory, name)(*arguments, user_id=user_id)
        with pytest.raises(TypeError):
            getattr(memory, name)(*arguments)


def test_the_id_of_another_users_memory_means_nothing(memory: Memory) -> None:
    (own,) = memory.add("I like tea.", user_id="ana")["results"]
    memory.add("I like rum.", user_id="bo")
    assert memory.get(own["id"], user_id="bo") is None
    for user_id in ("bo", "anna"):
        for call in (memory.delete, lambda i, **k: memory.update(i, "mine", **k)):
            with pytest.raises(UnknownRecordError) as caught:
                call(own["id"], user_id=user_id)
            assert "ana'" not in str(caught.value)  # nor is the other user named
    assert texts(memory, "ana") == ["I like tea."]


def test_what_is_deleted_is_gone_from_the_bytes(memory: Memory, tmp_path: Path) -> None:
    (one, two) = memory.add(
        [{"role": "user", "content": "quixotic zebra"}, {"role": "user", "content": "vorpal walrus"}], user_id="ana"
    )["results"]
    memory.delete(one["id"], user_id="ana")
    memory.update(two["id"], "plain text", user_id="ana")
    held = b"".join(path.read_bytes() for path in tmp_path.glob("memory.db*"))
    assert b"plain text" in held
    assert b"zebra" not in held
    assert b"walrus" not in held
    assert memory.delete_all(user_id="ana").records == 1
    assert memory.delete_all(user_id="ana").records == 0
    assert b"plain text" not in b"".join(path.read_bytes() for path in tmp_path.glob("memory.db*"))


def test_records_that_came_another_way_are_memories(memory: Memory) -> None:
    memory.store.upsert([("ana", Record("Moody and stylish.", target="5", id="r1"))])
    item = memory.get("r1", user_id="ana")
    assert item is not None
    assert (item["memory"], item["target"], item["time"]) == ("Moody and stylish.", "5", None)


def test_other_messages_are_refused_whole(memory: Memory) -> None:
    bad: list[Any] = [7, {"content": "Hi."}, {"role": "user", "content": 7}, {"role": "user", "content": "a\x00"}]
    for messages in (7, *([{"role": "user", "content": "fine"}, each] for each in bad)):
        with pytest.raises(DataFormatError):
            memory.add(messages, user_id="ana")  # type: ignore[arg-type]
    assert texts(memory, "ana") == []
    with pytest.raises(PersonaError, match="name what to change"):
        memory.update(memory.add("text", user_id="ana")["results"][0]["id"], user_id="ana")


def test_async_is_the_same_and_does_not_block(memory: Memory) -> None:
    asynchronous = AsyncMemory(memory)
    for name in METHODS:
        mine, own = inspect.signature(getattr(asynchronous, name)), inspect.signature(getattr(memory, name))
        assert list(mine.parameters)[-len(own.parameters) :] == list(own.parameters)
        assert inspect.iscoroutinefunction(getattr(asynchronous, name))

    async def use() -> list[str]:
        added = await asyncio.gather(*(asynchronous.add(f"fact {n}", user_id=f"user {n % 3}") for n in range(9)))
        (item,) = added[0]["results"]
        await asynchronous.update(item["id"], "another fact", user_id="user 0")
        found = await asynchronous.search("another", user_id="user 0", k=1)
        await asynchronous.delete(item["id"], user_id="user 0")
        assert await asynchronous.get(item["id"], user_id="user 0") is None
        await asynchronous.delete_all(user_id="user 1")
        return [each["memory"] for each in found["results"]]

    assert asyncio.run(use()) == ["another fact"]
    assert len(texts(memory, "user 0")) == 2
    assert texts(memory, "user 1") == []
