"""What the README and the docs show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

NO_HISTORY, ANA, BEN = re.findall(r"^(?:no history|ana|ben) +(.+)$", README, flags=re.MULTILINE)
"""The three headlines that the README opens with."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command: list[str]) -> str:
    """What `command` prints, with `persona` and `python` being those of the tests."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERSONA_")} | {
        "PATH": path
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
def test_what_the_readme_shows_is_what_happens(
    smollm2: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shell,) = [block for block in blocks("sh") if "persona ingest" in block]
    assert run(["bash", "-euo", "pipefail", "-c", shell]).strip().endswith(ANA)
    monkeypatch.setattr("persona.llm.load.load_llm", {"smollm2": smollm2}.__getitem__)
    for block in blocks("python"):
        exec(block, {})
    short, parts = capsys.readouterr().out.splitlines()
    assert short == ANA
    assert parts.startswith("airport ")
    assert parts.count("at last") > 2


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
