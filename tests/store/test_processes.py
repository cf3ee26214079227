"""Processes and threads on one store: none loses what another wrote, and a killed one leaves nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from persona.errors import StoreError
from persona.records import Record
from persona.store.connecting import waiting
from persona.store.profile_store import ProfileStore, StoreCounts

WRITER = """
import sys, persona.store.upsert
from persona import ProfileStore, Record
persona.store.upsert.CHUNK_RECORDS = 50
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ProfileStore(url) as store:
    print("open", flush=True)
    for turn in range(count):
        store.upsert((f"user {number}", Record(f"{name} {turn}", id=f"{name} {turn}")) for number in range(20))
        profile = store.profile(f"user {turn % 20}")
        assert f"{name} {turn}" in [record.id for record in profile]
"""

ENDLESS = """
import itertools, sys, persona.store.upsert
from persona import ProfileStore, Record
persona.store.upsert.CHUNK_RECORDS = 50
def records():
    for number in itertools.count():
        if number == 500:
            print("writing", flush=True)
        yield f"user {number % 97}", Record(f"text {number}", id=f"record {number % 500}")
try:
    with ProfileStore(sys.argv[1]) as store:
        store.upsert(records())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    # A test run in the background has SIGINT ignored, and so would have its children.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.Popen([sys.executable, "-c", heard + script, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_that_open_and_write_at_once(store_url: str) -> None:
    writers = [start(WRITER, store_url, f"writer {number}", "10") for number in range(4)]
    assert [writer.communicate(timeout=120)[0] for writer in writers] == ["open\n"] * 4
    assert [writer.returncode for writer in writers] == [0] * 4
    with ProfileStore(store_url) as store:
        assert store.counts() == StoreCounts(users=20, records=800, vectors=0, indexes=0)
        for number in range(20):
            profile = store.profile(f"user {number}")
            assert len({record.id for record in profile}) == 40
            assert profile.revision == 40


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_an_upsert_that_is_killed_leaves_the_store_as_it_was(store_url: str, sign: signal.Signals) -> None:
    with ProfileStore(store_url) as store:
        store.upsert((f"user {number}", Record("old", id=f"record {number}")) for number in range(10))
        before = [store.profile(f"user {number}") for number in range(97)], store.counts()
    process = start(ENDLESS, store_url)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.3)  # somewhere in the middle of it
    process.send_signal(sign)
    rest, _ = process.communicate(timeout=60)
    assert rest == ("interrupted\n" if sign == signal.SIGINT else "")
    with ProfileStore(store_url) as store:
        assert ([store.profile(f"user {number}") for number in range(97)], store.counts()) == before
        assert store.upsert([("user 3", Record("new", id="record 3"))]).changed == 1


def test_threads_share_a_store(store_url: str) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            store.upsert([(f"user {number}", Record(f"text {turn}")), ("everyone", Record(f"{number} {turn}"))])
            assert len(store.profile(f"user {number}")) == turn + 1

    with ProfileStore(store_url) as store:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert len(store.profile("everyone")) == 40
        assert store.profile("everyone").revision == 40


def test_a_reader_sees_all_of_an_upsert_or_nothing(store_url: str) -> None:
    done = threading.Event()
    seen = set()

    def read() -> None:
        with ProfileStore(store_url) as reader:
            while not done.is_set():
                profile = reader.profile("ana")
                seen.add((profile.revision, len(profile), len({record.text for record in profile})))

    with ProfileStore(store_url) as store:
        store.upsert(("ana", Record("turn 0", id=str(number))) for number in range(50))
        thread = threading.Thread(target=read)
        thread.start()
        for turn in range(1, 21):
            store.upsert(("ana", Record(f"turn {turn}", id=str(number))) for number in range(50))
        done.set()
        thread.join()
    assert seen
    assert {(records, texts) for _, records, texts in seen} == {(50, 1)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_goes_on_in_a_forked_child(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("before", id="1"))])
        child = os.fork()
        if not child:
            # Nothing of pytest may run in the child.
            good = False
            try:
                good = store.profile("ana")[0].text == "before"
                store.upsert([("ana", Record("in the child", id="2"))])
                good &= len(store.profile("ana")) == 2
            finally:
                os._exit(0 if good else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert [record.text for record in store.profile("ana")] == ["before", "in the child"]
        assert store.upsert([("ana", Record("after", id="3"))]).added == 1


def test_a_writer_that_waits_too_long_says_why(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BUSY_SECONDS", 1)

    def slow() -> Iterator[tuple[str, Record]]:
        yield "ana", Record("a", id="1")
        yield "ana", Record("b", id="1")  # the record before is written now
        with (
            ProfileStore(store_url) as other,
            pytest.raises(StoreError, match="another process is writing to it: wait until it is done") as raised,
        ):
            other.upsert([("ana", Record("c", id="1"))])
        assert "\n" not in str(raised.value)

    ProfileStore(store_url).close()
    with ProfileStore(store_url) as store:
        assert store.upsert(slow()).changed == 1
        assert store.profile("ana")[0].text == "b"


@pytest.mark.postgres
def test_of_two_writers_in_each_others_way_one_is_told_to_run_again(postgres_store_url: str) -> None:
    """The input is a stream and cannot be read again, so a deadlock ends one of the two."""
    met = threading.Barrier(2)

    def pairs(first: str, second: str) -> Iterator[tuple[str, Record]]:
        yield first, Record("a", id="1")
        yield first, Record("b", id="1")
        met.wait()
        yield second, Record("a", id="1")
        yield second, Record("b", id="1")

    with ProfileStore(postgres_store_url) as store:
        store.upsert((user_id, Record("old", id="1")) for user_id in ("lock 1", "lock 2"))
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(store.upsert, pairs(*order)) for order in (("lock 1", "lock 2"), ("lock 2", "lock 1"))]
            errors = [run.exception(timeout=60) for run in runs]
        assert sorted(type(error).__name__ for error in errors) == ["NoneType", "StoreError"]
        assert any("was changing the same users" in str(error) for error in errors)
        assert store.profile("lock 1")[0].text == store.profile("lock 2")[0].text == "b"
