"""Retrievers: each chooses records of one user's profile for a query (`persona.protocols.Retriever`).

The names below are loaded when they are first used: reading this package loads neither numpy nor LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bm25 import BM25Retriever as BM25Retriever
    from .bm25 import LampBM25Retriever as LampBM25Retriever
    from .dense import DenseRetriever as DenseRetriever
    from .diverse import DiverseRetriever as DiverseRetriever
    from .entities import EntityRetriever as EntityRetriever
    from .entities import EntityStore as EntityStore
    from .hybrid import HybridRetriever as HybridRetriever
    from .indexing import build_indexes as build_indexes
    from .key_value import KeyValueRetriever as KeyValueRetriever
    from .langchain import PersonaRetriever as PersonaRetriever
    from .late_interaction import LateInteractionRetriever as LateInteractionRetriever
    from .multi_interest import MultiInterestRetriever as MultiInterestRetriever
    from .recency import RecencyRetriever as RecencyRetriever
    from .relevance import RelevanceFilter as RelevanceFilter
    from .relevance import RelevanceRetriever as RelevanceRetriever
    from .rerank import RerankRetriever as RerankRetriever
    from .sampling import RandomRetriever as RandomRetriever
    from .where import Where as Where
    from .where import WhereRetriever as WhereRetriever

_PLACES = {
    "BM25Retriever": "bm25",
    "LampBM25Retriever": "bm25",
    "DenseRetriever": "dense",
    "DiverseRetriever": "diverse",
    "EntityRetriever": "entities",
    "EntityStore": "entities",
    "HybridRetriever": "hybrid",
    "KeyValueRetriever": "key_value",
    "LateInteractionRetriever": "late_interaction",
    "MultiInterestRetriever": "multi_interest",
    "PersonaRetriever": "langchain",
    "RandomRetriever": "sampling",
    "RecencyRetriever": "recency",
    "RelevanceFilter": "relevance",
    "RelevanceRetriever": "relevance",
    "RerankRetriever": "rerank",
    "Where": "where",
    "WhereRetriever": "where",
    "build_indexes": "indexing",
}

__all__ = [
    "BM25Retriever",
    "DenseRetriever",
    "DiverseRetriever",
    "EntityRetriever",
    "EntityStore",
    "HybridRetriever",
    "KeyValueRetriever",
    "LampBM25Retriever",
    "LateInteractionRetriever",
    "MultiInterestRetriever",
    "PersonaRetriever",
    "RandomRetriever",
    "RecencyRetriever",
    "RelevanceFilter",
    "RelevanceRetriever",
    "RerankRetriever",
    "Where",
    "WhereRetriever",
    "build_indexes",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'persona.retrievers' has no attribute {name!r}")
    return getattr(import_module(f"persona.retrievers.{place}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
