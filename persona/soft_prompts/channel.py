"""The channel of soft prompts: a user embedder's tokens before the prompt of a frozen LLM.

>>> channel = SoftPromptChannel("embedders/ratings", llm, load_encoder("minilm"), store)            # doctest: +SKIP
>>> Personalizer(llm, store, (RecordsChannel(retriever, k=1), channel))                         # doctest: +SKIP

A user embedder that copies (`persona.soft_prompts.copying`) brings lifts as well, for what stands in the question and in the user's
answers. An endpoint that takes soft prompts and no lifts gets the soft prompt alone.

A soft prompt is made for the question, from vectors that `embed_users` has stored. Where that is too much for the path
of a request, `store_soft_prompts` makes one for each user beforehand that fits any question, and the channel, with
``query_free=True``, reads it. It is kept as the user's other indexes are: it goes when a record is deleted, is stale
when one is added, and is erased with the user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from persona.channels import Ask, Channel, Contribution, check_way
from persona.encoders.user_vectors import UserVectorFile
from persona.lamp.prompts import LampWording
from persona.lamp.tasks import lamp_task
from persona.protocols import LIFTS, SOFT_PROMPT, Lifts, RecordEncoder
from persona.records import Profile
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import History, HistoryBatch, history_reader
from persona.store.derived import StoredIndex

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

USERS_AT_ONCE = 256
"""Users whose soft prompts are stored together."""

_RECORDS_AT_ONCE = 4096
"""Records that are computed together: as floats some 15 MB, so that they stay in a processor's cache."""

_RECORDS_ALIKE = 512
"""So many records of histories of one length are computed without others."""


class SoftPromptChannel(Channel):
    """Puts a user embedder's soft prompt into the context of each request.

    Args:
        embedder: the user embedder, or its folder or hub id.
        llm: the frozen LLM that is to read the soft prompts.
        encoder: the record encoder that `embedder` was trained with; for one of mode ``"vectors"`` the user vectors.
        store: where vectors and stored soft prompts are read from; None encodes every record anew.
        query_free: read stored soft prompts, made for any question; one that is missing or stale is made on the spot.

    Attributes:
        wording: of the LaMP task that `embedder` was trained on; None for one that was trained before that was noted.

    Raises:
        UnsupportedChannelError: if the LLM takes no soft prompts.
        FingerprintMismatchError: if `embedder` was trained with another LLM or encoder.
        InvalidOptionError: if `embedder` reads records and was given user vectors, or the other way round.
        ModelLoadError: if `embedder` cannot be loaded.
    """

    name = "soft_prompt"
    requires = SOFT_PROMPT

    def __init__(
        self,
        embedder: UserEmbedder | str | Path,
        llm: Any,
        encoder: RecordEncoder | UserVectorFile,
        store: ProfileStore | None = None,
        *,
        query_free: bool = False,
    ) -> None:
        check_way(llm, SOFT_PROMPT, "a user embedder")
        self.embedder = embedder if isinstance(embedder, UserEmbedder) else load_user_embedder(embedder)
        self._reader = history_reader(self.embedder.config, encoder, store)
        self.embedder.check_fits(encoder.fingerprint, llm)
        self.store = store
        self.query_free = query_free
        self._kind = soft_prompt_kind(self.embedder) if query_free else ""
        task = self.embedder.config.task
        self.wording = LampWording(lamp_task(task)) if task else None
        copying = self.embedder.copying if self.embedder.copies and LIFTS in llm.channels else None
        self._copying = None if copying is None else copying.of(llm)

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """A soft prompt for each of `asks`, and lifts; users without records get the neutral one."""
        found: dict[int, torch.Tensor] = {}
        neutral: set[int] = set()
        if self.query_free:
            for place, ask in enumerate(asks):
                stored = self._stored(ask.profile)
                if stored is not None:
                    found[place] = stored
        missing = [place for place in range(len(asks)) if place not in found]
        if missing:
            histories = self._reader.read([asks[place].profile for place in missing])
            neutral = {place for place, history in zip(missing, histories, strict=True) if not len(history)}
            queries = None if self.query_free else self._queries([asks[place] for place in missing])
            found.update(zip(missing, soft_prompts(self.embedder, histories, queries), strict=True))
        lifts: Sequence[Lifts | None] = [None] * len(asks)
        if self._copying is not None:
            lifts = self._copying.lifts([ask.profile for ask in asks], [ask.prompt for ask in asks])
        return [
            Contribution(soft_prompt=found[place], lifts=lifts[place], personal=place not in neutral)
            for place in range(len(asks))
        ]

    def _queries(self, asks: Sequence[Ask]) -> NDArray[np.float32]:
        """Vectors of what is asked, as in training: of a task's prompt the part behind the words on what to do with it.

        Returns:
            # (asks, encoder_dim)
        """
        wording = self.wording
        return self._reader.questions([ask.query if wording is None else wording.query(ask.prompt) for ask in asks])

    def _stored(self, profile: Profile) -> torch.Tensor | None:
        """The stored soft prompt of this very revision, or None."""
        if self.store is None or not len(profile):
            return None
        stored = self.store.index(profile.user_id, self._kind)
        if stored is None or stored.revision != profile.revision:
            return None
        config = self.embedder.config
        numbers = np.frombuffer(stored.data, "<f2").reshape(config.n_tokens, config.llm_hidden)
        return torch.from_numpy(numbers.astype(np.float32))


def soft_prompt_kind(embedder: UserEmbedder) -> str:
    """The kind (`StoredIndex.kind`) that the soft prompts of `embedder` are stored as."""
    return f"soft-prompt:{embedder.fingerprint}"


@torch.no_grad()
def soft_prompts(
    embedder: UserEmbedder, histories: Sequence[History], queries: NDArray[np.float32] | None = None
) -> list[torch.Tensor]:
    """The soft prompt of each history; those of like length are computed together.

    Where enough are of the very same length, only they are: then there is no padding, and nothing to pick out of it.

    Args:
        embedder: the user embedder.
        histories: of the users.
        queries: vectors of the questions; None for prompts that fit any.  # (histories, encoder_dim)

    Returns:
        float32, on the CPU.  # per history: (n_tokens, llm_hidden)
    """
    made: list[torch.Tensor] = [torch.empty(0)] * len(histories)
    device = next(embedder.parameters()).device
    order = sorted(range(len(histories)), key=lambda place: len(histories[place]))
    while order:
        # The longest histories first; their length says how many fit.
        longest = len(histories[order[-1]])
        size = max(1, _RECORDS_AT_ONCE // max(1, longest))
        alike = sum(1 for place in order[-size:] if len(histories[place]) == longest)
        size = alike if alike * longest >= _RECORDS_ALIKE else size
        places, order = order[-size:], order[:-size]
        asked = None if queries is None else queries[places]
        batch = HistoryBatch.of([histories[place] for place in places], embedder.config, asked, device)
        prompts = embedder(batch.keys, batch.values, batch.mask, batch.query, batch.days).float().cpu()
        for place, prompt in zip(places, prompts, strict=True):
            made[place] = prompt
    return made


def store_soft_prompts(
    store: ProfileStore,
    embedder: UserEmbedder,
    encoder: RecordEncoder,
    *,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Make the soft prompts, fit for any question, that are missing or stale, and keep them in `store`.

    It may be killed at any moment and run again: what was put in stays, and only the rest is made.

    Args:
        store: holds records and, after `embed_users`, their vectors.
        embedder: the user embedder.
        encoder: the record encoder that it was trained with.
        progress: called after each chunk with the number of users gone through.

    Returns:
        How many were made and kept. A user who is being changed at this moment is passed over.
    """
    kind, reader = soft_prompt_kind(embedder), history_reader(embedder.config, encoder, store)
    kept = seen = 0
    users = store.user_ids()
    while user_ids := list(islice(users, USERS_AT_ONCE)):
        profiles = []
        for user_id in user_ids:
            profile = store.profile(user_id)
            stored = store.index(user_id, kind)
            if len(profile) and (stored is None or stored.revision != profile.revision):
                profiles.append(profile)
        histories = reader.read(profiles)
        made = soft_prompts(embedder, histories)
        kept += store.put_indexes(
            StoredIndex(profile.user_id, kind, profile.revision, prompt.numpy().astype("<f2").tobytes())
            for profile, history, prompt in zip(profiles, histories, made, strict=True)
            if len(history)  # the neutral prompt is nobody's
        )
        seen += len(user_ids)
        if progress is not None:
            progress(seen)
    return kept
