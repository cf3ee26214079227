"""Summaries in the store: written once, stale when a record changes, gone with the record and with the user."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from persona.llm.load import load_llm
from persona.records import Profile, Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore
from persona.summaries.stored import StoredSummaries, Summary, stored_summary, summarize_users, summary_kind
from persona.summaries.writing import SummaryOptions
from tests.summaries.conftest import Asked, records


def test_a_summary_names_all_it_rests_on(store: ProfileStore, asked: Asked) -> None:
    report = summarize_users(store, asked.llm, SummaryOptions(task="LaMP-3"))
    assert (report.users, report.written, report.fresh, report.empty) == (2, 2, 0, 0)
    summary = stored_summary(store, "ana", "LaMP_3")
    assert summary is not None
    assert summary.text == "saw 3 quotations"
    assert (summary.task, summary.prompt, summary.llm) == ("LaMP_3", "instruct-1", "callable:asked")
    profile = store.profile("ana")
    assert dict(summary.records) == {record.id: record.content_hash for record in profile}
    assert summary.revision == profile.revision
    assert "how strictly the user scores" in asked.prompts[0]
    assert stored_summary(store, "ana") is None  # another task's


def test_only_missing_and_stale_ones_are_written(store: ProfileStore, asked: Asked) -> None:
    options, calls = SummaryOptions(stale_after=2), []
    summarize_users(store, asked.llm, options)
    assert len(asked.prompts) == 2
    store.upsert(("ana", record) for record in records(2, start=50))
    report = summarize_users(store, asked.llm, options, progress=lambda done, total: calls.append((done, total)))
    assert (report.fresh, calls[-1]) == (2, (2, 2))
    assert len(asked.prompts) == 2
    store.upsert([("ana", record) for record in records(1, start=70)])
    assert summarize_users(store, asked.llm, options).written == 1
    assert len(asked.prompts) == 3
    summary = stored_summary(store, "ana")
    assert summary is not None
    assert summary.behind(store.profile("ana")) == 0
    # Another LLM, or another way to ask, writes all of them anew.
    assert summarize_users(store, load_llm(lambda prompt: "x", name="other"), options).written == 2


def test_a_summary_of_a_changed_record_is_stale_at_once(store: ProfileStore) -> None:
    """Or it would go on repeating what the user has corrected."""
    store.upsert([("cy", Record("I eat meat", id="r")), ("cy", Record("and bread", id="s"))])
    quotes = load_llm(lambda prompt: prompt.split('"')[1], name="quotes")
    summarize_users(store, quotes)
    readers = StoredSummaries(store), StoredSummaries(store, stale_after=None)

    def read() -> list[str]:
        return [reader([store.profile("cy")])[0][0] for reader in readers]

    assert read() == ["I eat meat"] * 2
    store.upsert([("cy", Record("I eat no meat", id="r"))])
    summary = stored_summary(store, "cy")
    assert summary is not None
    assert summary.behind(store.profile("cy")) == 0
    assert read() == [""] * 2
    report = summarize_users(store, quotes)
    assert (report.written, report.fresh) == (1, 2)
    assert read() == ["I eat no meat"] * 2


def test_a_summary_is_stale_for_a_profile_that_lacks_a_record_of_it() -> None:
    one, two, three = records(3)
    summary = Summary("ana", "free", "x", "p", "l", 0, {each.id: each.content_hash for each in (one, two)})
    assert not summary.stale(Profile("ana", (one, two)), 0)
    assert summary.stale(Profile("ana", (one,)), None)
    assert summary.stale(Profile("ana", (one, two, three)), 0)
    assert not summary.stale(Profile("ana", (one, two, three)), 1)
    assert not summary.stale(Profile("ana", (one, two, three)), None)


def test_a_failing_llm_keeps_what_was_written(store: ProfileStore) -> None:
    store.upsert((f"user{number}", record) for number in range(8) for record in records(1))
    calls = 0

    def fails(prompt: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise RuntimeError("the meter ran out")
        return "ok"

    llm, options = load_llm(fails, name="fails"), SummaryOptions(users_at_once=2)
    report = summarize_users(store, llm, options)
    assert (report.written, len(report.failures)) == (4, 6)
    assert all("the meter ran out" in reason for reason in report.failures.values())
    calls = -100
    report = summarize_users(store, llm, options)
    assert (report.written, report.fresh, report.failures) == (6, 4, {})


def test_a_damaged_summary_counts_as_none(store: ProfileStore, asked: Asked) -> None:
    for data in (b"\xff\x00", b"[]", b'{"text": "x"}', b'{"text":"x","task":"t","prompt":"p","llm":"l","records":[]}'):
        store.put_indexes([StoredIndex("ana", summary_kind("free"), store.profile("ana").revision, data)])
        assert stored_summary(store, "ana") is None
    assert StoredSummaries(store)([store.profile("ana")]) == [("", "")]
    assert summarize_users(store, asked.llm).written == 2


def test_what_is_deleted_or_forgotten_takes_the_summary_with_it(store: ProfileStore, tmp_path: Path) -> None:
    store.upsert([("zoe", Record("xq7secret film")), ("zoe", Record("another one"))])
    summarize_users(store, load_llm(lambda prompt: "likes the xq7secret " * 9, name="tells"))
    assert stored_summary(store, "zoe") is not None
    store.delete_records("zoe", [store.profile("zoe")[0].id])
    assert stored_summary(store, "zoe") is None
    assert stored_summary(store, "ana") is not None
    summarize_users(store, load_llm(lambda prompt: "likes the xq7secret " * 9, name="tells"))
    assert b"xq7secret" in file_bytes(tmp_path)
    for user in ("ana", "bo", "zoe"):
        assert store.forget(user).indexes == 1
    assert b"xq7secret" not in file_bytes(tmp_path)


def test_a_forgotten_user_does_not_come_back_by_a_slow_summary(store: ProfileStore) -> None:
    def forgets(prompt: str) -> str:
        store.forget("ana")
        store.upsert([("ana", Record("a new person by that name"))])
        return "about the old ana"

    report = summarize_users(store, load_llm(forgets, name="forgets"))
    assert (report.written, report.passed_over) == (1, 1)
    assert stored_summary(store, "ana") is None


def file_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


def count(store: ProfileStore, users: Iterable[str]) -> int:
    return sum(stored_summary(store, user) is not None for user in users)


SLOW = """
import sys, time
from persona.llm.load import load_llm
from persona.store.profile_store import ProfileStore
from persona.summaries.stored import summarize_users
from persona.summaries.writing import SummaryOptions
def answer(prompt):
    time.sleep(0.004)
    return f"{len(prompt)} characters"
with ProfileStore(sys.argv[1]) as store:
    llm = load_llm(answer, name="slow")
    summarize_users(store, llm, SummaryOptions(users_at_once=4))
"""


@pytest.mark.slow
def test_killed_and_run_again_it_ends_in_the_same_store(tmp_path: Path) -> None:
    users = {f"user{number}": records(1 + number % 5, start=number) for number in range(120)}
    stores = []
    for name in ("whole", "killed"):
        url = f"sqlite:///{tmp_path / f'{name}.db'}"
        with ProfileStore(url) as store:
            store.upsert((user, record) for user, some in users.items() for record in some)
        stores.append(url)
    subprocess.run([sys.executable, "-c", SLOW, stores[0]], check=True, capture_output=True)
    written = [0]
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SLOW, stores[1]])
        with ProfileStore(stores[1]) as store:
            # Until some more chunks are in, at whatever moment of the next one that is.
            while process.poll() is None and count(store, users) < written[-1] + 10:
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            written.append(count(store, users))
    assert all(one < other < len(users) for one, other in itertools.pairwise(written))
    subprocess.run([sys.executable, "-c", SLOW, stores[1]], check=True)
    with ProfileStore(stores[0]) as whole, ProfileStore(stores[1]) as killed:
        for user in users:
            one, other = (each.index(user, summary_kind("free")) for each in (whole, killed))
            assert one is not None
            assert one == other
            assert json.loads(one.data)["text"].endswith("characters")
