"""`persona ingest`, `embed-users`, `summarize` and `show`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import SAMPLE, Run, settings


def test_ingest_says_what_it_did_and_a_second_time_changes_nothing(run: Run) -> None:
    first = run("ingest", SAMPLE)
    assert (first.code, first.out) == (
        0,
        "29 records added, 0 changed, 0 unchanged, 0 blank ones skipped; the store holds 29 records of 4 users\n",
    )
    counts = {"users": 4, "added": 0, "changed": 0, "unchanged": 29, "expired": 0, "skipped": 0, "merges": []}
    assert run("ingest", SAMPLE, "--json").json == {**counts, "store": {"users": 4, "records": 29}}


def test_a_half_bad_file_leaves_the_store_as_it_was(stocked: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"user_id": "mara", "text": "one more"}\n{"user_id": "mara"}')
    assert "bad.jsonl, line 2" in stocked("ingest", "bad.jsonl").error
    assert stocked("ingest", SAMPLE, "--json").json["store"] == {"users": 4, "records": 29}


def test_the_store_is_that_of_the_option_or_the_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--store", "sqlite:///named.db", "ingest", SAMPLE).code == 0
    assert Path("named.db").exists()
    assert not Path("persona.db").exists()
    monkeypatch.setenv("PERSONA_STORE", "sqlite:///named.db")
    assert len(run("show", "mara", "--json").json["records"]) == 8
    assert "other.db: create one with" in run("show", "mara", "--store=sqlite:///other.db").error


def test_embed_users_embeds_once_and_exports(stocked: Run, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    first = stocked("embed-users", "--json").json
    assert (first["users"], first["records"], first["embedded"]) == (4, 29, 29)
    second = stocked("embed-users", "--json", "--export", "users.parquet").json
    assert (second["users"], second["embedded"], second["exported"]) == (0, 0, 4)
    table = pq.read_table(tmp_path / "users.parquet")
    assert table.column_names == ["user_id", "vector"]
    assert sorted(table["user_id"].to_pylist()) == ["mara", "ops-team", "tomás", "yuki-雪"]
    assert "4 user vectors written to users.npy" in stocked("embed-users", "--export", "users.npy").out


def test_summarize_show_and_ask(run: Run) -> None:
    with ProfileStore("sqlite:///persona.db") as store:
        reviews = [Record(f"The acting was superb, day {day}.", target="5", time=f"2011-0{day}") for day in range(1, 4)]
        store.upsert(("critic", review) for review in reviews)
    summarize = ("summarize", "--task", "LaMP_3", *settings("form=task"))
    report = run(*summarize, "--json").json
    assert (report["written"], report["users"], report["llm"][:5]) == (1, 1, "tiny@")
    assert run(*summarize).out.startswith("0 summaries written, 1 kept, of 1 users")
    shown = run("show", "critic").out
    assert "critic: 3 records, revision 1" in shown
    assert "summary:LaMP_3: up to date" in shown
    assert run("show", "critic", "--json").json["indexes"][0]["content"]["prompt"] == "task-1"
    asked = ("ask", "critic", "Which score?", "--k", "0", "--task", "LaMP_3", "--max-new-tokens", "4", "--json")
    answer = run(*asked, "--summary", "both").json
    assert answer["notes"][0].startswith("This user gave 3 scores: 5 3 times")
    assert answer["sources"][0].startswith("stats:LaMP_3:scores + llm:LaMP_3:task-1:tiny@")
    assert answer["prompt"].endswith("Which score?")
    assert "raise the context's size" in run("summarize", *settings("context_tokens=5")).error


def test_what_a_user_wrote_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    record = {"user_id": "esc", "text": "red \x1b[31m, a title \x1b]0;t\x07, turned \u202e", "target": "t\x1b[2J"}
    (tmp_path / "esc.jsonl").write_text(json.dumps(record) + "\n")
    assert run("ingest", "esc.jsonl").code == 0
    for command in (("show", "esc"), ("retrieve", "esc", "red")):
        shown = run(*command).out
        assert r"red \u001b[31m, a title \u001b]0;t\u0007, turned \u202e" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert run("retrieve", "esc", "red", "--json").json[0]["text"] == record["text"]


def test_a_store_that_can_only_be_read_is_read(run: Run, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(4000)
    url = ("--store", f"sqlite:///{disk / 'persona.db'}")
    assert run("ingest", SAMPLE, *url).code == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert run("ask", "mara", "A quiet film?", "--max-new-tokens", "4", *url, "--json").json["records"]
    assert len(run("retrieve", "mara", "film", "--retriever", "dense", *url, "--json").json) == 4
    assert len(run("show", "mara", *url, "--json").json["records"]) == 8
    for command in (("forget", "mara", "--yes"), ("ingest", SAMPLE), ("embed-users",)):
        assert "can only be read: allow writing to the file and its folder" in run(*command, *url).error


def test_records_that_expire(run: Run, tmp_path: Path) -> None:
    rows = [
        {"user_id": "ana", "text": "lasting"},
        {"user_id": "ana", "text": "brief", "expires": "2999-01"},
        {"user_id": "ana", "text": "long ago", "expires": "2020-01-01"},
    ]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("ingest", "h.jsonl", "--expires-after", "52w")
    assert done.out.startswith(
        "2 records added, 0 changed, 0 unchanged, 1 expired, 0 blank ones skipped; the store hol"
    )
    lasting, brief = run("show", "ana", "--json").json["records"]
    assert (lasting["expires"] > "2026", brief["expires"]) == (True, "2999-01")
    assert "brief  (until 2999-01)" in run("show", "ana").out
    assert run("ingest", "h.jsonl", "--expires-after", "52w", "--json").json["unchanged"] == 2
    assert "a duration must be like 90d, 12h, 30m or 2w, was: '90'" in run("ingest", "x", "--expires-after", "90").error


def test_conversations_become_records_of_the_user_who_is_named(run: Run) -> None:
    export = SAMPLE.parents[1] / "tests" / "formats" / "exports" / "chatgpt.json"
    assert "name the user (--user" in run("ingest", export).error
    assert run("ingest", export, "--user", "ana", "--json").json["added"] == 3
    assert run("ingest", export, "--user", "bo", "--roles", "user, assistant", "--json").json["added"] == 4
    assert (
        "`roles` must be of user, assistant, system" in run("ingest", export, "--user", "bo", "--roles", "tool").error
    )
    assert "a user and roles are named for conversations" in run("ingest", SAMPLE, "--user", "ana").error


def test_near_duplicates_are_merged_on_request(run: Run, tmp_path: Path) -> None:
    said = ("I moved to Turin last week", "The film was slow", "I moved to Turin last week!!")
    rows = [{"user_id": "ana", "text": text, "id": f"r{number}"} for number, text in enumerate(said)]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("ingest", "h.jsonl", "--merge-near", "0.9")
    assert done.out.splitlines() == [
        "ana: r0 'I moved to Turin last week' merged into r2 'I moved to Turin last week!!' (1.00)",
        "2 records added, 0 changed, 0 unchanged, 1 merged into newer ones, 0 blank ones skipped; the store holds 2 "
        "records of 1 users",
    ]
    (merge,) = run("ingest", "h.jsonl", "--merge-near", "0.9", "--encoder", "hashing", "--json").json["merges"]
    assert (merge["dropped"]["id"], merge["kept"]["id"]) == ("r0", "r2")
    assert "give --merge-near, or leave it out" in run("ingest", "h.jsonl", "--encoder", "hashing").error
    assert "a threshold must be above 0 and at most 1, was: 2.0" in run("ingest", "h.jsonl", "--merge-near", "2").error
