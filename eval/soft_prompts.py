"""User embedders in an evaluation: soft prompts for the questions of a split, from the right history and from others.

Several trainings that differ by seed count together: each answers all questions, and a row of the report holds all of
their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from persona.encoders.user_vectors import UserVectorFile
from persona.errors import InvalidOptionError
from persona.protocols import Lifts, RecordEncoder
from persona.records import Profile
from persona.soft_prompts.channel import soft_prompts
from persona.soft_prompts.histories import History, HistoryBatch, history_reader, history_views

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True, eq=False)
class UserEmbedders:
    """The user embedders of an evaluation.

    Attributes:
        with_user: trained with histories, one per seed.
        without_user: the control, trained without any; one per seed, or none.
        vectors: the file of user vectors that those of mode ``"vectors"`` read; else None.

    Raises:
        InvalidOptionError: if there is no embedder, or they differ in what they read.
    """

    with_user: tuple[UserEmbedder, ...]
    without_user: tuple[UserEmbedder, ...] = ()
    vectors: UserVectorFile | None = None

    def __post_init__(self) -> None:
        if not self.with_user:
            raise InvalidOptionError(
                "the method 'user-embedder' needs a user embedder: name its folder (--user-embedder)"
            )
        if self.without_user and len(self.without_user) != len(self.with_user):
            raise InvalidOptionError(
                f"there must be as many user embedders trained without the user as with it, {len(self.with_user)}, "
                f"were: {len(self.without_user)}"
            )
        shapes = {
            (
                embedder.config.mode,
                embedder.config.view,
                embedder.config.encoder_dim,
                embedder.config.with_question,
                bool(embedder.config.copy_tokens),
            )
            for embedder in (*self.with_user, *self.without_user)
        }
        if len(shapes) > 1:
            raise InvalidOptionError(
                "the user embedders of one row, and their controls, must differ in their seed only; their mode, view, "
                f"encoder_dim and with_question, and whether they copy, were: {', '.join(map(str, sorted(shapes)))}"
            )
        if (self.with_user[0].config.mode == "vectors") != (self.vectors is not None):
            raise InvalidOptionError(
                "a file of user vectors (--user-vectors) goes with user embedders of mode 'vectors', and they with it; "
                f"the mode was: {self.with_user[0].config.mode!r}"
            )

    @classmethod
    def load(
        cls,
        with_user: Sequence[str | Path],
        without_user: Sequence[str | Path] = (),
        *,
        vectors: str | Path | None = None,
    ) -> UserEmbedders:
        """The user embedders in these folders, and the user vectors in a file.

        Raises:
            ModelLoadError: if there is none in one of the folders.
            DataFormatError: if there are no user vectors in the file.
        """
        from persona.soft_prompts.embedder import load_user_embedder

        file = None if vectors is None else UserVectorFile(vectors)
        return cls(tuple(map(load_user_embedder, with_user)), tuple(map(load_user_embedder, without_user)), file)

    @property
    def views(self) -> tuple[str, ...]:
        """The views of a record that they read vectors of."""
        return history_views(self.with_user[0].config)


class SoftPrompts:
    """The soft prompts of a split's questions.

    Args:
        user_embedders: the user embedders.
        llm: the frozen LLM that they were trained with.
        source: what they read: the record encoder that they were trained with, or the vectors of users.
        store: where the vectors of the profiles' records are; None where none are read.

    Raises:
        FingerprintMismatchError: if one was trained with another LLM or encoder.
    """

    def __init__(
        self,
        user_embedders: UserEmbedders,
        llm: TransformersLM,
        source: RecordEncoder | UserVectorFile,
        store: ProfileStore | None,
    ) -> None:
        for embedder in (*user_embedders.with_user, *user_embedders.without_user):
            embedder.check_fits(source.fingerprint, llm)
        self._llm = llm
        self._reader = history_reader(user_embedders.with_user[0].config, source, store)

    def queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of what the questions ask for.  # (questions, encoder_dim)"""
        return self._reader.questions(queries)

    def histories(self, profiles: Sequence[Profile]) -> list[History]:
        """What the user embedders read of `profiles`; equal profiles are read once."""
        different = {id(profile): profile for profile in profiles}
        read = dict(zip(different, self._reader.read(list(different.values())), strict=True))
        return [read[id(profile)] for profile in profiles]

    def lifts(self, embedder: UserEmbedder, profiles: Sequence[Profile], prompts: Sequence[str]) -> list[Lifts | None]:
        """What `embedder` copies into the answer to each question, from it and from its profile; None for nothing."""
        return (
            [None] * len(prompts)
            if embedder.copying is None
            else [*embedder.copying.of(self._llm).lifts(profiles, prompts)]
        )

    def of(
        self, embedder: UserEmbedder, histories: Sequence[History], queries: NDArray[np.float32]
    ) -> tuple[list[torch.Tensor], float]:
        """One soft prompt per question, and the mean attention perplexity of those with a history.

        Args:
            embedder: one of the user embedders.
            histories: of each question.
            queries: vectors of the questions.  # (questions, encoder_dim)
        """
        made = soft_prompts(embedder, histories, queries)
        device = next(embedder.parameters()).device
        perplexities = [
            float(embedder.attention_perplexity(batch.keys, batch.mask, batch.query, batch.days))
            for batch in (
                HistoryBatch.of([history], embedder.config, query[None], device)
                for history, query in zip(histories, queries, strict=True)
                if len(history)
            )
        ]
        return made, float(np.mean(perplexities)) if perplexities else 0.0
