"""The package list, the folders and the links hold together, and a wheel carries what it should."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from persona.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
OUTSIDE = {"retrievers", "adapters", "eval"}


def test_every_folder_with_code_is_listed() -> None:
    folders = {
        path.parent.relative_to(ROOT)
        for name in ("persona", *OUTSIDE)
        for path in (ROOT / name).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    packages = {
        ".".join(("persona", *folder.parts) if folder.parts[0] in OUTSIDE else folder.parts): str(folder)
        for folder in folders
    }
    assert SETUPTOOLS["package-dir"] == packages
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages)


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_links_are_relative_and_lead_to_the_folders(name: str) -> None:
    link = ROOT / "persona" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert SETUPTOOLS["package-dir"][f"persona.{name}"] == name


def test_nobody_imports_a_folder_by_its_bare_name() -> None:
    guilty = [
        f"{path.relative_to(ROOT)}: {line}"
        for folder in ("persona", *OUTSIDE, "tests", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(
            tuple(f"{verb} {name}{end}" for verb in ("import", "from") for name in OUTSIDE for end in (" ", "."))
        )
    ]
    assert guilty == []


@pytest.mark.slow
def test_a_wheel_built_through_the_sdist_carries_the_four_packages_and_their_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in SETUPTOOLS["package-dir"].items()
        for path in (ROOT / folder).glob("*.py")
    }
    data = {
        f"persona/{path.relative_to(ROOT / 'persona')}"
        for pattern in SETUPTOOLS["package-data"]["persona"]
        for path in (ROOT / "persona").glob(pattern)
        if path.is_file()
    }
    assert "persona/py.typed" in data
    assert expected | data <= names
    assert {name.split("/")[0] for name in names} == {
        "persona",
        f"persona_llm-{__version__}.dist-info",
    }
