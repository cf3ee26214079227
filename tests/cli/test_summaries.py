"""The commands that make summaries and show what is held on a user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persona.records import Record
from persona.store.profile_store import ProfileStore


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    from persona.cli import app as cli

    monkeypatch.setattr("sys.argv", ["persona", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as exit:
        code = int(exit.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'persona.db'}"
    with ProfileStore(url) as store:
        reviews = [Record(f"The acting was superb, day {day}.", target="5", time=f"2011-0{day}") for day in range(1, 4)]
        store.upsert(("critic", review) for review in reviews)

    def call(*arguments: str) -> tuple[int, str, str]:
        return run(capsys, monkeypatch, *arguments)

    code, out, _ = call("summarize-users", "--store", url, "--task", "LaMP_3", "--form", "task", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["written"], report["users"]) == (1, 1)
    code, out, _ = call("summarize-users", "--store", url, "--task", "LaMP_3", "--form", "task")
    assert (code, out.startswith("0 summaries written, 1 kept, of 1 users")) == (0, True)
    code, out, _ = call("show", "critic", "--store", url)
    assert code == 0
    assert "critic: 3 records, revision 1" in out
    assert "summary:LaMP_3: up to date" in out
    code, out, _ = call("show", "critic", "--store", url, "--json")
    assert json.loads(out)["indexes"][0]["content"]["prompt"] == "task-1"
    question = "Which score?"
    code, out, _ = call(
        "ask",
        "critic",
        question,
        "--store",
        url,
        "--k",
        "0",
        "--summary",
        "both",
        "--task",
        "LaMP_3",
        "--json",
        "--max-new-tokens",
        "4",
    )
    answer = json.loads(out)
    assert answer["notes"][0].startswith("This user gave 3 scores: 5 3 times")
    assert [source.partition("@")[0] for source in answer["sources"]] == [
        "stats:LaMP_3:scores + llm:LaMP_3:task-1:tiny"
    ]
    assert answer["prompt"].endswith(question)
    for arguments, told in (
        (("show", "nobody", "--store", url), "the store holds nothing on 'nobody'"),
        (("ask", "critic", "Q", "--store", url, "--summary", "all"), "a summary must be one of stats, llm, both"),
        (("ask", "critic", "Q", "--store", url, "--summary", "llm", "--task", "LaMP_9"), "a LaMP task must be one of"),
        (("summarize-users", "--store", url, "--form", "task"), "needs a LaMP task"),
        (("summarize-users", "--store", url, "--context-tokens", "5"), "raise the context's size"),
    ):
        code, out, err = call(*arguments)
        assert code == 1
        assert told in err
        assert "Traceback" not in err
