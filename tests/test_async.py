"""Personalizers in an event loop: answers come side by side, and the loop goes on while an LLM works."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.runnables import RunnableLambda

from persona.errors import EndpointError
from persona.integrations.langchain import PersonalizedRunnable
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.llm.endpoint.server import Reply, Server, refusal, turn
from tests.llm.endpoint.server import serving as serving_one_at_a_time


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        opened.upsert([("ana", Record("A quiet film.", target="4")), ("ben", Record("A loud film.", target="2"))])
        yield opened


def echo(path: str, body: dict[str, Any]) -> Reply:
    prompt = body["messages"][-1]["content"]
    return refusal(400, "content filter") if "bad" in prompt else turn(prompt.splitlines()[-1])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving_one_at_a_time(echo) as running:
        yield running


def endpoint(server: Server, store: ProfileStore, **options: Any) -> Personalizer:
    return Personalizer(load_llm(f"openai:m@{server.url}", api_key="k", retries=0, **options), store, [])


def test_an_endpoint_is_awaited_and_sync_calls_work_inside_a_running_loop(server: Server, store: ProfileStore) -> None:
    personalizer = endpoint(server, store)

    async def ask() -> list[str]:
        one = await personalizer.agenerate("ana", "A?")
        two, three = await personalizer.abatch([("ana", "B?"), ("ben", "C?")])
        # As in a notebook, whose cells run inside a loop.
        four = personalizer.generate("ben", "D?")
        return [each.text for each in (one, two, three, four)]

    assert asyncio.run(ask()) == ["A?", "B?", "C?", "D?"]
    # Another loop, the same personalizer: its connections belong to neither.
    assert asyncio.run(ask()) == ["A?", "B?", "C?", "D?"]


def test_many_callers_share_the_limit_of_requests_under_way(store: ProfileStore) -> None:
    httpx2 = pytest.importorskip("httpx2")  # the transport of the package openai
    under_way, most, lock = 0, 0, threading.Lock()
    threads = set()

    class Slow:
        """A synchronous client, which says in which threads and how many at a time it is called."""

        def __call__(self, request: Any) -> Any:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            threads.add(threading.get_ident())
            time.sleep(0.02)
            with lock:
                under_way -= 1
            return httpx2.Response(200, json=turn("yes")[1], request=request)

    client = openai.OpenAI(
        base_url="http://127.0.0.1:9/v1", api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(Slow()))
    )
    personalizer = Personalizer(load_llm(client, model="m", max_concurrency=3), store, [])

    async def ask() -> list[str]:
        found = await asyncio.gather(*(personalizer.agenerate("ana", f"{number}?") for number in range(30)))
        return [each.text for each in found]

    assert asyncio.run(ask()) == ["yes"] * 30
    assert most == 3
    assert threading.main_thread().ident not in threads
    client.close()


def test_a_model_on_this_machine_does_not_block_the_loop(store: ProfileStore) -> None:
    def slow(prompt: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.3)
        return "done"

    personalizer = Personalizer(load_llm(slow), store)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def ask() -> str:
        ticking = asyncio.create_task(tick())
        answer = await personalizer.agenerate("ana", "Well?")
        ticking.cancel()
        assert [scored.record.text for scored in answer.records] == ["A quiet film."]
        return answer.text

    assert asyncio.run(ask()) == "done"
    assert ticks > 5


def test_an_error_is_raised_and_a_cancelled_request_is_not_waited_for(server: Server, store: ProfileStore) -> None:
    personalizer = endpoint(server, store)
    with pytest.raises(EndpointError, match="content filter"):
        asyncio.run(personalizer.abatch([("ana", "A?"), ("ana", "bad?")]))
    hanging = endpoint(server, store, requests_per_minute=1)

    async def cancelled() -> float:
        await hanging.agenerate("ana", "first?")
        begun = time.perf_counter()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hanging.agenerate("ana", "second, a minute later?"), 0.2)
        return time.perf_counter() - begun

    assert asyncio.run(cancelled()) < 5
    assert server.prompts[-1] == "first?"


def test_langchain_is_awaited_on_both_sides(server: Server, store: ProfileStore) -> None:
    called = []

    async def answer(prompt: str) -> str:
        called.append(threading.current_thread() is threading.main_thread())
        return prompt.upper()

    def never(prompt: str) -> str:
        raise AssertionError("asked in a thread")

    chain = PersonalizedRunnable(Personalizer(load_llm(RunnableLambda(never, afunc=answer)), store, []))
    config = {"configurable": {"user_id": "ana"}}
    assert asyncio.run(chain.ainvoke("a", config=config)) == "A"  # type: ignore[arg-type]
    assert asyncio.run(chain.abatch(["b", "c"], config=config)) == ["B", "C"]  # type: ignore[arg-type]
    assert all(called)
    apart = PersonalizedRunnable(endpoint(server, store))
    for found in (
        apart.batch(["a", "bad", "c"], config=config, return_exceptions=True),  # type: ignore[arg-type]
        asyncio.run(apart.abatch(["a", "bad", "c"], config=config, return_exceptions=True)),  # type: ignore[arg-type]
    ):
        assert [found[0], found[2]] == ["a", "c"]
        assert isinstance(found[1], EndpointError)
    # The others were not asked again for the sake of one.
    assert sorted(server.prompts) == sorted(["a", "bad", "c"] * 2)
