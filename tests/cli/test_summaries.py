"""The commands that make summaries and show what is held on a user."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from persona.cli import app
from persona.records import Record
from persona.store.profile_store import ProfileStore

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command on a store with one user; returns exit code, stdout and stderr."""
    url = f"sqlite:///{tmp_path / 'persona.db'}"
    monkeypatch.setenv("PERSONA_STORE", url)
    with ProfileStore(url) as store:
        reviews = [Record(f"The acting was superb, day {day}.", target="5", time=f"2011-0{day}") for day in range(1, 4)]
        store.upsert(("critic", review) for review in reviews)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["persona", *arguments])
        try:
            app.main()
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_summary_is_written_shown_and_asked_with(call: Call) -> None:
    summarize = ("summarize", "--task", "LaMP_3", "--set", "form=task")
    code, out, _ = call(*summarize, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["written"], report["users"]) == (1, 1)
    code, out, _ = call(*summarize)
    assert (code, out.startswith("0 summaries written, 1 kept, of 1 users")) == (0, True)

    code, out, _ = call("show", "critic")
    assert code == 0
    assert "critic: 3 records, revision 1" in out
    assert "summary:LaMP_3: up to date" in out
    held = json.loads(call("show", "critic", "--json")[1])
    assert held["indexes"][0]["content"]["prompt"] == "task-1"
    assert [record["role"] for record in held["records"]] == [None] * 3

    options = ("--k", "0", "--summary", "both", "--task", "LaMP_3", "--json", "--max-new-tokens", "4")
    answer = json.loads(call("ask", "critic", "Which score?", *options)[1])
    assert answer["notes"][0].startswith("This user gave 3 scores: 5 3 times")
    sources = [source.partition("@")[0] for source in answer["sources"]]
    assert sources == ["stats:LaMP_3:scores + llm:LaMP_3:task-1:tiny"]
    assert answer["prompt"].endswith("Which score?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nobody"), "the store holds nothing on 'nobody'"),
        (("ask", "critic", "Q", "--summary", "all"), "a summary must be one of stats, llm, both"),
        (("ask", "critic", "Q", "--summary", "llm", "--task", "LaMP_9"), "a LaMP task must be one of"),
        (("summarize", "--set", "form=task"), "needs a LaMP task"),
        (("summarize", "--set", "context_tokens=5"), "raise the context's size"),
    ],
)
def test_what_cannot_be_done_is_one_line(call: Call, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = call(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
