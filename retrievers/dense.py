"""Retrieval by meaning: the records whose vectors have the greatest inner product with the query's, exactly.

A user has some hundred records, so the search is a scan of the user's own matrix: tens of microseconds, no index to
build or to be wrong, and no other user's vector within reach.

Vectors come from the store where they fit and are made from the text where not. Both are float16 before they are
compared, so that a ranking does not depend on where its vectors came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.protocols import RecordEncoder
from persona.records import Profile, ScoredRecord
from persona.store.vectors import UserVectors, inner_products, vector_fingerprint

from .ranking import check_k, check_query, check_view, pairs, scored, view_texts

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

_id = attrgetter("id")


class DenseRetriever:
    """Retrieves the records that are nearest to the query in the encoder's space.

    A score is the inner product of two unit vectors, -1 to 1. Records with equal scores stand in profile order.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        store: where vectors are read from, those of this encoder and view only; None encodes every record anew.
        view: the view of a record that is compared (`Record.view`).

    Raises:
        InvalidOptionError: if there is no such view.
    """

    def __init__(self, encoder: RecordEncoder, store: ProfileStore | None = None, view: str = "text") -> None:
        self.encoder = encoder
        self.store = store
        self.view = check_view(view)
        self.fingerprint = vector_fingerprint(encoder, view)

    def __repr__(self) -> str:
        return f"DenseRetriever({self.encoder!r}{'' if self.store is None else ', store=...'}, view={self.view!r})"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """The `k` records nearest to `query`.

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` is no string.
        """
        k, query = check_k(k), check_query(query)
        if not profile.records:
            return ()
        known = self._known(profile)
        found = known.nearest(query, k, self._encode([query, *known.missing]))
        return self._doubted(profile, query, k) if found is None else found

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair, with one call of the encoder for all queries and all records without a vector.

        An encoder may round differently in a batch of another shape, and so may the last digits of scores here.
        """
        k = check_k(k)
        asked = pairs(profiles, queries)
        # Keyed by identity: to hash a profile would be to hash its text.
        known = {id(profile): self._known(profile) for profile in profiles if profile.records}
        texts = [query for profile, query in asked if profile.records]
        for vectors in known.values():
            texts += vectors.missing
        encoded = self._encode(texts)
        results: list[tuple[ScoredRecord, ...]] = []
        for profile, query in asked:
            found = known[id(profile)].nearest(query, k, encoded) if profile.records else ()
            results.append(self._doubted(profile, query, k) if found is None else found)
        return results

    def _doubted(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """The answer for a profile that is not what its revision says."""
        known = self._known(profile, trust_revision=False)
        found = known.nearest(query, k, self._encode([query, *known.missing]))
        assert found is not None
        return found

    def _known(self, profile: Profile, *, trust_revision: bool = True) -> _KnownVectors:
        """What the store has of the vectors of `profile`."""
        stored = None if self.store is None else self.store.vectors(profile.user_id, self.fingerprint)
        if stored is None:
            return _KnownVectors(profile, self.view)
        ids = tuple(map(_id, profile.records))
        trusted = trust_revision and profile.revision > 0 and profile.revision == stored.revision
        if trusted and ids == stored.record_ids:
            return _KnownVectors(profile, self.view, stored, trusted=True)
        rows = stored.rows(ids)
        if not trusted:
            for position, row in enumerate(rows.tolist()):
                if row >= 0 and profile.records[position].content_hash != stored.hashes[row]:
                    rows[position] = -1
        return _KnownVectors(profile, self.view, stored, rows, trusted)

    def _encode(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vector of each text, by text; no text is encoded twice."""
        different = list(dict.fromkeys(texts))
        return dict(zip(different, self.encoder.encode(different), strict=True)) if different else {}


@dataclass(frozen=True, slots=True, eq=False)
class _KnownVectors:
    """What the store has of the vectors of a profile.

    To compare every record's content hash with the one that its vector was made from takes longer than the search. So
    vectors of the profile's own revision are trusted by record id, and only the records that come out on top are
    compared: a caller may have put other records under a stored revision.

    Attributes:
        profile: the profile.
        view: what of a record the encoder is given.
        stored: the user's vectors in the store, if there are any.
        rows: the row in `stored` of each record, -1 for none; None if they are the rows in their order.  # (records,)
        trusted: whether `rows` was found by ids alone.
    """

    profile: Profile
    view: str
    stored: UserVectors | None = None
    rows: NDArray[np.intp] | None = None
    trusted: bool = False

    @property
    def missing(self) -> list[str]:
        """The texts that have to be encoded."""
        if self.stored is None:
            return view_texts(self.profile, self.view)
        return [self.profile.records[position].view(self.view) for position in self._gaps]

    def nearest(
        self, query: str, k: int, encoded: Mapping[str, NDArray[np.float32]]
    ) -> tuple[ScoredRecord, ...] | None:
        """The `k` records nearest to `query`; None if trusted vectors turn out to be those of other records.

        Args:
            query: the query.
            k: at least 1.
            encoded: the vectors of `query` and of `missing`, by text.
        """
        scores = inner_products(self._matrix(encoded), encoded[query])
        best = (-scores).argsort(kind="stable")[:k].tolist()
        return scored(self.profile, best, scores) if self._belong_to(best) else None

    @property
    def _gaps(self) -> list[int]:
        """Positions of the records that the store has no vector of."""
        return [] if self.rows is None else np.flatnonzero(self.rows < 0).tolist()

    def _matrix(self, encoded: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float16]:
        """The vectors of all records, those of `missing` taken from `encoded`.  # (records, dim)"""
        if self.stored is None:
            return np.stack([encoded[text] for text in self.missing]).astype(np.float16)
        if self.rows is None:
            return self.stored.matrix
        matrix = self.stored.matrix[self.rows]  # row -1 holds a place until the next line fills it
        for position, text in zip(self._gaps, self.missing, strict=True):
            matrix[position] = encoded[text]
        return matrix

    def _belong_to(self, positions: Sequence[int]) -> bool:
        """Whether the vectors of the records at `positions` were made from these records."""
        if not self.trusted:
            return True  # compared already
        assert self.stored is not None
        rows = positions if self.rows is None else self.rows[positions].tolist()
        return all(
            row < 0 or self.profile.records[position].content_hash == self.stored.hashes[row]
            for position, row in zip(positions, rows, strict=True)
        )
