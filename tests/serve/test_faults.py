"""Whatever breaks, no answer is mixed or lost without an error, nothing hangs, and the queue is empty at the end.

``PERSONA_FAULT_SECONDS=600 pytest tests/serve/test_faults.py -s`` goes on for ten minutes and says what happened.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import postgres_server
from tests.serve.conftest import Upstream
from tests.serve.faults import Client, Faulty, Worker, clients, drained, faults, population
from tests.started import Starter

SECONDS = float(os.environ.get("PERSONA_FAULT_SECONDS", "12"))
CLIENTS = 64


@pytest.mark.slow
@pytest.mark.postgres
def test_clients_workers_upstream_and_database_fail(
    starter: Starter, upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with postgres_server() as (database, restart_database):
        keys = population(database, CLIENTS)
        faulty = Faulty(upstream, seed=0, slow=3.0)
        before = ["--llm", f"openai:gpt@{upstream.url}", "--set", "timeout=2", "--set", "drain_seconds=10"]
        engine = ["--llm", "tiny", "--set", "rows=8", "--set", "waiting=32", "--set", "drain_seconds=10"]
        workers = [Worker(starter, database, tmp_path, *options) for options in (before, before, engine)]
        seen, wrong, done = Counter[str](), list[str](), list[str]()
        made = [Client(user, key, workers, seen, wrong) for user, key in enumerate(keys)]
        end = time.monotonic() + SECONDS
        with ThreadPoolExecutor(1) as breaking:
            broken = breaking.submit(faults, workers, restart_database, SECONDS / 6, done)
            asyncio.run(clients(made, lambda: time.monotonic() > end and broken.done()))
            broken.result()
        quiet = [drained(worker) for worker in workers]
        codes = [worker.end() for worker in workers]
        logs = "".join(worker.log for worker in set(workers))
    with capsys.disabled():
        if SECONDS > 60:
            print(*sorted(seen.items()), *faulty.faults.items(), done, sep="\n")  # noqa: T201
    assert wrong == []
    assert faulty.mixed == []
    assert quiet == [True] * 3
    assert codes == [0] * 3
    assert min(seen["ask: 200"], seen["stream: 200"], seen["write: 200"], seen["read: 200"], seen["vanish: left"]) > 20
    assert all(seen[f"ask: {status}"] for status in (429, 502, 504))
    assert "canary" not in logs
    assert "favourite" not in logs
    assert "Traceback" not in logs
