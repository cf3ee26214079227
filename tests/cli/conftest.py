"""`run("ask", ...)`: a command in the test's folder, with what it printed and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from persona.cli.app import main
from persona.lamp.tasks import lamp_task

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "histories.jsonl"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a known error."""
        assert (self.code, self.out) == (1, ""), self
        (line,) = self.err.splitlines()
        assert line.startswith("persona: error: ")
        return line


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("PERSONA_ENCODER", "hashing")
    monkeypatch.delenv("PERSONA_STORE", raising=False)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["persona", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def stocked(run: Run) -> Run:
    """The same with the sample histories in the store."""
    assert run("ingest", SAMPLE).code == 0
    return run


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A LaMP folder of film ratings, train and dev, that a filter can be trained on."""
    from tests.retrievers.relevance.cases import split_of

    task, questions = lamp_task("LaMP_3"), []
    for question in split_of(30).questions:
        entries = [{**task.entry(record, record.id), "date": "2011"} for record in question.profile]
        questions.append({"id": question.id, "user_id": question.user_id, "input": question.input, "profile": entries})
    golds = [{"id": question["id"], "output": "3"} for question in questions]
    folder = tmp_path / "films"
    folder.mkdir()
    for split in ("train", "dev"):
        (folder / f"{split}_questions.json").write_text(json.dumps(questions))
        (folder / f"{split}_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    return folder


SMALL_FILTER = ("--set", "folds=2", "--set", "members=1")
"""Few networks: the command is tested, not the filter."""


def settings(*texts: str) -> list[str]:
    """``--set`` before each."""
    return [word for text in texts for word in ("--set", text)]
