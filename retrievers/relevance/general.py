"""General questions, which need nothing of anybody's history: what a relevance filter compares with.

None is about what LaMP's users write: reviews, news, films, papers, e-mails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType


def _lines(name: str) -> tuple[str, ...]:
    return tuple((resources.files(__package__) / name).read_text(encoding="utf-8").splitlines())


GENERAL_QUESTIONS = _lines("general_questions.txt")
"""Questions about facts, computing, language, everyday life and errands."""

LONG_REQUESTS = _lines("long_requests.txt")
"""Longer requests, so that a filter does not learn that long is personal."""

GENERAL: Mapping[str, Sequence[str]] = MappingProxyType({"questions": GENERAL_QUESTIONS, "requests": LONG_REQUESTS})
"""The kinds of general questions that come with persona."""
