"""The server's engine: what it is worth against other ways to answer the same requests, in the same run.

    python benchmarks/serve.py [--rounds 2] [--requests 16] [--new 64] [--clients 64] [--threads 1] [--json]
                               [--only personal,first,text,memory,server] [--server URL]

SmolLM2 (135 million parameters, float32, CPU). Each request has a prompt of 5 to 60 words; a personal one has a soft
prompt of 4 to 12 vectors, every second one an adapter of its own (rank 8, query and value layers). Arms take turns; the
best time of each counts, as wall clock and as CPU time, which other work on the machine disturbs less.

- ``personal``: all requests at once in the engine, against the same one after another (`TransformersLM.generate`), and
  against the same prompts without personalization in the engine.
- ``text``: prompts alone in the engine, against transformers' own continuous batching (``generate_batch``, what
  ``transformers serve`` answers with, without its HTTP), and against static batches of ``generate``.
- ``server``: prompts alone in the engine, against another server of the same model: ``--server
  http://127.0.0.1:8080/v1`` is an OpenAI-compatible one, e.g. ``llama-server -m smollm2.gguf -np 16 -c 16384 -t 1``.
- ``memory``: with `tiny` and the whole application, resident memory after 10,000 requests of 1,000 users with records
  and adapters, against that after the first 1,000 (target: within 3 %).
- ``first``: time to the first token of `--clients` clients who ask at once, against one client.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from fastapi import FastAPI
from transformers import GenerationConfig
from transformers.generation import ContinuousBatchingConfig

from persona.adapters.bank import AdapterBank
from persona.adapters.family import LoraSpec
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.stacked import StackedLoRA
from persona.adapters.versions import AdapterDraft
from persona.assembly import PersonalizationOptions
from persona.llm.continuous.engine import Engine, EngineOptions
from persona.llm.continuous.sampling import SamplingOptions
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.records import Record
from persona.serve.app import app_of
from persona.serve.opening import opened_state
from persona.serve.state import ServerOptions
from persona.store.profile_store import ProfileStore

TEXT = "the library bought a new ladder on Monday and the museum found an old painting in its cellar last week"

warnings.filterwarnings("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description="the server's engine beside other ways to answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--server", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--only", default="personal,first,text")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = {"personal": personal, "text": text, "first": first, "memory": memory, "server": server}
    results = {}
    for name in arguments.only.split(","):
        llm = load_llm("tiny" if name == "memory" else "smollm2", device="cpu")
        assert isinstance(llm, TransformersLM)
        results[name] = rows[name](llm, arguments)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        print(name)
        for what, value in result.items():
            print(f"  {what:42} {value:10.3f}")


def personal(llm: TransformersLM, arguments: argparse.Namespace) -> dict[str, float]:
    """Personal requests at once, one after another, and without what is personal."""
    with adapters(llm, arguments.requests) as names:
        requests = mixed(llm, arguments.requests, names)
        plain = [Request(request.prompt) for request in requests]
        options = SamplingOptions(max_new_tokens=arguments.new)
        with Engine(llm, EngineOptions(rows=arguments.requests)) as engine:
            best = times(
                {
                    "engine": lambda: in_engine(engine, requests, options),
                    "engine, not personal": lambda: in_engine(engine, plain, options),
                    "one after another": lambda: one_by_one(llm, requests, options.generation),
                },
                arguments.rounds,
            )
    return {
        **rates(best),
        "engine / one after another (target 4)": ratio(best, "engine", "one after another"),
        "personal / not personal (target 0.9)": ratio(best, "engine", "engine, not personal"),
        "the same by CPU time, 1": ratio(best, "engine", "one after another", cpu=True),
        "the same by CPU time, 2": ratio(best, "engine", "engine, not personal", cpu=True),
    }


def text(llm: TransformersLM, arguments: argparse.Namespace) -> dict[str, float]:
    """Prompts alone, against transformers' continuous batching and its static batches."""
    requests = [Request(request.prompt) for request in mixed(llm, arguments.requests, [])]
    options = SamplingOptions(max_new_tokens=arguments.new)
    ids = llm.prompt_ids([request.prompt for request in requests])
    rules = llm.frozen.rules(options.generation)
    paged = ContinuousBatchingConfig(num_blocks=128, max_batch_tokens=1024)

    def continuous() -> int:
        plain = GenerationConfig(
            max_new_tokens=arguments.new, do_sample=False, eos_token_id=rules.eos_token_id, pad_token_id=llm.pad_token
        )
        model: Any = llm.model
        with torch.inference_mode(False):
            answers = model.generate_batch(
                ids,
                generation_config=plain,
                continuous_batching_config=paged,
                progress_bar=False,
                persistent_manager=True,
            )
        return sum(len(answer.generated_tokens) for answer in answers.values())

    with Engine(llm, EngineOptions(rows=arguments.requests)) as engine:
        best = times(
            {
                "engine": lambda: in_engine(engine, requests, options),
                "generate_batch": continuous,
                "static batches": lambda: static(llm, requests, options.generation),
            },
            arguments.rounds,
        )
    return {
        **rates(best),
        "engine / generate_batch (target 1)": ratio(best, "engine", "generate_batch"),
        "engine / static batches": ratio(best, "engine", "static batches"),
        "the same by CPU time, 1": ratio(best, "engine", "generate_batch", cpu=True),
        "the same by CPU time, 2": ratio(best, "engine", "static batches", cpu=True),
    }


def server(llm: TransformersLM, arguments: argparse.Namespace) -> dict[str, float]:
    """Prompts alone, against another server of the same model, whose tokens are those that it counts."""
    requests = [Request(request.prompt) for request in mixed(llm, arguments.requests, [])]
    options = SamplingOptions(max_new_tokens=arguments.new)

    async def ask(client: httpx.AsyncClient, prompt: str) -> int:
        body = {"model": "", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        reply = await client.post("chat/completions", json={**body, "max_tokens": arguments.new, "cache_prompt": False})
        reply.raise_for_status()
        return int(reply.json()["usage"]["completion_tokens"])

    async def all_at_once() -> int:
        async with httpx.AsyncClient(base_url=arguments.server, timeout=600) as client:
            return sum(await asyncio.gather(*(ask(client, request.prompt) for request in requests)))

    with Engine(llm, EngineOptions(rows=arguments.requests)) as engine:
        best = times(
            {"engine": lambda: in_engine(engine, requests, options), "the server": lambda: asyncio.run(all_at_once())},
            arguments.rounds,
        )
    return {**rates(best), "engine / the server": ratio(best, "engine", "the server")}


def first(llm: TransformersLM, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds to the first token, with many clients who ask at once and with one."""
    options = SamplingOptions(max_new_tokens=8)
    requests = [Request(request.prompt) for request in mixed(llm, arguments.clients, [])]
    begun: dict[int, float] = {}
    with Engine(llm, EngineOptions(rows=16)) as engine:
        single = []
        for request in requests[:8]:
            start = time.perf_counter()
            ticket = engine.submit(request, options)
            while not ticket.tokens:
                time.sleep(0.0005)
            single.append(time.perf_counter() - start)
            ticket.result()
        start = time.perf_counter()
        tickets = [engine.submit(request, options, client=str(n)) for n, request in enumerate(requests)]
        while len(begun) < len(tickets):
            for n, ticket in enumerate(tickets):
                if n not in begun and ticket.tokens:
                    begun[n] = time.perf_counter() - start
            time.sleep(0.0005)
    many = sorted(begun.values())
    return {
        "one client, p50 s": statistics.median(single),
        f"{len(many)} clients, p50 s": statistics.median(many),
        f"{len(many)} clients, p99 s": many[int(0.99 * (len(many) - 1))],
    }


def memory(llm: TransformersLM, arguments: argparse.Namespace) -> dict[str, float]:
    """Resident memory while requests go on."""
    users, requests, process = 1_000, 10_000, psutil.Process()
    held: list[float] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"ladder number {number}?"}], "max_tokens": 4}
        reply = await client.post("/v1/chat/completions", json={**body, "user": f"user {number % users}"})
        assert reply.status_code == 200, reply.text

    async def asked(app: FastAPI) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            for start in range(0, requests, 50):
                await asyncio.gather(*(ask(client, number) for number in range(start, start + 50)))
                if (start + 50) % 1_000 == 0:
                    give_back()
                    held.append(process.memory_info().rss / 2**20)

    with bank_of(llm, users) as (store, _):
        parts = PersonalizationOptions(adapters=True)
        with opened_state(llm, store, parts, ServerOptions(answer_tokens=8)) as state:
            asyncio.run(asked(app_of(state)))
    return {
        f"after {len(held) * 1_000:,} requests, MiB": held[-1],
        "after 1,000 requests, MiB": held[0],
        "ratio (target 1.03)": held[-1] / held[0],
        "the last against the middle": held[-1] / held[len(held) // 2],
    }


def give_back() -> None:
    """Gives free memory back to the system, so that what is resident is what is held (glibc keeps it otherwise)."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def mixed(llm: TransformersLM, number: int, names: Sequence[str]) -> list[Request]:
    """Personal requests of different lengths."""
    chance, generator = random.Random(0), torch.Generator().manual_seed(0)
    scale = llm.frozen.embeddings.std()
    return [
        Request(
            "Write a headline: " + " ".join(chance.choices(TEXT.split(), k=chance.randint(5, 60))),
            torch.randn(chance.randint(4, 12), llm.hidden_size, generator=generator) * scale,
            names[n] if names and n % 2 else None,
        )
        for n in range(number)
    ]


@contextmanager
def adapters(llm: TransformersLM, number: int) -> Iterator[list[str]]:
    """Names of adapters that the LLM takes meanwhile."""
    with bank_of(llm, number) as (_, bank), AdapterPool(bank, llm):
        yield [f"user {n}@1" for n in range(number)]


@contextmanager
def bank_of(llm: TransformersLM, number: int) -> Iterator[tuple[ProfileStore, AdapterBank]]:
    """A store whose users have records and adapters."""
    spec = LoraSpec(r=8, targets=("q_proj", "v_proj"))
    with StackedLoRA(llm.model, spec, 1, base=llm.fingerprint) as stack:
        family = stack.family
    generator = torch.Generator().manual_seed(0)
    users = [f"user {n}" for n in range(number)]
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{Path(folder) / 'persona.db'}") as store:
        store.upsert((user, Record(f"{user} bought a ladder, {n}")) for user in users for n in range(20))
        bank = AdapterBank(store)
        bank.add_family(family)
        drafts = [AdapterDraft(user, torch.randn(family.size, generator=generator) * 0.01, 1) for user in users]
        bank.publish(family, drafts)
        yield store, bank


def in_engine(engine: Engine, requests: Sequence[Request], options: SamplingOptions) -> int:
    """Answers all at once; returns the number of tokens that were written."""
    tickets = [engine.submit(request, options, client=str(n)) for n, request in enumerate(requests)]
    return sum(ticket.result().completion_tokens for ticket in tickets)


def static(llm: TransformersLM, requests: Sequence[Request], options: GenerationOptions) -> int:
    """Answers all in static batches; counts the tokens of the texts, and the end tokens."""
    answers = [answer for _, answer in llm.generate_each(requests, options)]
    ids = llm.target_ids([answer.text for answer in answers])
    return sum(len(own) - (answer.finish == "length") for own, answer in zip(ids, answers, strict=True))


def one_by_one(llm: TransformersLM, requests: Sequence[Request], options: GenerationOptions) -> int:
    """Answers one request after another."""
    return sum(static(llm, [request], options) for request in requests)


def times(arms: dict[str, Callable[[], int]], rounds: int) -> dict[str, tuple[float, float, int]]:
    """The best wall and CPU seconds of each arm, which take turns, and the tokens that it wrote."""
    best: dict[str, tuple[float, float, int]] = {}
    for _ in range(rounds):
        for name, arm in arms.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = arm()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            before = best.get(name, (wall, cpu, tokens))
            best[name] = min(wall, before[0]), min(cpu, before[1]), tokens
    return best


def rates(best: dict[str, tuple[float, float, int]]) -> dict[str, float]:
    """Tokens a second of each arm."""
    return {f"{name}, tokens/s": tokens / wall for name, (wall, _, tokens) in best.items()}


def ratio(best: dict[str, tuple[float, float, int]], arm: str, against: str, *, cpu: bool = False) -> float:
    """How many times as many tokens a second an arm writes as another."""
    (mine, theirs) = (best[name][2] / best[name][int(cpu)] for name in (arm, against))
    return mine / theirs


if __name__ == "__main__":
    main()
