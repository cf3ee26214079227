"""The channel of retrieved records: the user's own that fit a request best, as text before it."""

from __future__ import annotations

from collections.abc import Sequence

from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError
from persona.protocols import Encoding, Retriever

from .base import ProfileRetriever, check_k
from .words.bm25 import BM25Retriever


class RecordsChannel(Channel):
    """Contributes the records that a retriever finds.

    Args:
        retriever: chooses among the records of one profile; None is ``bm25``.
        k: how many at most; 0 contributes nothing.

    Raises:
        InvalidOptionError: if `retriever` is none (a name, say), or `k` is below 0.
    """

    name = "records"

    def __init__(self, retriever: Retriever | None = None, k: int = 4) -> None:
        if retriever is None:
            retriever = BM25Retriever()
        if isinstance(retriever, type) or not hasattr(retriever, "retrieve_batch"):
            raise InvalidOptionError(
                f"`retriever` must be a retriever, was: {retriever!r:.80} ({type(retriever).__name__}); make one with "
                "`persona.make_retriever`"
            )
        self.retriever = retriever
        self.k = check_k(k, least=0)

    def encodings(self) -> set[Encoding]:
        """Those of the retriever."""
        return self.retriever.encodings() if isinstance(self.retriever, ProfileRetriever) else set()

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The records for each of `asks`, best first."""
        if not self.k:
            return [Contribution() for _ in asks]
        profiles, queries = [ask.profile for ask in asks], [ask.query for ask in asks]
        return [Contribution(records=found) for found in self.retriever.retrieve_batch(profiles, queries, self.k)]
