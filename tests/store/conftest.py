"""A store for each test of the room, once on SQLite and once on PostgreSQL."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persona.store.profile_store import ProfileStore


@pytest.fixture
def store(store_url: str) -> Iterator[ProfileStore]:
    with ProfileStore(store_url) as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of its own, of some kilobytes, as long as the test runs; only root may."""
    made: list[Path] = []

    def make(kilobytes: int) -> Path:
        folder = tmp_path / f"disk {kilobytes}"
        folder.mkdir()
        size = ["-o", f"size={kilobytes}k"]
        mounted = subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", folder], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("this user may not mount a file system")
        made.append(folder)
        return folder

    try:
        yield make
    finally:
        for folder in made:
            subprocess.run(["umount", folder], check=True)
