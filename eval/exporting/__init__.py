"""Benchmarks for other tools: lm-evaluation-harness and Inspect ask what persona made personal, and persona scores."""

from __future__ import annotations

from pathlib import Path

TASKS = Path(__file__).parent / "tasks"
"""The folder for ``lm_eval --include_path``: a task ``persona_NAME`` for each benchmark."""
