"""Embedding killed with SIGKILL at random moments, and resumed, ends in the store of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persona.encoders.load import load_encoder
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint

KILLS = 12

# Imports take seconds, so they are made once: each run is a fork of this process, which itself uses no thread.
RUNNER = """
import os, sys
import sentence_transformers
import persona.encoders.batches
from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.store.profile_store import ProfileStore
for line in sys.stdin:
    url, name, chunk_records = line.split()
    child = os.fork()
    if not child:
        encoder = load_encoder(name, dtype="float32", device="cpu", workers=2)
        with ProfileStore(url) as store:
            embed_users(store, encoder, chunk_records=int(chunk_records))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Runner:
    """Runs `embed_users` in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, path: Path, encoder: str, chunk_records: int, *, kill_at: int | None = None, delay: float = 0
    ) -> bool:
        """Whether it came to its end, which it must if it is not killed: `delay` after `kill_at` users are embedded."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(f"sqlite:///{path}", encoder, chunk_records, file=stdin, flush=True)
        child = int(stdout.readline())
        if kill_at is not None:
            with ProfileStore(f"sqlite:///{path}") as store:
                while store.counts().vectors < kill_at and alive(child):
                    time.sleep(0.001)
            time.sleep(delay)
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                kill_at = None  # It was faster.
        code = int(stdout.readline())
        assert code == 0 or (kill_at is not None and code == -signal.SIGKILL)
        return code == 0

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    started = Runner()
    yield started
    started.close()


def histories() -> list[tuple[str, Record]]:
    dice = random.Random(7)
    words = [f"{first}{second}" for first in ("mo", "ro", "ca", "wea", "fi") for second in ("ody", "ther", "lm", "r")]
    return [
        (f"user {user}", Record(" ".join(dice.choices(words, k=dice.randint(3, 40))), id=f"r{number}"))
        for user in range(60)
        for number in range(dice.randint(1, 7))
    ]


def contents(path: Path, fingerprint: str) -> dict[str, tuple[object, ...]]:
    """Everything that the vectors of all users are, to the byte."""
    with ProfileStore(f"sqlite:///{path}") as store:
        vectors = {user_id: store.vectors(user_id, fingerprint) for user_id in store.user_ids()}
    return {
        user_id: (each.record_ids, each.hashes, each.matrix.tobytes(), each.revision)
        for user_id, each in vectors.items()
        if each is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "chunk_records"), [("hashing:64", 2), ("minilm", 16)])
def test_killed_at_random_moments_it_resumes_to_the_same_store(
    runner: Runner, tmp_path: Path, encoder: str, chunk_records: int
) -> None:
    fingerprint = vector_fingerprint(load_encoder(encoder, dtype="float32", device="cpu"), "text")
    empty, undisturbed, disturbed = (tmp_path / f"{name}.db" for name in ("empty", "undisturbed", "disturbed"))
    with ProfileStore(f"sqlite:///{empty}") as store:
        store.upsert(histories())

    shutil.copy(empty, undisturbed)
    runner.run(undisturbed, encoder, chunk_records)  # Whatever is slow for the first time is not timed.
    shutil.copy(empty, undisturbed)
    begun = time.monotonic()
    runner.run(undisturbed, encoder, chunk_records)
    seconds = time.monotonic() - begun
    expected = contents(undisturbed, fingerprint)
    assert len(expected) == 60

    dice = random.Random(chunk_records)
    kills = partial = 0
    shutil.copy(empty, disturbed)
    while kills < KILLS:
        # A moment that follows what is done, not the clock: a busy machine begins late.
        kill_at, delay = dice.randrange(45), dice.uniform(0, seconds / 60)
        if runner.run(disturbed, encoder, chunk_records, kill_at=kill_at, delay=delay):
            assert contents(disturbed, fingerprint) == expected
            shutil.copy(empty, disturbed)
            continue
        kills += 1
        written = contents(disturbed, fingerprint)
        assert written.items() <= expected.items()
        partial += 0 < len(written) < len(expected)
    runner.run(disturbed, encoder, chunk_records)
    assert contents(disturbed, fingerprint) == expected
    assert partial >= KILLS / 2, "the kills met no run in its midst"
    with sqlite3.connect(disturbed) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
