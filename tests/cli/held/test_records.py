"""`persona records`: one record, without a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import Run


def test_a_record_is_added_listed_edited_and_deleted(run: Run, tmp_path: Path) -> None:
    added = run(
        "records", "add", "ana", "Loved it.", "--target", "5", "--time", "2013-9-3", "--metadata", "film=Bullitt"
    )
    record = Record("Loved it.", target="5", time="2013-09-03", metadata={"film": "Bullitt"})
    assert added.out == f"added the record {record.id} of 'ana'\n"
    assert run("records", "add", "ana", "SECRET word", "--id", "r2").code == 0
    assert run("records", "ana").out == f"r2  undated     SECRET word\n{record.id}  2013-09-03  Loved it.  -> 5\n"
    assert run("records", "list", "ana").out == run("records", "ana").out
    assert [each["id"] for each in run("records", "ana", "--where", "film=Bullitt", "--json").json] == [record.id]

    edited = run(
        "records", "edit", "ana", "r2", "--text", "Another word", "--target", "1", "--metadata", "a=b", "--json"
    )
    assert edited.json["record"]["metadata"] == {"a": "b"}
    assert run("records", "ana").out.startswith("r2  undated     Another word  -> 1\n")
    cleared = run("records", "edit", "ana", "r2", "--target", "", "--metadata", "a=", "--json").json["record"]
    assert (cleared["target"], cleared["metadata"]) == (None, {})
    assert b"SECRET" not in (tmp_path / "persona.db").read_bytes()

    assert "deleted 1 record of 'ana'" in run("records", "delete", "ana", "r2").out
    assert b"Another" not in (tmp_path / "persona.db").read_bytes()
    with ProfileStore("sqlite:///persona.db") as store:
        assert store.profile("ana").records == (record,)


def test_an_id_that_is_taken_and_a_record_that_is_there(stocked: Run) -> None:
    first = stocked("records", "mara", "--json").json[0]
    assert "edit` changes it" in stocked("records", "add", "mara", "x", "--id", first["id"]).error
    again = ("records", "add", "ana", "twice")
    assert stocked(*again).out.startswith("added the record")
    assert "'ana' had the record" in stocked(*again).out
    assert stocked("records", "add", "ana", "late", "--expires", "2020").out == (
        "nothing was added: the record has expired\n"
    )


def test_all_of_several_records_are_deleted_or_none(stocked: Run) -> None:
    ids = [each["id"] for each in stocked("records", "mara", "--json").json]
    assert "no record 'none'" in stocked("records", "delete", "mara", ids[0], "none").error
    assert len(stocked("records", "mara", "--json").json) == len(ids)
    assert stocked("records", "delete", "mara", *ids[:3], "--json").json["deleted"] == 3


def test_text_from_stdin_and_its_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert run("records", "add", "ana", "-", "--json").json["record"]["text"] == "from a pipe\n"
    monkeypatch.setenv("PERSONA_MAX_RECORD_CHARACTERS", "10")
    assert "a record may have 10 characters, has 11" in run("records", "add", "ana", "x" * 11).error
