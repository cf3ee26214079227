"""The package list, the folders and the links hold together, and a wheel carries what it should."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

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
    if not (ROOT / ".git").exists():
        pytest.skip("an sdist carries no links: pip install -e . finds the folders by the package list")
    link = ROOT / "persona" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert SETUPTOOLS["package-dir"][f"persona.{name}"] == name


def test_nobody_imports_a_folder_by_its_bare_name() -> None:
    bare = [
        f"{path.relative_to(ROOT)}: {line}"
        for folder in ("persona", *OUTSIDE, "tests", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(
            tuple(f"{verb} {name}{end}" for verb in ("import", "from") for name in OUTSIDE for end in (" ", "."))
        )
    ]
    assert bare == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_wheel_carries_the_packages_and_their_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in SETUPTOOLS["package-dir"].items()
        for path in (ROOT / folder).glob("*.py")
    }
    data = {
        f"{package.replace('.', '/')}/{path.relative_to(folder)}"
        for package, patterns in SETUPTOOLS["package-data"].items()
        for folder in [ROOT / SETUPTOOLS["package-dir"][package]]
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
    }
    assert {"persona/py.typed", "persona/retrievers/relevance/general_questions.txt"} <= data
    assert code | data <= names
    assert {name.split("/")[0] for name in names} == {"persona", f"persona_llm-{__version__}.dist-info"}


@pytest.mark.slow
def test_the_sdist_passes_its_own_tests(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
        opened.extractall(tmp_path, **safe)
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    # An environment of its own, which borrows the dependencies of this one but not its installed persona.
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTEST_"))}
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--no-build-isolation", "--editable", "."], check=True, cwd=source, env=clean)
    core = [
        "test_packaging.py",
        "test_errors.py",
        "test_readme.py",
        "test_records.py",
        "prompts/test_builder.py",
        "formats",
        "lamp",
    ]
    done = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-m",
            "not slow and not real",
            "-p",
            "no:cacheprovider",
            *(f"tests/{name}" for name in core),
        ],
        cwd=source,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
