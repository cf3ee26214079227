"""Makes the BM25 indexes that the store keeps beside the records, so that a query finds its words counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from persona.store.derived import StoredIndex

from .bm25 import BM25Retriever, TermRetriever

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

CHUNK_BYTES = 8 * 2**20
"""Indexes are put into the store by about so many bytes, each time in one transaction."""


def build_indexes(
    store: ProfileStore,
    user_ids: Iterable[str] | None = None,
    retrievers: Sequence[TermRetriever] | None = None,
) -> int:
    """Make the indexes that are missing or stale and keep them in `store`.

    It may be killed at any moment and run again: what was put in stays, and only the rest is made.

    Args:
        store: the store.
        user_ids: whose; None means all users.
        retrievers: for which retrievers; None means `BM25Retriever`, the default of users, on texts.

    Returns:
        How many indexes were made and kept. A user who is being changed at this moment is passed over: the next run
        makes up for it, and until then queries read the text.
    """
    chosen = (BM25Retriever(),) if retrievers is None else tuple(retrievers)
    kept = 0
    chunk: list[StoredIndex] = []
    size = 0
    for index in _stale(store, store.user_ids() if user_ids is None else user_ids, chosen):
        chunk.append(index)
        size += len(index.data)
        if size >= CHUNK_BYTES:
            kept += store.put_indexes(chunk)
            chunk, size = [], 0
    return kept + (store.put_indexes(chunk) if chunk else 0)


def _stale(store: ProfileStore, user_ids: Iterable[str], retrievers: Sequence[TermRetriever]) -> Iterator[StoredIndex]:
    for user_id in user_ids:
        profile = store.profile(user_id)
        for retriever in retrievers:
            stored = store.index(user_id, retriever.kind)
            # The revision alone would do but for a new version of the tokenizer or formula.
            if stored and stored.revision == profile.revision and retriever.is_current(stored.data, profile):
                continue
            index = retriever.index(profile)
            if index is not None:
                yield StoredIndex(user_id, retriever.kind, profile.revision, index.to_bytes())
