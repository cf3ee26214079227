"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def shared_folder() -> Path | None:
    """The shared data folder: `PERSONA_SHARED`, or `../shared` beside the checkout; None where there is none."""
    place = Path(os.environ.get("PERSONA_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    return place if place.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    place = shared_folder()
    if place is None:
        pytest.skip("the shared data folder is missing: set PERSONA_SHARED to it")
    return place
