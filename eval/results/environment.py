"""Where an evaluation ran: versions and hardware, for its results."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "numpy", "openai", "langchain-core")
_TOOLS = ("lm_eval", "inspect_ai")
"""What of others decides numbers."""


def environment() -> dict[str, Any]:
    """Python, packages, system and processors, ready for JSON; accelerators only where torch is loaded already."""
    versions = {}
    for package in (*_PACKAGES, *_TOOLS):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "accelerators": _accelerators(),
    }


def _accelerators() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
