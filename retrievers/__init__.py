"""Retrievers: each chooses records of one user's profile for a query (`persona.protocols.Retriever`).

The names below are loaded when they are first used: reading this package loads neither numpy nor LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bm25 import BM25PlusRetriever as BM25PlusRetriever
    from .bm25 import BM25Retriever as BM25Retriever
    from .dense import DenseRetriever as DenseRetriever
    from .hybrid import HybridRetriever as HybridRetriever
    from .indexing import build_indexes as build_indexes
    from .langchain import PersonaRetriever as PersonaRetriever
    from .recency import RecencyRetriever as RecencyRetriever
    from .sampling import RandomRetriever as RandomRetriever

_PLACES = {
    "BM25PlusRetriever": "bm25",
    "BM25Retriever": "bm25",
    "DenseRetriever": "dense",
    "HybridRetriever": "hybrid",
    "PersonaRetriever": "langchain",
    "RandomRetriever": "sampling",
    "RecencyRetriever": "recency",
    "build_indexes": "indexing",
}

__all__ = [
    "BM25PlusRetriever",
    "BM25Retriever",
    "DenseRetriever",
    "HybridRetriever",
    "PersonaRetriever",
    "RandomRetriever",
    "RecencyRetriever",
    "build_indexes",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'persona.retrievers' has no attribute {name!r}")
    return getattr(import_module(f"persona.retrievers.{place}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
