"""What is held on a user, and the commands that show and make it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from persona.errors import UnknownUserError
from persona.records import Record
from persona.store.derived import StoredIndex
from persona.store.holdings import holdings
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors


@pytest.fixture
def store(store_url: str) -> Iterator[ProfileStore]:
    store = ProfileStore(store_url)
    store.upsert([("ana", Record("Moody and stylish.", target="5", time="2004-10-14", id="r1")), ("bo", Record("no"))])
    profile = store.profile("ana")
    matrix = np.ones((1, 4), dtype=np.float16)
    store.put_vectors([UserVectors("ana", "toy|view=text", ("r1",), ("h",), matrix, profile.revision)])
    summary = json.dumps({"text": "likes style", "llm": "x", "records": {"r1": "h"}}).encode()
    store.put_indexes(
        [
            StoredIndex("ana", "bm25:text", profile.revision, b"\x00\x01\x02"),
            StoredIndex("ana", "summary:free", profile.revision, summary),
        ]
    )
    yield store
    store.close()


def test_everything_is_there_and_nobody_elses(store: ProfileStore) -> None:
    held = holdings(store, "ana")
    assert [record.text for record in held.profile] == ["Moody and stylish."]
    (matrix,) = held.vectors
    assert (matrix.fingerprint, matrix.rows, matrix.dim, matrix.fresh, matrix.size) == ("toy|view=text", 1, 4, True, 8)
    binary, summary = held.indexes
    assert (binary.kind, binary.content, binary.size, binary.fresh) == ("bm25:text", None, 3, True)
    assert (summary.kind, summary.content["text"]) == ("summary:free", "likes style")
    assert held.adapters == ()
    assert set(held.others.values()) <= {0}
    other = holdings(store, "bo")
    assert (len(other.profile), other.vectors, other.indexes) == (1, (), ())


def test_what_lags_behind_says_so(store: ProfileStore) -> None:
    store.upsert([("ana", Record("a new one"))])
    held = holdings(store, "ana")
    assert not held.vectors[0].fresh
    assert [index.fresh for index in held.indexes] == [False, False]


def test_an_unknown_or_forgotten_user_is_an_error(store: ProfileStore) -> None:
    with pytest.raises(UnknownUserError, match="holds nothing on 'cy'"):
        holdings(store, "cy")
    store.forget("ana")
    with pytest.raises(UnknownUserError):
        holdings(store, "ana")


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
    assert answer["summary"].startswith("This user gave 3 scores: 5 3 times")
    assert answer["summary_source"].startswith("stats:LaMP_3:scores + llm:LaMP_3:task-1:tiny@")
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
