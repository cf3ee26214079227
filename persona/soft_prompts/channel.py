"""The channel of soft prompts: a user embedder's tokens before the prompt of a frozen LLM.

>>> from persona import Record, UserEmbedder, load_encoder, load_llm
>>> from persona.records import Profile
>>> llm, encoder = load_llm("tiny"), load_encoder("hashing")
>>> channel = SoftPromptChannel(UserEmbedder.for_llm(llm, encoder, n_tokens=4), llm, encoder)
>>> ask = Ask(Profile("ana", (Record("Slow.", target="2"),)), "review: Quiet.", "review: Quiet.")
>>> channel.contribute([ask])[0].soft_prompt.shape
torch.Size([4, 128])

A soft prompt is made for the question, from vectors that `embed_users` has stored. A user embedder that copies
(`persona.soft_prompts.copying`) brings lifts as well; an LLM that takes soft prompts and no lifts, as an endpoint, gets
the soft prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from persona.channels import Ask, Channel, Contribution, check_way
from persona.encoders.user_vectors import UserVectorFile
from persona.lamp.prompts import LampWording
from persona.lamp.tasks import lamp_task
from persona.llm.inputs import TokenSet
from persona.protocols import LIFTS, SOFT_PROMPT, STEERING, Encoding, Lifts, RecordEncoder
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import History, HistoryBatch, HistoryReader, history_reader, history_views
from persona.store.derived import StoredIndex

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

T = TypeVar("T")

USERS_AT_ONCE = 256
"""Users whose soft prompts are stored together."""

_RECORDS_AT_ONCE = 4096
"""Records that are computed together: as floats some 15 MB, so that they stay in a processor's cache."""

_RECORDS_ALIKE = 512
"""Records from which on histories of one length are computed without others."""


class SoftPromptChannel(Channel):
    """Puts a user embedder's soft prompt before each prompt, and lifts what it copies.

    Args:
        embedder: the user embedder, or its folder or hub id.
        llm: the frozen LLM that is to read the soft prompts.
        source: the record encoder that `embedder` was trained with; for one of mode ``"vectors"`` the user vectors.
        store: where vectors and stored soft prompts are read from; None encodes every record anew.
        query_free: read the stored soft prompts, which fit any question (`store_soft_prompts`), so that nothing is
            encoded on the path of a request; one that is missing or stale is made on the spot.

    Attributes:
        wording: of the LaMP task that `embedder` was trained on; None if it was trained on none.

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
        source: RecordEncoder | UserVectorFile,
        store: ProfileStore | None = None,
        *,
        query_free: bool = False,
    ) -> None:
        check_way(llm, SOFT_PROMPT, "a user embedder")
        self.embedder = embedder if isinstance(embedder, UserEmbedder) else load_user_embedder(embedder)
        self._reader = history_reader(self.embedder.config, source, store)
        self.embedder.check_fits(source.fingerprint, llm)
        self.store = store
        self.query_free = query_free
        self._kind = soft_prompt_kind(self.embedder) if query_free else ""
        self._steers = self.embedder.steers
        if self._steers:
            check_way(llm, STEERING, "a user embedder with tokens in bands of blocks")
        task = self.embedder.config.task
        self.reads_profile = self.embedder.config.mode != "vectors"
        self.wording = LampWording(lamp_task(task)) if task else None
        copying = self.embedder.copying if self.embedder.copies and LIFTS in llm.channels else None
        self._copying = None if copying is None else copying.of(llm)

    def encodings(self) -> set[Encoding]:
        """Those that the user embedder reads."""
        reader = self._reader
        if self.store is None or not isinstance(reader, HistoryReader):
            return set()
        return {(reader.encoder, view) for view in history_views(reader.config)}

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """A soft prompt for each of `asks`, and lifts; users without records get the neutral prompt."""
        prompts = self._stored(asks) if self.query_free else {}
        missing = [row for row in range(len(asks)) if row not in prompts]
        neutral: set[int] = set()
        steering: dict[int, dict[int, torch.Tensor]] = {}
        if self._steers:
            steering = dict(enumerate(_steering(self.embedder, self._reader.read([ask.profile for ask in asks]))))
        if missing:
            histories = self._reader.read([asks[row].profile for row in missing])
            neutral = {row for row, history in zip(missing, histories, strict=True) if not len(history)}
            queries = None if self.query_free else self._queries([asks[row] for row in missing])
            prompts.update(zip(missing, soft_prompts(self.embedder, histories, queries), strict=True))
        lifts: Sequence[Lifts | None] = [None] * len(asks)
        if self._copying is not None:
            lifts = self._copying.lifts([ask.profile for ask in asks], [ask.prompt for ask in asks])
        return [
            Contribution(
                soft_prompt=prompts[row], lifts=lifts[row], steering=steering.get(row), personal=row not in neutral
            )
            for row in range(len(asks))
        ]

    def _queries(self, asks: Sequence[Ask]) -> NDArray[np.float32]:
        """Vectors of the questions, of a task's prompts without their instruction.  # (asks, encoder_dim)"""
        wording = self.wording
        return self._reader.questions([ask.query if wording is None else wording.query(ask.prompt) for ask in asks])

    def _stored(self, asks: Sequence[Ask]) -> dict[int, torch.Tensor]:
        """The stored soft prompts of these very revisions, by the position of the ask."""
        prompts = {}
        for row, ask in enumerate(asks):
            stored = None if self.store is None else self.store.index(ask.profile.user_id, self._kind)
            if stored is not None and stored.revision == ask.profile.revision and len(ask.profile):
                prompts[row] = _read(self.embedder, stored.data)
        return prompts


def soft_prompts(
    embedder: UserEmbedder, histories: Sequence[History], queries: NDArray[np.float32] | None = None
) -> list[torch.Tensor]:
    """The soft prompt of each history, float32, on the CPU.  # per history: (n_tokens, llm_hidden)

    Histories of like length are computed together; where enough are of the very same length, only they are, so that
    there is no padding.

    Args:
        embedder: the user embedder.
        histories: of the users.
        queries: vectors of the questions; None for prompts that fit any.  # (histories, encoder_dim)
    """
    return _in_batches(embedder, histories, lambda batch: batch.soft_prompts(embedder).float().cpu(), queries)


def _steering(embedder: UserEmbedder, histories: Sequence[History]) -> list[dict[int, torch.Tensor]]:
    """What is added behind blocks for each history, float32, on the CPU."""

    def computed(batch: HistoryBatch) -> list[dict[int, torch.Tensor]]:
        vectors = batch.steering(embedder)
        return [{block: each[row].float().cpu() for block, each in vectors.items()} for row in range(len(batch.mask))]

    return _in_batches(embedder, histories, computed)


def _written(embedder: UserEmbedder, histories: Sequence[History]) -> list[bytes]:
    """What is stored of each history: the state in the bits of its part, or else the soft prompt in float16."""
    if not embedder.keeps_state:
        return [prompt.numpy().astype("<f2").tobytes() for prompt in soft_prompts(embedder, histories)]
    return _in_batches(embedder, histories, lambda of: embedder.written(of.keys, of.values, of.mask, of.days))


def _read(embedder: UserEmbedder, data: bytes) -> torch.Tensor:
    """The soft prompt from what `_written` gives, float32, on the CPU.  # (n_tokens, llm_hidden)"""
    if embedder.keeps_state:
        return embedder.read([data])[0].float().cpu()
    numbers = np.frombuffer(data, "<f2").reshape(-1, embedder.config.llm_hidden)
    prompt = torch.from_numpy(numbers.astype(np.float32))
    return TokenSet.of(prompt) if embedder.unordered else prompt


@torch.no_grad()
def _in_batches(
    embedder: UserEmbedder,
    histories: Sequence[History],
    compute: Callable[[HistoryBatch], Iterable[T]],
    queries: NDArray[np.float32] | None = None,
) -> list[T]:
    """What is computed of each history, in their order."""
    found: dict[int, T] = {}
    device = next(embedder.parameters()).device
    order = sorted(range(len(histories)), key=lambda row: len(histories[row]))
    while order:
        # The longest histories first; their length says how many fit.
        longest = len(histories[order[-1]])
        size = max(1, _RECORDS_AT_ONCE // max(1, longest))
        alike = sum(1 for row in order[-size:] if len(histories[row]) == longest)
        size = alike if alike * longest >= _RECORDS_ALIKE else size
        rows, order = order[-size:], order[:-size]
        asked = None if queries is None else queries[rows]
        batch = HistoryBatch.of([histories[row] for row in rows], embedder.config, asked, device)
        found.update(zip(rows, compute(batch), strict=True))
    return [found[row] for row in range(len(histories))]


def soft_prompt_kind(embedder: UserEmbedder) -> str:
    """The kind (`StoredIndex.kind`) that the soft prompts of `embedder` are stored as."""
    return f"soft-prompt:{embedder.fingerprint}"


def store_soft_prompts(
    store: ProfileStore,
    embedder: UserEmbedder,
    source: RecordEncoder | UserVectorFile,
    *,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Make the soft prompts, fit for any question, that are missing or stale, and store them.

    Of an embedder with a part `state` that all tokens are made from, the state is stored in their place, in its bits.

    It may be killed at any moment and run again: only the rest is made. A stored soft prompt goes when a record of its
    user is deleted, is stale when one is added, and is erased with the user.

    Args:
        store: holds records and, after `embed_users`, their vectors.
        embedder: the user embedder.
        source: as for `SoftPromptChannel`.
        progress: called after each chunk with the number of users gone through.

    Returns:
        How many were written. A user who is being changed at this moment is passed over.
    """
    kind, reader = soft_prompt_kind(embedder), history_reader(embedder.config, source, store)
    written = done = 0
    store.remove_expired()  # what is made before would be removed with it
    users = store.user_ids()
    while user_ids := list(islice(users, USERS_AT_ONCE)):
        profiles = []
        for profile in map(store.profile, user_ids):
            stored = store.index(profile.user_id, kind)
            if len(profile) and (stored is None or stored.revision != profile.revision):
                profiles.append(profile)
        histories = reader.read(profiles)
        written += store.put_indexes(
            StoredIndex(profile.user_id, kind, profile.revision, data)
            for profile, history, data in zip(profiles, histories, _written(embedder, histories), strict=True)
            if len(history)  # the neutral prompt is nobody's
        )
        done += len(user_ids)
        if progress is not None:
            progress(done)
    return written
