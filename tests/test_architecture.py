"""The house stands as docs/architecture.md draws it: every room on a floor, imports only downward, no circles."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = {
    "persona": "persona",
    "retrievers": "persona.retrievers",
    "adapters": "persona.adapters",
    "eval": "persona.eval",
}
"""The folders with code, and the packages that they are imported as."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name; the links inside `persona/` are not followed."""
    found = {}
    for folder, package in TOPS.items():
        for path in (ROOT / folder).rglob("*.py"):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in inner if part != "__init__")))] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of persona that `path` imports: at the top, inside functions, and for type checkers only."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package, node.module))) if node.level else node.module or ""
            inner = {f"{base}.{alias.name}" for alias in node.names} & set(known)
            # What is imported from a package may be its module or a name of its own.
            found |= inner if len(inner) == len(node.names) else inner | {base}
    return {one for one in found if one in known and one != name}


def room(name: str) -> str:
    """The room that a module is in: its top folder, or itself where it lies in `persona/`."""
    parts = name.split(".")
    return ".".join(parts[:2])


def floors() -> dict[str, int]:
    """The rooms of docs/architecture.md and the floors they are on."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", page, flags=re.MULTILINE)
    return {
        place.removesuffix("/").replace("/", "."): int(floor)
        for floor, places in rows
        for place in re.findall(r"`([^`]+)`", places)
    }


@cache
def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(name, path, known) for name, path in known.items()}


def test_every_room_has_one_floor() -> None:
    assert set(floors()) == {room(name) for name in modules()}


def test_no_module_imports_in_a_circle() -> None:
    TopologicalSorter(arrows()).prepare()  # raises CycleError


def test_imports_run_down_from_floor_to_floor_and_no_rooms_form_a_circle() -> None:
    floor = floors()
    between: dict[str, set[str]] = {place: set() for place in floor}
    upward = []
    for name, others in arrows().items():
        for other in others:
            above, below = room(name), room(other)
            if above != below:
                between[above].add(below)
                if floor[below] > floor[above]:
                    upward.append(f"{name} imports {other}")
    assert upward == []
    TopologicalSorter(between).prepare()


def test_retrievers_and_adapters_do_not_know_one_another() -> None:
    for name, others in arrows().items():
        for one, other in (("retrievers", "adapters"), ("adapters", "retrievers")):
            if name.startswith(f"persona.{one}"):
                assert not {it for it in others if it.startswith(f"persona.{other}")}
