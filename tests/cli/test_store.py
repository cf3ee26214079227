"""`persona ingest`, `embed-users`, `summarize`, `show` and `forget`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from persona.errors import StoreError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import SAMPLE, Run, settings


def test_ingest_says_what_it_did_and_a_second_time_changes_nothing(run: Run) -> None:
    first = run("ingest", SAMPLE)
    assert (first.code, first.out) == (
        0,
        "29 records added, 0 changed, 0 unchanged, 0 blank ones skipped; the store holds 29 records of 4 users\n",
    )
    counts = {"users": 4, "added": 0, "changed": 0, "unchanged": 29, "skipped": 0}
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


def test_forget_erases_one_user(stocked: Run) -> None:
    assert stocked("forget", "tomás", "--yes", "--json").json["records"] == 7
    assert "holds nothing on 'tomás'" in stocked("retrieve", "tomás", "soup", "--json").error
    assert len(stocked("retrieve", "mara", "film", "--json").json) == 4
    gone = stocked("forget", "tomás", "--yes")
    assert gone.error == "persona: error: the store holds nothing on 'tomás': nothing was erased"


def test_forget_asks_first(stocked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(SystemExit(1)))
    assert stocked("forget", "mara").code == 1
    assert stocked("show", "mara", "--json").json["records"]


def test_forget_finishes_what_was_stopped_between_rows_and_bytes(stocked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise StoreError("their bytes could not be overwritten; call forget once more")

    with monkeypatch.context() as patched:
        patched.setattr("persona.store.erasure._rewrite_sqlite", stopped)
        assert stocked("forget", "tomás", "--yes").code == 1
    finished = stocked("forget", "tomás", "--yes")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith("finished what an earlier forget had left over")
    assert stocked("forget", "tomás", "--yes").code == 1


@pytest.mark.parametrize("how", ["option", "setting"])
def test_forget_reaches_the_exports_of_who_was_forgotten_before(
    stocked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name in ("tom%C3%A1s@2", "mara@1"):
        (tmp_path / "out" / name).mkdir(parents=True)
    assert stocked("forget", "tomás", "--yes").code == 0
    if how == "setting":
        monkeypatch.setenv("PERSONA_LORA_FOLDER", str(tmp_path / "out"))
    finished = stocked("forget", "tomás", "--yes", *(["--exports", tmp_path / "out"] if how == "option" else []))
    assert (finished.code, "1 exported adapter" in finished.out) == (0, True)
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["mara@1"]


def test_forget_with_a_folder_that_is_not_there_erases_nothing(stocked: Run) -> None:
    assert stocked("forget", "mara", "--yes", "--exports", "nope").code == 1
    assert stocked("retrieve", "mara", "film", "--json").json


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
