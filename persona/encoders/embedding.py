"""Embeds the records of all users whose vectors are missing or stale: `persona embed-users`.

>>> from persona import ProfileStore, Record, load_encoder
>>> store = ProfileStore("sqlite:///persona.db")
>>> report = store.upsert([("ana", Record("Moody and stylish.")), ("ben", Record("Loud."))])
>>> embed_users(store, load_encoder("hashing")).embedded
2
>>> embed_users(store, load_encoder("hashing")).embedded
0

Users are processed in the order of the store, in chunks of about a thousand new records. The texts of a chunk are
encoded together, equal ones once, and all its users are written in one transaction.

**Killed at any moment, it resumes to the same store.** A chunk is the next users until there are enough new records, so
it depends on nothing but its own users. However often the chunks before it were interrupted, it holds the same texts as
in an undisturbed run: the encoder gets the same list and gives the same numbers, to the last bit. A cluster does the
same with the chunks in any order (`persona.encoders.on_ray`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError, check_least, check_one_of
from persona.protocols import RecordEncoder
from persona.records import VIEWS, Profile
from persona.store.vectors import UserVectors, vector_fingerprint

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

CHUNK_RECORDS = 1024
"""Default number of new records in a chunk: the work that a kill can cost, some seconds to half a minute on a CPU. More
hardly helps: they are enough for batches of texts of similar length."""

_MOST_ROWS = 2**16
"""Most vectors in a chunk, new and old, its last user not counted: for users with one new record among many."""


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What one run did.

    Attributes:
        users: users whose vectors were written.
        records: records of the processed users: `embedded` + `duplicates` + `reused`.
        embedded: texts that were encoded.
        duplicates: new or changed records whose text another one in the same chunk has.
        reused: records whose vectors were up to date.
        passed_over: users who were forgotten or changed while they were being embedded. The next run embeds those who
            are still there.
        seconds: duration.
        fingerprint: the key that the vectors are stored under (`vector_fingerprint`).
    """

    users: int
    records: int
    embedded: int
    duplicates: int
    reused: int
    passed_over: int
    seconds: float
    fingerprint: str


def embed_users(
    store: ProfileStore,
    encoder: RecordEncoder,
    *,
    view: str = "text",
    user_ids: Iterable[str] | None = None,
    chunk_records: int = CHUNK_RECORDS,
    progress: Callable[[int, int, int], object] | None = None,
) -> EmbedReport:
    """Give every user of `store` a vector for each record.

    Only users with new, changed or deleted records are processed, and only new and changed records are encoded. May be
    interrupted at any moment, and run beside other writers: a user who is forgotten meanwhile stays forgotten.

    Args:
        store: holds the records, and the vectors are written to it.
        encoder: its options set the size and number of batches.
        view: what of a record is encoded (`Record.view`).
        user_ids: these users alone; None for all.
        chunk_records: new records in a chunk, at least 1; the last user of a chunk may bring more.
        progress: called after each chunk with the users done, the users in total, and the records done.

    Raises:
        InvalidOptionError: if `view` or `chunk_records` is out of range.
    """
    check_embedding(encoder, view, chunk_records)
    fingerprint = vector_fingerprint(encoder, view)
    listed = None if user_ids is None else list(user_ids)
    users = store.stale_users(fingerprint) if listed is None else listed
    done = (embedded_chunk(store, encoder, view, chunk) for chunk in chunks(store, fingerprint, users, chunk_records))
    return embed_report(store, fingerprint, done, progress, total=None if listed is None else len(listed))


def check_embedding(encoder: RecordEncoder, view: str, chunk_records: int) -> None:
    """Refuse what cannot be embedded with; errors as in `embed_users`."""
    check_one_of(VIEWS, view=view)
    if not hasattr(encoder, "fingerprint"):
        raise InvalidOptionError(f"an encoder must be made with `persona.load_encoder`, was: {encoder!r:.80}")
    check_least(1, chunk_records=chunk_records)


@dataclass(frozen=True, slots=True)
class EmbeddedChunk:
    """What was done of one chunk: users in it and users written, their records, texts encoded, new records."""

    users: int
    written: int
    records: int
    embedded: int
    new: int


def embedded_chunk(store: ProfileStore, encoder: RecordEncoder, view: str, user_ids: Iterable[str]) -> EmbeddedChunk:
    """Embed the users of a chunk and write their vectors, in one transaction."""
    fingerprint = vector_fingerprint(encoder, view)
    works = [work for user_id in user_ids if (work := _UserWork.of(store, user_id, fingerprint)) is not None]
    texts = dict.fromkeys(text for work in works for text in work.new_texts(view))
    rows = {text: row for row, text in enumerate(texts)}
    # An empty list would load the model.
    encoded = encoder.encode(list(texts)).astype(np.float16) if texts else None  # (texts, dim)
    written = store.put_vectors(work.finish(fingerprint, view, rows, encoded) for work in works)
    records, new = sum(len(work.profile) for work in works), sum(work.n_new for work in works)
    return EmbeddedChunk(len(works), written, records, len(texts), new)


def embed_report(
    store: ProfileStore,
    fingerprint: str,
    done: Iterable[EmbeddedChunk],
    progress: Callable[[int, int, int], object] | None,
    total: int | None = None,
) -> EmbedReport:
    """The report of a run whose chunks come from `done`, with `progress` after each; expired records go first.

    Args:
        total: how many users there are; None counts the stale ones.
    """
    start = time.perf_counter()
    store.remove_expired()
    total = sum(1 for _ in store.stale_users(fingerprint)) if total is None else total
    users = written = records = embedded = new = 0
    for chunk in done:
        users, written, records = users + chunk.users, written + chunk.written, records + chunk.records
        embedded, new = embedded + chunk.embedded, new + chunk.new
        if progress is not None:
            progress(users, max(users, total), records)
    return EmbedReport(
        users=written,
        records=records,
        embedded=embedded,
        duplicates=new - embedded,
        reused=records - new,
        passed_over=users - written,
        seconds=time.perf_counter() - start,
        fingerprint=fingerprint,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _UserWork:
    """The work for one user.

    Attributes:
        profile: the records as they are now.
        hashes: their content hashes.
        before: the stored vectors, if any.
        rows_before: for each record its row in `before`, -1 if it has to be encoded.  # (records,)
    """

    profile: Profile
    hashes: tuple[str, ...]
    before: UserVectors | None
    rows_before: NDArray[np.intp]

    @classmethod
    def of(cls, store: ProfileStore, user_id: str, fingerprint: str) -> _UserWork | None:
        """None for a user without records, who may have been forgotten since the stale users were read."""
        profile, before = store.profile(user_id), store.vectors(user_id, fingerprint)
        if not len(profile):
            return None
        names = zip(before.record_ids, before.hashes, strict=True) if before is not None else ()
        rows = {name: row for row, name in enumerate(names)}
        hashes = tuple(record.content_hash for record in profile)
        rows_before = [rows.get((record.id, content), -1) for record, content in zip(profile, hashes, strict=True)]
        return cls(profile, hashes, before, np.array(rows_before, np.intp))

    @property
    def n_new(self) -> int:
        """How many records have to be encoded."""
        return int(np.count_nonzero(self.rows_before < 0))

    def new_texts(self, view: str) -> list[str]:
        return [self.profile[row].view(view) for row in np.flatnonzero(self.rows_before < 0).tolist()]

    def finish(
        self, fingerprint: str, view: str, rows: Mapping[str, int], encoded: NDArray[np.float16] | None
    ) -> UserVectors:
        """The user's vectors; new ones are the rows of `encoded` that `rows` gives for their texts."""
        new = self.rows_before < 0
        old = self.before.matrix if self.before is not None else None
        sources = [vectors for vectors in (encoded, old) if vectors is not None]
        matrix = np.empty((len(new), sources[0].shape[1]), np.float16)  # (records, dim)
        if encoded is not None:
            matrix[new] = encoded[np.array([rows[text] for text in self.new_texts(view)], np.intp)]
        if old is not None:
            matrix[~new] = old[self.rows_before[~new]]
        return UserVectors(
            self.profile.user_id,
            fingerprint,
            tuple(record.id for record in self.profile),
            self.hashes,
            matrix,
            self.profile.revision,
        )


def chunks(
    store: ProfileStore, fingerprint: str, user_ids: Iterable[str], size: int = CHUNK_RECORDS
) -> Iterator[list[str]]:
    """The users whose vectors are written in one transaction together.

    Where a chunk ends depends on its own users only.

    Args:
        store: where they are.
        fingerprint: that of their vectors.
        user_ids: in an order that stays (`ProfileStore.stale_users`).
        size: new records in a chunk; its last user may bring more.
    """
    chunk: list[str] = []
    new = records = 0
    for user_id in user_ids:
        if (work := _UserWork.of(store, user_id, fingerprint)) is not None:
            chunk.append(user_id)
            new, records = new + work.n_new, records + len(work.profile)
        if new >= size or records >= _MOST_ROWS:
            yield chunk
            chunk, new, records = [], 0, 0
    if chunk:
        yield chunk
