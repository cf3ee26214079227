"""The newest records, whatever the query: the control that every other retriever has to beat.

As in LaMP: sort by date, oldest first, take the last k, newest first. Dates are ISO 8601 strings of any precision
(`Record.time`), whose order is that of LaMP's tuples of integers: ``"2011" < "2011-05" < "2011-05-03" < "2012"``.
"""

from __future__ import annotations

from persona.records import Profile

from .base import ProfileRetriever, Ranking, scored


class RecencyRetriever(ProfileRetriever):
    """Retrieves the newest records, newest first.

    Undated records are the oldest. Of records with equal times the one that stands later in the profile is the
    newer. A score is the share of the profile that is not newer than the record: 1.0 for the newest, 1/n for the
    oldest of n.
    """

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        """The `k` newest records; `query` plays no part."""
        n_records = len(profile)
        oldest_first = sorted(range(n_records), key=lambda position: profile[position].time or "")
        shares = [0.0] * n_records
        for rank, position in enumerate(oldest_first, start=1):
            shares[position] = rank / n_records
        return scored(profile, oldest_first[::-1][:k], shares)
