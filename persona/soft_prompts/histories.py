"""Histories as a user embedder reads them: each record a key and a value, in numbers.

A key is the vector of a record's input side; a value is its vectors of text and target and the style of what the user
wrote (`persona.encoders.style`), then further views (`persona.soft_prompts.parts.views`). Vectors come from the store,
where `embed_users` has put them for the views in `history_views`; those that are missing there are encoded on the spot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from persona.encoders.style import STYLE_DIM, style_vector
from persona.encoders.user_vectors import UserVectorFile
from persona.errors import InvalidOptionError
from persona.formats.times import day_of
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.registry import made
from persona.store.vectors import vector_fingerprint

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

_TARGET = "target"


def history_views(config: UserEmbedderConfig) -> tuple[str, ...]:
    """The views of a record whose vectors a user embedder reads; none in mode ``"vectors"``."""
    if config.mode == "vectors":
        return ()
    return (config.view, _TARGET) if config.mode == "attention" else (config.view,)


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

    def nothing(self) -> History:
        """The same without any record."""
        return self.take(np.arange(0))


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
        self.fingerprint = encoder.fingerprint
        self._views = made("view", config.views)

    def read(self, profiles: Sequence[Profile]) -> list[History]:
        """The histories of `profiles`; texts without a stored vector are encoded together, each once."""
        of_view = {view: self._vectors(profiles, view) for view in history_views(self.config)}
        keys = of_view[self.config.view]
        if self.config.mode != "attention":
            return [History(key, _days(profile)) for key, profile in zip(keys, profiles, strict=True)]
        histories = []
        for profile, key, target in zip(profiles, keys, of_view[_TARGET], strict=True):
            style = np.zeros((len(profile), STYLE_DIM), np.float16)
            for row, record in enumerate(profile):
                style[row] = style_vector(record.text if record.target is None else record.target)
                if record.target is None:
                    target[row] = 0
            further = [view.read(profile).astype(np.float16) for view in self._views]
            histories.append(History(np.concatenate((key, target, style, *further), axis=1), _days(profile)))
        return histories

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions, in the space of the keys; equal texts are encoded once.  # (texts, encoder_dim)"""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        if not rows:
            return np.zeros((0, self.config.encoder_dim), np.float32)
        encoded = np.asarray(self.encoder.encode(list(rows)), np.float32)
        return encoded[[rows[text] for text in texts]]

    def _vectors(self, profiles: Sequence[Profile], view: str) -> list[NDArray[np.float16]]:
        """The vectors of all records of each profile.  # per profile: (records, encoder_dim)"""
        matrices: list[NDArray[np.float16]] = []
        missing: dict[str, list[tuple[int, int]]] = {}
        for number, profile in enumerate(profiles):
            matrix = np.zeros((len(profile), self.config.encoder_dim), np.float16)
            for row in self._fill_stored(profile, view, matrix):
                missing.setdefault(profile[row].view(view), []).append((number, row))
            matrices.append(matrix)
        # An empty target has no vector, and nothing to say.
        missing.pop("", None)
        if missing:
            encoded = np.asarray(self.encoder.encode(list(missing))).astype(np.float16)
            for vector, cells in zip(encoded, missing.values(), strict=True):
                for number, row in cells:
                    matrices[number][row] = vector
        return matrices

    def _fill_stored(self, profile: Profile, view: str, matrix: NDArray[np.float16]) -> list[int]:
        """Fill `matrix` with what the store has of this very content; the rows that are left."""
        stored = None
        if self.store is not None:
            stored = self.store.vectors(profile.user_id, vector_fingerprint(self.encoder, view))
        if stored is None:
            return list(range(len(profile)))
        rows = stored.rows(record.id for record in profile)
        known = np.array(
            [row >= 0 and stored.hashes[row] == profile[at].content_hash for at, row in enumerate(rows.tolist())], bool
        )
        matrix[known] = stored.matrix[rows[known]]
        return [int(row) for row in np.flatnonzero(~known)]


class UserVectorReader:
    """Reads a user's vector as a history, in which it stands once for each record of the profile.

    So it is shown with any part of the history, and a user whose records are all left out in training has none, as one
    who is not in the file. Questions are not read: their vectors are zeros.

    Args:
        config: of the user embedder.
        vectors: of the users.
    """

    def __init__(self, config: UserEmbedderConfig, vectors: UserVectorFile) -> None:
        self.config = config
        self.vectors = vectors
        self.fingerprint = vectors.fingerprint

    def read(self, profiles: Sequence[Profile]) -> list[History]:
        """The histories of `profiles`; empty for users who have no vector."""
        histories = []
        for profile in profiles:
            vector = self.vectors.of_profile(profile)
            rows = 0 if vector is None else max(1, len(profile))
            values = np.zeros(self.vectors.dim, np.float16) if vector is None else vector.astype(np.float16)
            histories.append(History(np.broadcast_to(values, (rows, self.vectors.dim))))
        return histories

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Zeros.  # (texts, dim)"""
        return np.zeros((len(texts), self.vectors.dim), np.float32)


ReadsHistories: TypeAlias = HistoryReader | UserVectorReader
"""What makes histories of profiles, and vectors of questions."""


def history_reader(
    config: UserEmbedderConfig, source: RecordEncoder | UserVectorFile, store: ProfileStore | None = None
) -> ReadsHistories:
    """The reader for a user embedder: of records through an encoder, or of vectors that somebody made of the users.

    Raises:
        InvalidOptionError: if `source` is not what the mode of `config` reads.
    """
    if (config.mode == "vectors") != isinstance(source, UserVectorFile):
        reads = "a file of user vectors" if config.mode == "vectors" else "records, through a record encoder"
        raise InvalidOptionError(f"a user embedder of mode {config.mode!r} reads {reads}, was: {type(source).__name__}")
    return (
        UserVectorReader(config, source) if isinstance(source, UserVectorFile) else HistoryReader(config, source, store)
    )


@dataclass(frozen=True, slots=True, eq=False)
class HistoryBatch:
    """Histories padded to the longest; the arguments of `UserEmbedder.forward`.

    Attributes:
        keys: float32; a view of `values`.  # (batch, records, encoder_dim)
        values: float32.  # (batch, records, value_dim)
        mask: True where there is a record.  # (batch, records)
        query: vectors of the questions, float32; None for prompts that fit any question.  # (batch, encoder_dim)
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
        """The batch of at least one history, on a device; histories may be empty."""
        longest = max(1, *map(len, histories))
        values = np.zeros((len(histories), longest, config.value_dim), np.float16)
        days = np.zeros((len(histories), longest), np.float32)
        mask = np.zeros((len(histories), longest), bool)
        for row, history in enumerate(histories):
            n = len(history)
            values[row, :n], mask[row, :n] = history.values, True
            if history.days is not None and n:
                days[row, :n] = history.days.max() - history.days
        # Widened by torch, and where they are used: numpy takes several times as long to widen a half.
        widened = torch.from_numpy(values).to(device).float()
        asked = None if query is None else torch.from_numpy(np.asarray(query, np.float32)).to(device)
        dates = torch.from_numpy(days).to(device)
        return cls(widened[..., : config.encoder_dim], widened, torch.from_numpy(mask).to(device), asked, dates)

    def soft_prompts(self, model: torch.nn.Module, *, asked: bool = True) -> torch.Tensor:
        """What a user embedder makes of the batch, with or without the questions.  # (batch, n_tokens, llm_hidden)"""
        prompts: torch.Tensor = model(self.keys, self.values, self.mask, self.query if asked else None, self.days)
        return prompts

    def steering(self, model: Any) -> dict[int, torch.Tensor]:
        """What a user embedder adds behind blocks of the LLM for the batch.  # (batch, llm_hidden) each"""
        vectors: dict[int, torch.Tensor] = model.steering(self.keys, self.values, self.mask, self.days)
        return vectors


def _days(profile: Profile) -> NDArray[np.float32] | None:
    """The day of each record; None if one has none."""
    days = [day_of(record.time) for record in profile]
    return None if None in days else np.array(days, np.float32)
