"""Retrievers: each chooses records of one user's profile for a query (`persona.protocols.Retriever`).

The names below are loaded when they are first used: reading this package loads neither numpy nor LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from persona.retrievers.registry import RETRIEVERS

if TYPE_CHECKING:
    from .base import ProfileRetriever as ProfileRetriever
    from .base import best_first as best_first
    from .channel import RecordsChannel as RecordsChannel
    from .conversation.retriever import ConversationRetriever as ConversationRetriever
    from .hybrid import HybridRetriever as HybridRetriever
    from .langchain import PersonaRetriever as PersonaRetriever
    from .models.late_interaction import LateInteractionRetriever as LateInteractionRetriever
    from .models.rerank import RerankRetriever as RerankRetriever
    from .recency import RecencyRetriever as RecencyRetriever
    from .relevance.filters import RelevanceFilter as RelevanceFilter
    from .relevance.retriever import RelevanceRetriever as RelevanceRetriever
    from .sampling import RandomRetriever as RandomRetriever
    from .usefulness.spaces import DualSpaces as DualSpaces
    from .usefulness.spaces import UsefulRetriever as UsefulRetriever
    from .vectors.dense import DenseRetriever as DenseRetriever
    from .vectors.diverse import DiverseRetriever as DiverseRetriever
    from .vectors.joint import JointRetriever as JointRetriever
    from .vectors.key_value import KeyValueRetriever as KeyValueRetriever
    from .vectors.multi_interest import MultiInterestRetriever as MultiInterestRetriever
    from .vectors.rounds import RoundsRetriever as RoundsRetriever
    from .where import Where as Where
    from .where import WhereRetriever as WhereRetriever
    from .words.bm25 import BM25Retriever as BM25Retriever
    from .words.bm25 import LampBM25Retriever as LampBM25Retriever
    from .words.entities import EntityRetriever as EntityRetriever

_MODULES = {
    **dict(part.path.split(":")[::-1] for part in RETRIEVERS.values()),
    "DualSpaces": "persona.retrievers.usefulness.spaces",
    "PersonaRetriever": "persona.retrievers.langchain",
    "ProfileRetriever": "persona.retrievers.base",
    "RecordsChannel": "persona.retrievers.channel",
    "RelevanceFilter": "persona.retrievers.relevance.filters",
    "RelevanceRetriever": "persona.retrievers.relevance.retriever",
    "Where": "persona.retrievers.where",
    "WhereRetriever": "persona.retrievers.where",
    "best_first": "persona.retrievers.base",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'persona.retrievers' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
