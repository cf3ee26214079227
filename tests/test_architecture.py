"""The house stands as docs/architecture.md draws it: every file on a floor, imports only downward, no circles."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "persona": "persona",
    "retrievers": "persona.retrievers",
    "adapters": "persona.adapters",
    "eval": "persona.eval",
}


def module_name(place: str) -> str:
    """`eval/lamp` -> `persona.eval.lamp`."""
    folder, _, name = place.partition("/")
    return FOLDERS[folder] if name == "__init__" else f"{FOLDERS[folder]}.{name}"


def floors() -> dict[str, int]:
    rows = re.findall(
        r"^\| (\d) \| [^|]+ \| ([^|]+) \|$", (ROOT / "docs/architecture.md").read_text(), flags=re.MULTILINE
    )
    return {module_name(place): int(floor) for floor, places in rows for place in re.findall(r"`([^`]+)`", places)}


def modules() -> dict[str, Path]:
    return {module_name(f"{folder}/{path.stem}"): path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")}


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of persona that `path` imports, at the top or inside a function; not what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package, node.module))) if node.level else node.module or ""
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {one for one in found if one in known and one != name}


def test_every_file_has_one_floor() -> None:
    assert set(floors()) == set(modules())


def test_imports_run_downward_and_never_in_a_circle() -> None:
    known, floor = modules(), floors()
    arrows = {name: imported(name, path, known) - {"persona"} for name, path in known.items()}
    upward = [
        f"{name} (floor {floor[name]}) imports {other} (floor {floor[other]})"
        for name, others in arrows.items()
        for other in others
        if floor[other] > floor[name]
    ]
    assert upward == []
    TopologicalSorter(arrows).prepare()  # raises CycleError


def test_retrievers_and_adapters_do_not_know_one_another() -> None:
    known = modules()
    for name, path in known.items():
        for one, other in (("retrievers", "adapters"), ("adapters", "retrievers")):
            if name.startswith(f"persona.{one}"):
                assert not {it for it in imported(name, path, known) if it.startswith(f"persona.{other}")}
