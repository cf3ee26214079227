"""Knowing when not to: a filter over any retriever that may return nothing.

A retriever ranks and always has k records to give; whether any of them has to do with the question is another matter,
which a `persona.retrievers.relevance.filters.RelevanceFilter` judges by vectors. It judges the *question*, by default:
if none of the user's records passes, not even the nearest, nothing is returned; if one does, the question is about the
user, and what the retriever found stays whole. (What a retriever ranks by need not be the cosine: of the records that
BM25 puts first for the users' own questions, fewer than half would pass.) Or each *record* by itself: of those found,
the ones that do not pass are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from persona.errors import check_one_of
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, ScoredRecord
from persona.store.vectors import HasVectors

from ..base import ProfileRetriever, Ranking
from ..vectors.record_vectors import RecordVectors
from .filters import RelevanceFilter, check_fits

QUESTION, RECORD = JUDGED = ("question", "record")
"""What a filter judges."""


class RelevanceRetriever(ProfileRetriever):
    """Retrieves what another retriever finds, where a filter finds it relevant: at most `k` records, and perhaps none.

    Order and scores are those of the base.

    Args:
        base: finds the records.
        relevance: judges.
        encoder: makes vectors; that of the filter.
        store: where vectors of records are read from.
        judge: what is judged, one of `JUDGED`. ``"question"``: all that was found is kept if any record of the profile
            passes, found or not, else nothing. ``"record"``: of what was found that is kept which passes.

    Raises:
        InvalidOptionError: if `judge` is neither.
        FingerprintMismatchError: if the filter reads vectors of another encoder.
    """

    def __init__(
        self,
        base: Retriever,
        relevance: RelevanceFilter,
        encoder: RecordEncoder,
        store: HasVectors | None = None,
        *,
        judge: str = QUESTION,
    ) -> None:
        check_fits(relevance, encoder)
        check_one_of(JUDGED, judge=judge)
        self.base = base
        self.relevance = relevance
        self.judge = judge
        self.vectors = RecordVectors(encoder, store, relevance.view)

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """Those of the base's `k` records of each profile that are relevant, with one call of the encoder."""
        rankings = self.base.retrieve_batch(profiles, queries, k)
        # Where the base found nothing, there is nothing to encode either.
        asked = [number for number, ranking in enumerate(rankings) if ranking]
        judged = [
            profiles[number] if self.judge == QUESTION else _found(profiles[number], rankings[number])
            for number in asked
        ]
        embedded = self.vectors.embed(judged, [queries[number] for number in asked])
        for number, own in zip(asked, embedded, strict=True):
            passes = self.relevance.passes(own).tolist()
            if self.judge == QUESTION:
                rankings[number] = rankings[number] if any(passes) else ()
            else:
                rankings[number] = tuple(
                    ranked for ranked, relevant in zip(rankings[number], passes, strict=True) if relevant
                )
        return rankings


def _found(profile: Profile, ranking: Sequence[ScoredRecord]) -> Profile:
    """The ranked records as a profile of the same user."""
    return Profile(profile.user_id, tuple(ranked.record for ranked in ranking), profile.revision)
