"""The vectors of a profile's records and of a query, for the retrievers that compare vectors.

Stored vectors are used where they were made from the very record, by its content hash; the others are made for this
query and in memory. All are float16 before they are compared, so that a ranking does not depend on where its
vectors came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors, inner_products, vector_fingerprint

from ..base import ProfileRetriever, Ranking, check_view


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedProfile:
    """The records of a profile and a query as vectors of one encoder.

    Attributes:
        records: the vectors of the records, in profile order, float16.  # (records, dim)
        query: the vector of the query, float32.  # (dim,)
        text: the query itself.
        unchecked: content hashes of the records that stored vectors were made from, where they were taken by the
            profile's revision alone.
    """

    records: NDArray[np.float16]
    query: NDArray[np.float32]
    text: str
    unchecked: Sequence[str] = ()

    @property
    def similarities(self) -> NDArray[np.float32]:
        """The inner product of each record with the query, -1 to 1.  # (records,)"""
        return inner_products(self.records, self.query)

    def made_from(self, profile: Profile, positions: Sequence[int]) -> bool:
        """Whether the vectors at `positions` were made from these records of `profile`."""
        return not self.unchecked or all(self.unchecked[n] in ("", profile[n].content_hash) for n in positions)

    @property
    def wide(self) -> NDArray[np.float32]:
        """`records` as float32.  # (records, dim)"""
        return self.records.astype(np.float32)


class RecordVectors:
    """Finds or makes the vectors of records.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from, those of this encoder and view only; None encodes every record.
        view: the view of a record that is compared (`Record.view`).

    Raises:
        InvalidOptionError: if there is no such view.
    """

    def __init__(self, encoder: RecordEncoder, store: HasVectors | None = None, view: str = "text") -> None:
        self.encoder = encoder
        self.store = store
        self.view = check_view(view)
        self.fingerprint = vector_fingerprint(encoder, view)

    def __repr__(self) -> str:
        return f"RecordVectors({self.encoder!r}{'' if self.store is None else ', store=...'}, view={self.view!r})"

    def embed(
        self, profiles: Sequence[Profile], queries: Sequence[str], *, trust_revision: bool = False
    ) -> list[EmbeddedProfile]:
        """Each profile with its query; one call of the encoder for all texts, and no text goes into it twice.

        An encoder may round differently in a batch of another shape, and so may the last digits of similarities.

        Args:
            profiles: not empty.
            queries: one for each.
            trust_revision: take vectors of the profile's own revision by record id, and leave it to the caller to
                compare the content hashes of the records that it returns (`EmbeddedProfile.made_from`): to compare all
                takes longer than the search.
        """
        # By identity: to hash a profile would be to hash its text.
        unique = {id(profile): profile for profile in profiles}
        stored = {key: self._stored(profile, trust_revision) for key, profile in unique.items()}
        missing = {
            key: {row: unique[key][row].view(self.view) for row in np.flatnonzero(~known).tolist()}
            for key, (_, known, _) in stored.items()
        }
        texts = list(dict.fromkeys([*queries, *(text for rows in missing.values() for text in rows.values())]))
        encoded = dict(zip(texts, self.encoder.encode(texts), strict=True)) if texts else {}
        for key, rows in missing.items():
            matrix = stored[key][0]
            for row, text in rows.items():
                matrix[row] = encoded[text]
        results = []
        for profile, query in zip(profiles, queries, strict=True):
            matrix, _, unchecked = stored[id(profile)]
            results.append(EmbeddedProfile(matrix, encoded[query], query, unchecked))
        return results

    def _stored(
        self, profile: Profile, trust_revision: bool
    ) -> tuple[NDArray[np.float16], NDArray[np.bool_], Sequence[str]]:
        """The store's vectors of the records (records, dim), of which it has one (records,), and unchecked hashes."""
        stored = None if self.store is None else self.store.vectors(profile.user_id, self.fingerprint)
        if stored is None or not len(stored):
            return np.zeros((len(profile), self.encoder.dim), np.float16), np.zeros(len(profile), bool), ()
        rows = stored.rows(record.id for record in profile)
        matrix = stored.matrix[rows]
        hashes = [stored.hashes[row] if row >= 0 else "" for row in rows.tolist()]
        if trust_revision and 0 < profile.revision == stored.revision:
            return matrix, rows >= 0, hashes
        fits = [made_from == record.content_hash for made_from, record in zip(hashes, profile, strict=True)]
        return matrix, np.array(fits, dtype=bool), ()


class VectorRetriever(ProfileRetriever):
    """Base of the retrievers that compare vectors: they implement `choose`.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).

    Raises:
        InvalidOptionError: if there is no such view.
    """

    def __init__(self, encoder: RecordEncoder, store: HasVectors | None = None, view: str = "text") -> None:
        self.vectors = RecordVectors(encoder, store, view)

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """At most `k` records of each profile, with one call of the encoder."""
        embedded = self.vectors.embed(profiles, queries)
        return [self.choose(profile, own, k) for profile, own in zip(profiles, embedded, strict=True)]

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """At most `k` records of a profile, by its vectors and its query's."""
        raise NotImplementedError(f"{type(self).__name__} must implement `choose`")
