"""Histories as the user embedder reads them: each record a key and a value, in numbers.

A key is the vector of a record's input side; a value is its vectors of text and target and the style of what the user
wrote (`persona.writing_style`). Vectors come from the store, where `embed_users` has put them for the views in
`history_views`; what is missing there is encoded on the spot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from persona.embedder import UserEmbedderConfig
from persona.protocols import RecordEncoder
from persona.records import Profile, Record
from persona.vectors import vector_fingerprint
from persona.writing_style import STYLE_DIM, style_vector

if TYPE_CHECKING:
    from persona.store import ProfileStore

_TARGET = "target"


def history_views(config: UserEmbedderConfig) -> tuple[str, ...]:
    """The views of a record whose vectors a user embedder reads."""
    return (config.view, _TARGET) if config.mode == "plug" else (config.view,)


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """One user's records in numbers.

    Attributes:
        values: float16; a value begins with the record's key, in its first `encoder_dim` numbers.
            # (records, value_dim)
        days: the day of each record, counted from year 1; None where a record has no date.  # (records,)
    """

    values: NDArray[np.float16]
    days: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.intp]) -> History:
        """The records at `rows`, in that order."""
        return History(self.values[rows], None if self.days is None else self.days[rows])


class HistoryReader:
    """Turns profiles into histories.

    Args:
        config: of the user embedder that is to read them.
        encoder: the record encoder.
        store: where vectors are read from; None encodes every record anew.
    """

    def __init__(self, config: UserEmbedderConfig, encoder: RecordEncoder, store: ProfileStore | None = None) -> None:
        self.config = config
        self.encoder = encoder
        self.store = store

    def read(self, profiles: Sequence[Profile]) -> list[History]:
        """The histories of `profiles`; texts that the store has no vector of are encoded together, each once."""
        parts = {
            view: self._vectors([profile.records for profile in profiles], profiles, view)
            for view in history_views(self.config)
        }
        keys = parts[self.config.view]
        if self.config.mode != "plug":
            return [History(each, _days(profile)) for each, profile in zip(keys, profiles, strict=True)]
        histories = []
        for profile, key, target in zip(profiles, keys, parts[_TARGET], strict=True):
            style = np.zeros((len(profile), STYLE_DIM), np.float16)
            for row, record in enumerate(profile):
                style[row] = style_vector(record.text if record.target is None else record.target)
                if record.target is None:
                    target[row] = 0
            histories.append(History(np.concatenate((key, target, style), axis=1), _days(profile)))
        return histories

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions, in the space of the keys; equal texts are encoded once.  # (texts, encoder_dim)"""
        different = list(dict.fromkeys(texts))
        if not different:
            return np.zeros((0, self.config.encoder_dim), np.float32)
        places = {text: place for place, text in enumerate(different)}
        encoded = np.asarray(self.encoder.encode(different), np.float32)
        return encoded[[places[text] for text in texts]]

    def _vectors(
        self, records: Sequence[tuple[Record, ...]], profiles: Sequence[Profile], view: str
    ) -> list[NDArray[np.float16]]:
        """The vectors of all records of each profile.  # per profile: (records, encoder_dim)"""
        found: list[NDArray[np.float16]] = []
        missing: dict[str, list[tuple[int, int]]] = {}
        for place, profile in enumerate(profiles):
            matrix = np.zeros((len(profile), self.config.encoder_dim), np.float16)
            rows = self._stored_rows(profile, view, matrix)
            for row in np.flatnonzero(rows < 0).tolist():
                missing.setdefault(profile[row].view(view), []).append((place, row))
            found.append(matrix)
        # An empty target has no vector, and nothing to say.
        missing.pop("", None)
        if missing:
            encoded = np.asarray(self.encoder.encode(list(missing))).astype(np.float16)
            for vector, places in zip(encoded, missing.values(), strict=True):
                for place, row in places:
                    found[place][row] = vector
        return found

    def _stored_rows(self, profile: Profile, view: str, matrix: NDArray[np.float16]) -> NDArray[np.intp]:
        """Fill `matrix` with what the store has of this very content; -1 where it has nothing.  # (records,)"""
        nothing = np.full(len(profile), -1, np.intp)
        stored = None
        if self.store is not None:
            stored = self.store.vectors(profile.user_id, vector_fingerprint(self.encoder, view))
        if stored is None:
            return nothing
        rows = stored.rows(record.id for record in profile)
        for place, row in enumerate(rows.tolist()):
            if row >= 0 and stored.hashes[row] != profile[place].content_hash:
                rows[place] = -1
        known = rows >= 0
        matrix[known] = stored.matrix[rows[known]]
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class HistoryBatch:
    """Histories side by side, padded to the longest; the arguments of `UserEmbedder.forward`.

    Attributes:
        keys: float32; a view of `values`.  # (batch, records, encoder_dim)
        values: float32.  # (batch, records, value_dim)
        mask: True where there is a record.  # (batch, records)
        query: float32; None for prompts that fit any question.  # (batch, encoder_dim)
        days: ages in days at each user's last record, float32; 0 for a user without dates.  # (batch, records)
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    query: torch.Tensor | None
    days: torch.Tensor

    @classmethod
    def of(
        cls,
        histories: Sequence[History],
        config: UserEmbedderConfig,
        query: NDArray[np.float32] | None = None,
        device: torch.device | str = "cpu",
    ) -> HistoryBatch:
        """The batch of `histories`.

        Args:
            histories: at least one; empty ones are welcome.
            config: of the user embedder.
            query: the questions' vectors.  # (batch, encoder_dim)
            device: where to put it.
        """
        longest = max(1, *map(len, histories))
        values = np.zeros((len(histories), longest, config.value_dim), np.float16)
        days = np.zeros((len(histories), longest), np.float32)
        mask = np.zeros((len(histories), longest), bool)
        for place, history in enumerate(histories):
            n = len(history)
            values[place, :n], mask[place, :n] = history.values, True
            if history.days is not None and n:
                days[place, :n] = history.days.max() - history.days
        # Widened by torch, and where they are used: numpy takes several times as long to widen a half.
        widened = torch.from_numpy(values).to(device).float()
        asked = None if query is None else torch.from_numpy(np.asarray(query, np.float32)).to(device)
        return cls(
            widened[..., : config.encoder_dim],
            widened,
            torch.from_numpy(mask).to(device),
            asked,
            torch.from_numpy(days).to(device),
        )


def vectors_as_histories(vectors: Mapping[str, NDArray[np.float32]], user_ids: Sequence[str]) -> list[History]:
    """Vectors that somebody made of users, as histories of one record for `UserEmbedder.from_vectors`.

    Args:
        vectors: user id -> vector.  # (dim,)
        user_ids: whose; one who has no vector gets an empty history.
    """
    dim = len(next(iter(vectors.values())))
    histories = []
    for user_id in user_ids:
        vector = vectors.get(user_id)
        rows = np.zeros((0, dim), np.float16) if vector is None else np.asarray(vector, np.float16)[None]
        histories.append(History(rows))
    return histories


def _days(profile: Profile) -> NDArray[np.float32] | None:
    """The day of each record; None if one has none."""
    days = [_day(record.time) for record in profile]
    return None if None in days else np.array(days, np.float32)


def _day(time: str | None) -> float | None:
    """A date as a day counted from year 1; a year or month alone is its first day."""
    if time is None:
        return None
    try:
        parts = [int(part) for part in time[:10].split("-")]
        year, month, day = (*parts, 1, 1)[:3]
        return float(date(year, month, day).toordinal())
    except ValueError:
        return None  # a record made by hand may hold any string
