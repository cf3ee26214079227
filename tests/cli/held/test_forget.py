"""`persona forget`: what it erases, what it says, and what it cannot reach."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from persona.errors import StoreError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import SAMPLE, Run


def test_forget_erases_one_user(stocked: Run) -> None:
    receipt = stocked("forget", "tomás", "--yes", "--json").json
    assert {"what": "records", "removed": 7, "left": 0} in receipt["parts"]
    assert receipt["complete"]
    assert "holds nothing on 'tomás'" in stocked("retrieve", "tomás", "soup", "--json").error
    assert len(stocked("retrieve", "mara", "film", "--json").json) == 4
    gone = stocked("forget", "tomás", "--yes").error
    assert gone.startswith("persona: error: nothing was erased: the store holds nothing on 'tomás'")


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
    assert finished.out.startswith("overwrote the bytes that an earlier forget had left over; the store holds nothing")
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


def test_it_says_what_was_there_and_nothing_else(stocked: Run) -> None:
    with ProfileStore("sqlite:///persona.db") as store:
        store.upsert([("ana", Record("a"))])
    first = stocked("forget", "ana", "--yes").out.splitlines()
    assert first[0] == "erased 1 record of 'ana'"
    assert stocked("embed-users").code == 0
    assert stocked("forget", "mara", "--yes").out.splitlines()[0] == "erased 8 records and 1 vector matrix of 'mara'"


def test_it_names_what_it_cannot_reach_each_time(stocked: Run, tmp_path: Path) -> None:
    everywhere = (
        "backups and copies of the database, other exports, folders of evaluations and trainings, the memory of other "
        "processes until they end"
    )
    assert stocked("forget", "mara", "--yes").out.splitlines()[1:] == [f"not reached: {everywhere}"]
    assert stocked("embed-users", "--export", "users.parquet").code == 0
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    vectors = f"{tmp_path / 'users.parquet'} (user ids and vectors, {today})"
    assert stocked("forget", "tomás", "--yes", "--json").json["not_reached"] == [vectors, everywhere]
    assert f"; files that may hold them: {vectors}" in stocked("forget", "tomás", "--yes").error
    assert stocked("forget", "yuki-雪", "--yes").out.splitlines()[1] == f"not reached: {vectors}"
    (tmp_path / "users.parquet").unlink()
    assert stocked("forget", "ops-team", "--yes", "--json").json["not_reached"] == [everywhere]


@pytest.mark.postgres
def test_it_names_the_log_of_a_server(run: Run, postgres_store_url: str) -> None:
    assert run("ingest", SAMPLE, "--store", postgres_store_url).code == 0
    log = "the server's log (pg_wal), its archives and standbys"
    assert run("forget", "mara", "--yes", "--store", postgres_store_url, "--json").json["not_reached"][0] == log


def test_expired_records_of_all_users(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%S+00:00}"
    rows = [{"user_id": "ana", "text": "SECRET", "expires": soon}, {"user_id": "ana", "text": "kept"}]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("ingest", "h.jsonl").code == 0
    assert run("forget", "--expired").out == "no record has expired\n"
    later = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%S+00:00}"
    for module in ("profile_store", "upsert", "holdings"):
        monkeypatch.setattr(f"persona.store.{module}.now", lambda: later)
    shown = run("show", "ana").out
    assert "1 more have expired: persona forget --expired" in shown
    assert "SECRET" not in shown
    assert b"SECRET" in (tmp_path / "persona.db").read_bytes()
    assert run("forget", "--expired").out.startswith("erased 1 record that had expired, and what was made from them\n")
    assert b"SECRET" not in (tmp_path / "persona.db").read_bytes()
    assert run("show", "ana", "--json").json["expired"] == 0


def test_one_of_two_is_named(stocked: Run) -> None:
    for words in ((), ("mara", "--expired")):
        assert "name a user or --expired, one of the two" in stocked("forget", *words).error
