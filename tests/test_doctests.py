"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "persona": "persona",
    "retrievers": "persona.retrievers",
    "adapters": "persona.adapters",
    "eval": "persona.eval",
    "examples": "examples",
    "benchmarks": "benchmarks",
}
"""The folders with code, and the packages that they are imported as."""


def modules_with_examples() -> list[str]:
    """The dotted names of all modules that hold a doctest; the links inside `persona/` are not followed."""
    names = []
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            if any(parent.is_symlink() for parent in path.parents) or ">>> " not in path.read_text(encoding="utf-8"):
                continue
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join((package, *(part for part in inner if part != "__init__"))))
    return sorted(names)


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name: str) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        runner.run(example, out=report.append)
    assert runner.tries > 0, f"{name} holds `>>>`, but no docstring with an example"
    assert runner.failures == 0, "".join(report)
