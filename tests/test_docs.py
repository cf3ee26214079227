"""The code blocks of the documentation run as they are printed, page by page and in order, or say what they need."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.started import Starter

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NEEDS = "# needs: "
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
FOLDER = "## To try the examples"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


Run: TypeAlias = Callable[[list[str], Path], None]


@pytest.fixture(scope="module")
def run(starter: Starter) -> Run:
    """Runs a command in a folder, which must succeed."""

    def run(command: list[str], folder: Path) -> None:
        done = starter.run(command, folder)
        assert done.returncode == 0, f"{command[-1]}\n{done.stderr[-2000:]}"

    return run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The folder of the page on data formats, made as it says, beside the repository's examples."""
    root = tmp_path_factory.mktemp("clone")
    (root / "examples").symlink_to(ROOT / "examples")
    _, section = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8").split(FOLDER)
    ((_, lines),) = BLOCK.findall(section)
    run(["bash", "-euo", "pipefail", "-c", lines], root)
    return root / "try"


def test_blocks_are_of_a_language_that_is_run_or_of_none() -> None:
    for page in PAGES:
        for language in re.findall(r"^```(\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert language in ("python", "sh", "toml", "json", "console", "text"), f"{page.name}: {language}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(not text.startswith(NEEDS) for _, text in blocks(page))],
    ids=lambda page: page.stem,
)
def test_the_blocks_of_a_page_run_in_order(page: Path, prepared: Path, run: Run) -> None:
    """Python blocks of a page share their names, and are run where the next is of the shell; those share the folder."""
    shown = [each for each in blocks(page) if not (each[1].startswith(NEEDS) or "cd try" in each[1])]
    python = ""
    for (language, text), (following, _) in pairwise([*shown, ("sh", "")]):
        if language == "sh":
            run(["bash", "-euo", "pipefail", "-c", text], prepared)
            continue
        python += text
        if following == "sh":
            run(["python", "-c", python], prepared)
