"""The vectors of a profile's records and of a query, for retrievers that look at the space itself.

Stored vectors are used where they were made from the very record, by its content hash; the others are made now, for
this query and in memory. All are float16 before they are compared, as in `persona.retrievers.dense`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import inner_products, vector_fingerprint

from .ranking import check_view, pairs, view_texts

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A profile and a query in one space.

    Attributes:
        records: the vectors of the records, in profile order, float16.  # (records, dim)
        query: the vector of the query, float32.  # (dim,)
        text: the query itself.
    """

    records: NDArray[np.float16]
    query: NDArray[np.float32]
    text: str

    @property
    def similarities(self) -> NDArray[np.float32]:
        """The inner product of each record with the query, -1 to 1.  # (records,)"""
        return inner_products(self.records, self.query)

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

    def __init__(self, encoder: RecordEncoder, store: ProfileStore | None = None, view: str = "text") -> None:
        self.encoder = encoder
        self.store = store
        self.view = check_view(view)
        self.fingerprint = vector_fingerprint(encoder, view)

    def place(self, profiles: Sequence[Profile], queries: Sequence[str]) -> list[Placed]:
        """Each profile with its query, in order; one call of the encoder for all that has to be encoded.

        Raises:
            InvalidOptionError: if there are not as many queries as profiles.
        """
        asked = pairs(profiles, queries)
        # Keyed by identity: to hash a profile would be to hash its text.
        known = {id(profile): self._stored(profile) for profile in profiles}
        texts = {id(profile): view_texts(profile, self.view) for profile in profiles}
        missing = [
            text
            for key, rows in known.items()
            for text, row in zip(texts[key], rows or [None] * len(texts[key]), strict=True)
            if row is None
        ]
        different = list(dict.fromkeys([*queries, *missing]))
        encoded = dict(zip(different, self.encoder.encode(different), strict=True)) if different else {}
        matrices = {key: self._matrix(texts[key], known[key], encoded) for key in known}
        return [Placed(matrices[id(profile)], encoded[query], query) for profile, query in asked]

    def _stored(self, profile: Profile) -> list[NDArray[np.float16] | None] | None:
        """The stored vector of each record, None for one without; None if there is none at all."""
        stored = None if self.store is None else self.store.vectors(profile.user_id, self.fingerprint)
        if stored is None:
            return None
        rows = stored.rows(record.id for record in profile)
        return [
            stored.matrix[row] if row >= 0 and stored.hashes[row] == record.content_hash else None
            for row, record in zip(rows.tolist(), profile, strict=True)
        ]

    def _matrix(
        self,
        texts: Sequence[str],
        known: Sequence[NDArray[np.float16] | None] | None,
        encoded: dict[str, NDArray[np.float32]],
    ) -> NDArray[np.float16]:
        if not texts:
            return np.empty((0, self.encoder.dim), np.float16)
        rows = known or [None] * len(texts)
        return np.stack(
            [encoded[text].astype(np.float16) if row is None else row for text, row in zip(texts, rows, strict=True)]
        )
