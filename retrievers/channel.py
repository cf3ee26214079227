"""The channel of retrieved records: the user's own that fit a request best, as text before it."""

from __future__ import annotations

from collections.abc import Sequence

from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError
from persona.protocols import Retriever
from persona.retrievers.bm25 import BM25Retriever


class RecordsChannel(Channel):
    """Contributes the records that a retriever finds.

    Args:
        retriever: chooses among the records of one profile; None is ``bm25``.
        k: how many at most, at least 0.

    Raises:
        InvalidOptionError: if `retriever` is none (a name, say), or `k` is out of range.
    """

    name = "records"

    def __init__(self, retriever: Retriever | None = None, k: int = 4) -> None:
        if retriever is None:
            retriever = BM25Retriever()
        if isinstance(retriever, type) or not hasattr(retriever, "retrieve_batch"):
            raise InvalidOptionError(
                f"`retriever` must not be {retriever!r:.80} ({type(retriever).__name__}): make one with "
                "`persona.make_retriever`"
            )
        if not isinstance(k, int) or isinstance(k, bool) or k < 0:
            raise InvalidOptionError(f"`k` must be a whole number of at least 0, was: {k!r}")
        self.retriever = retriever
        self.k = k

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The records for each of `asks`, best first."""
        if not self.k or not asks:
            return [Contribution() for _ in asks]
        profiles, queries = [ask.profile for ask in asks], [ask.query for ask in asks]
        found = self.retriever.retrieve_batch(profiles, queries, self.k)
        return [Contribution(records=records) for records in found]
