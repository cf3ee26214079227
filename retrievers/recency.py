"""The newest records, whatever the query: the control that every other retriever has to beat.

As in LaMP: sort by date, oldest first, take the last k, newest first. Dates are ISO 8601 strings of any precision
(`Record.time`), whose order is that of LaMP's tuples of integers: ``"2011" < "2011-05" < "2011-05-03" < "2012"``.
"""

from __future__ import annotations

from collections.abc import Sequence

from persona.records import Profile, ScoredRecord

from .ranking import check_k, check_query, pairs, scored


class RecencyRetriever:
    """Retrieves the newest records.

    Undated records are the oldest. Of records with equal times the one that stands later in the profile is the
    newer. The score is the share of the profile that is not newer than the record: 1.0 for the newest, 1/n for the
    oldest of n.
    """

    def __repr__(self) -> str:
        return "RecencyRetriever()"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """The `k` newest records, newest first; `query` plays no part.

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` is no string.
        """
        k, query = check_k(k), check_query(query)
        records = profile.records
        oldest_first = sorted(range(len(records)), key=lambda position: records[position].time or "")
        shares = [0.0] * len(records)
        for rank, position in enumerate(oldest_first, start=1):
            shares[position] = rank / len(records)
        return scored(profile, oldest_first[::-1][:k], shares)

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair."""
        return [self.retrieve(profile, query, k) for profile, query in pairs(profiles, queries)]
