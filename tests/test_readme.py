"""What the README and the docs show is what happens."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from persona.cli.app import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's commands name, as the working folder."""
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "histories.jsonl", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PERSONA_STORE", raising=False)
    return tmp_path


def test_the_python_block_runs(clone: Path) -> None:
    (code,) = blocks("python")
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("An LLM would read ")
    assert "lighthouse keepers" in shown.stdout


def test_the_commands_run(clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks("sh") if "persona ingest" in block]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[1] for command in commands] == ["ingest", "embed-users", "retrieve", "ask", "forget"]
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0, capsys.readouterr().err
    assert "erased 8 records" in capsys.readouterr().out


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_command_line_page_is_as_the_code_is() -> None:
    command = [
        *(sys.executable, "-m", "typer", "persona.cli.app", "utils", "docs"),
        *("--name", "persona", "--title", "The command line"),
    ]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.strip() == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").strip(), "run `make docs`"
