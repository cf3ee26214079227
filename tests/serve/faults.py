"""A day of faults in a minute: server processes on one PostgreSQL, many clients, and whatever can break does.

Every user has a canary, a word that stands in records of theirs alone. The upstream writes down every prompt that holds
a canary of somebody else than who asks, and answers with the prompt itself, so that each client sees what it was given.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any

import httpx

from persona.records import Record
from persona.serve.keys import KeyStore
from persona.store.profile_store import ProfileStore
from tests.serve.conftest import Upstream, answer, chunks, drops, replies, streams
from tests.started import Starter

CANARY = re.compile(r"canary\d{4}")
PATIENCE = 60.0
"""Seconds after which a request counts as hanging."""
PAUSE = 0.25
"""Seconds between a client's requests, in the mean."""


def canary(user: int) -> str:
    return f"canary{user:04}"


class Faulty:
    """What the upstream does: mostly it answers with the prompt, whole or in pieces.

    Attributes:
        mixed: prompts with a canary of somebody else.
        faults: how often each fault was made.
    """

    def __init__(self, upstream: Upstream, seed: int, slow: float) -> None:
        self.mixed: list[str] = []
        self.faults: Counter[str] = Counter()
        self._draw, self._lock, self._slow = random.Random(seed), Lock(), slow
        self._upstream = upstream
        upstream.behaviour = self

    def __call__(self, handler: Any) -> None:
        body = handler.asked
        self._upstream.asked.clear()
        self._upstream.heads.clear()
        text = " ".join(str(message["content"]) for message in body["messages"])
        asker = CANARY.findall(body["messages"][-1]["content"])[-1]
        with self._lock:
            if set(CANARY.findall(text)) != {asker}:
                self.mixed.append(text)
            kind = self._draw.choices(
                ("answer", "500", "429", "late", "garbage", "drop", "broken"), (70, 5, 5, 4, 6, 5, 5)
            )[0]
            self.faults[kind] += 1
        self._behaviour(kind, text, bool(body.get("stream")))(handler)

    def _behaviour(self, kind: str, text: str, streamed: bool) -> Callable[[BaseHTTPRequestHandler], None]:
        if kind == "500":
            return replies({"error": {"message": "broken"}}, 500)
        if kind == "429":
            return replies({"error": {"message": "slowly"}}, 429, Retry_After="1")
        if kind == "garbage":
            return replies(b'{"choices": [{"mess\xff', 200)
        if kind == "drop":
            return drops
        if kind == "late":
            return self._late(text)
        words = re.findall(r"\S+\s*", text)
        if kind == "broken" and streamed:
            return streams(*chunks(*words)[:2], done=False)
        if streamed:
            return streams(*(part for event in chunks(*words) for part in (event, lambda: time.sleep(0.002))))
        return replies(answer(text))

    def _late(self, text: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def behave(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(self._slow)
            replies(answer(text))(handler)

        return behave


class Worker:
    """A `persona serve` process, which is started again when it ends.

    Attributes:
        url: where it is now.
        exits: exit codes so far.
    """

    def __init__(self, starter: Starter, store: str, folder: Path, *options: str) -> None:
        self._starter, self._arguments = starter, ("-m", "persona", "--store", store, "serve", "--port", "0", *options)
        self._folder, self.exits, self.url = folder, list[int](), ""
        self._start()

    def _start(self) -> None:
        with open(self._folder / f"worker-{id(self)}.log", "ab") as log:
            self._process = self._starter.begin(*self._arguments, stderr=log, OPENAI_API_KEY="of the operator")
        line = self._process.stdout.readline()
        assert line.startswith("persona serves "), self.log[-2000:]
        self.url = line.split()[-1]

    @property
    def log(self) -> str:
        return (self._folder / f"worker-{id(self)}.log").read_text(encoding="utf-8")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self._process.send_signal(number)
        self.exits.append(self._process.wait(90))
        self._process.close()
        return self.exits[-1]

    def restart(self, number: int) -> None:
        self.end(number)
        self._start()


class Client:
    """One user's client: asks, writes, reads, goes away in the middle, reads slowly, again and again.

    Attributes:
        seen: how often each thing ended how.
        wrong: what must never happen, in words.
    """

    def __init__(self, user: int, key: str, workers: list[Worker], seen: Counter[str], wrong: list[str]) -> None:
        self._user, self._mine, self._workers = user, canary(user), workers
        self._headers = {"Authorization": f"Bearer {key}"}
        self._draw = random.Random(user)
        self.seen, self.wrong = seen, wrong

    async def run(self, until: Callable[[], bool]) -> None:
        limits = httpx.Limits(max_keepalive_connections=2)
        async with httpx.AsyncClient(headers=self._headers, timeout=PATIENCE, limits=limits) as http:
            while not until():
                worker = self._draw.choice(self._workers)
                await asyncio.sleep(self._draw.uniform(0, 2 * PAUSE))
                act = self._draw.choices(
                    (self._ask, self._stream, self._vanish, self._slow, self._write, self._read), (6, 4, 1, 1, 1, 1)
                )[0]
                name = act.__name__.strip("_")
                try:
                    async with asyncio.timeout(PATIENCE):
                        self.seen[f"{name}: {await act(http, worker.url)}"] += 1
                except TimeoutError:
                    self.wrong.append(f"{self._mine} hung in {name}")
                except httpx.HTTPError as error:
                    self.seen[f"{name}: {type(error).__name__}"] += 1
                    await asyncio.sleep(0.1)

    def _body(self, *, stream: bool = False) -> dict[str, Any]:
        content = f"What is my favourite bird? I am {self._mine}."
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "stream": stream}

    async def _ask(self, http: httpx.AsyncClient, url: str) -> str:
        reply = await http.post(f"{url}/v1/chat/completions", json=self._body())
        if reply.status_code == 200:
            self._check(reply.json()["choices"][0]["message"]["content"], reply.json()["persona"])
        elif "error" not in reply.json():
            self.wrong.append(f"{reply.status_code} without an error: {reply.text[:200]}")
        return str(reply.status_code)

    async def _stream(self, http: httpx.AsyncClient, url: str, *, pause: float = 0.0, most: int = 10**6) -> str:
        text, used = "", None
        async with http.stream("POST", f"{url}/v1/chat/completions", json=self._body(stream=True)) as reply:
            if reply.status_code != 200:
                return str(reply.status_code)
            async for line in reply.aiter_lines():
                if line == "data: [DONE]":
                    self._check(text, used)
                    return "200"
                if not line.startswith("data:"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                if "error" in event:
                    return "error in the stream"
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                used = event.get("persona", used)
                if (most := most - 1) < 0:
                    return "left"
                await asyncio.sleep(pause)
        self.wrong.append(f"{self._mine}: a stream ended without an end or an error")
        return "broken off"

    async def _vanish(self, http: httpx.AsyncClient, url: str) -> str:
        return await self._stream(http, url, most=self._draw.randint(0, 3))

    async def _slow(self, http: httpx.AsyncClient, url: str) -> str:
        return await self._stream(http, url, pause=0.05)

    async def _write(self, http: httpx.AsyncClient, url: str) -> str:
        record = {"id": f"{self._mine}-{self._draw.randint(1, 5)}", "text": f"My favourite bird: {self._mine}."}
        reply = await http.put(f"{url}/v1/users/user%20{self._user}/records", json=record)
        return str(reply.status_code)

    async def _read(self, http: httpx.AsyncClient, url: str) -> str:
        reply = await http.get(f"{url}/v1/users/user%20{self._user}/records")
        if set(CANARY.findall(reply.text)) - {self._mine}:
            self.wrong.append(f"{self._mine} read {reply.text[:200]}")
        return str(reply.status_code)

    def _check(self, text: str, used: dict[str, Any] | None) -> None:
        """Nobody else's canary, and one's own record behind the answer."""
        if set(CANARY.findall(text)) - {self._mine}:
            self.wrong.append(f"{self._mine} was answered: {text[:300]}")
        if used is None or not used["records"] or not all(each.startswith(self._mine) for each in used["records"]):
            self.wrong.append(f"{self._mine} was answered with {used}")


def population(url: str, users: int) -> list[str]:
    """Users with a record and a key each; the keys."""
    with ProfileStore(url) as store:
        store.upsert(
            (f"user {user}", Record(f"My favourite bird: {canary(user)}.", id=f"{canary(user)}-0"))
            for user in range(users)
        )
        keys = KeyStore(store)
        return [keys.make("client", ("ask", "write"), f"user {user}")[0] for user in range(users)]


def faults(workers: list[Worker], restart_database: Callable[[], object], pause: float, done: list[str]) -> None:
    """Kill and restart each part once, a pause before each; what was done goes to `done`."""
    turns: tuple[tuple[str, Callable[[], object]], ...] = (
        ("a worker ends", lambda: workers[0].restart(signal.SIGTERM)),
        ("a worker is killed", lambda: workers[1].restart(signal.SIGKILL)),
        ("the database restarts", restart_database),
        ("the engine is killed", lambda: workers[-1].restart(signal.SIGKILL)),
    )
    for name, act in turns:
        time.sleep(pause)
        act()
        done.append(name)


async def clients(made: list[Client], ended: Callable[[], bool]) -> None:
    """All clients at once, until it has ended."""
    await asyncio.gather(*(client.run(ended) for client in made))


def drained(worker: Worker) -> bool:
    """Whether nothing waits or runs in a worker any more."""
    for _ in range(100):
        with suppress(httpx.HTTPError):
            numbers = httpx.get(f"{worker.url}/metrics").text
            busy = re.findall(r"^persona_(?:in_flight|waiting|running) (\S+)$", numbers, flags=re.MULTILINE)
            if sum(map(float, busy)) == 1:  # this request
                return True
        time.sleep(0.1)
    return False
