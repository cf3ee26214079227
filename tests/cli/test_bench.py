"""`persona eval bench`: ideas from files."""

from __future__ import annotations

from pathlib import Path

from examples.world.world import World
from tests.cli.conftest import Run


def test_the_command_reads_ideas_from_files(run: Run, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path / "tags", "LaMP_2", {"train": 4, "dev": 4}, 3)
    (tmp_path / "bm25.toml").write_text('[idea]\nmethod = "bm25"\nk = 1\n')
    given = ("--llm", "tiny", "--encoder", "hashing", "--out", "o")
    assert [each["name"] for each in run("eval", "bench", "tags", "bm25.toml", *given, "--json").json["ideas"]] == [
        "bm25"
    ]
    assert "there is none at no.toml" in run("eval", "bench", "tags", "no.toml").error
    (tmp_path / "odd.toml").write_text("[idea]\nmethods = 'bm25'\n")
    assert "did you mean" in run("eval", "bench", "tags", "odd.toml").error
