"""The store of users' histories: a `ProfileStore` in an SQLite file or on a PostgreSQL server.

>>> store = ProfileStore("sqlite:///persona.db")
>>> store.upsert([("ana", Record("Moody and stylish.", target="5", time="2004-10-14"))])
IngestReport(users=1, added=1, changed=0, unchanged=0, expired=0, merges=())
>>> store.profile("ana")[0].target
'5'
>>> store.forget("ana")
ForgetReport(records=1, vectors=0, indexes=0, others=0, adapters=0)

Beside the records the store keeps what is made from them: vectors, one matrix for each encoder, and search indexes.
Each has the revision of the profile that it was made from: a reader sees whether it is stale.

**What forget promises.** When `ProfileStore.forget` returns,

- on SQLite neither the database file nor its ``-wal``, ``-shm`` or ``-journal`` holds anything of the user's id,
  records, vectors or indexes: their pages were zeroed and the log emptied.
- on PostgreSQL no table, index, TOAST table or statistic does: the tables were rewritten, the old files dropped. What
  the server wrote to its log (``pg_wal``) before stays in there until the segment is recycled and written over, and
  in archives and standbys for as long as they are kept: only the server's administrator can limit that.

Neither reaches backups, copies, file-system snapshots or the blocks that a disk has let go of; nor files that were
written from the store or beside it: exported vectors and adapters (`persona forget --exports` takes those), and the
folders of evaluations and trainings, which hold the histories they were given. To forget a user takes as long as
rewriting a thirty-second of the database (`persona.store.schema` says why); meanwhile this part of the users can be
read on SQLite, and has to wait on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from persona.caches import drop
from persona.errors import InvalidOptionError, UnknownRecordError, UnknownUserError
from persona.formats.times import moment_of
from persona.records import Profile, Record, check_user_id
from persona.store.database import Database
from persona.store.derived import StoredIndex as StoredIndex
from persona.store.derived import vectors_of_row, write_indexes, write_vectors
from persona.store.erasure import ForgetReport as ForgetReport
from persona.store.erasure import delete_user, overwrite_deleted
from persona.store.queries import PAGE, counts, encoders_in_use, queries
from persona.store.record_rows import CONTENT, record_of
from persona.store.schema import PART_TABLES, part_of
from persona.store.upkeep.duplicates import Similarity
from persona.store.upkeep.editing import delete_records, edit_record, locked_user
from persona.store.upkeep.expiry import due_parts, has_expired, now, remove_expired
from persona.store.upkeep.listing import StoredUser as StoredUser
from persona.store.upkeep.listing import users_in_order
from persona.store.upkeep.near_ids import near_ids
from persona.store.upsert import IngestReport as IngestReport
from persona.store.upsert import Upsert, chunks
from persona.store.vectors import UserVectors

_COUNTS, _DUE = counts(), due_parts()


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """How much a store holds.

    Attributes:
        users: all users of the store, those without records too.
        records: records of all users that have not expired.
        vectors: matrices, one for each user and encoder.
        indexes: search indexes.
    """

    users: int
    records: int
    vectors: int
    indexes: int


@dataclass(frozen=True, slots=True)
class StoredEncoder:
    """An encoder that the store has vectors from.

    Attributes:
        fingerprint: its name.
        dim: length of its vectors.
        users: how many users have vectors from it, up to date or not.
    """

    fingerprint: str
    dim: int
    users: int


class ProfileStore:
    """The histories of all users, and what is made from them.

    Safe to use from threads and, after a fork, in the child. Several processes may use one store at a time: readers
    never wait for an ingest or an embedding; on SQLite one process writes at a time, and others wait up to 30 seconds
    for their turn.

    Args:
        url: ``sqlite:///persona.db`` (a path relative to the working folder), ``sqlite:////var/lib/persona.db`` (an
            absolute one) or ``postgresql+psycopg://user@host/database``. The tables are made where there are none.
        create: make an SQLite file that does not exist. Off, a mistyped path is an error and not an empty store.

    Raises:
        StoreError: if the database cannot be opened, or is another program's.
        SchemaVersionError: if it was written by a newer persona.
        MissingDependencyError: if the PostgreSQL driver is not installed.

    Attributes:
        database: the database, for modules with tables of their own.

    Every method raises `StoreError` if the database fails, and `InvalidUserIdError` for an id that no store may hold.
    """

    def __init__(self, url: str = "sqlite:///persona.db", *, create: bool = True) -> None:
        self.database = Database(url, create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database.name!r})"

    def __contains__(self, user_id: str) -> bool:
        """Whether the store knows the user."""
        part = part_of(check_user_id(user_id))
        return bool(self.database.rows(queries(part).known, {"user_id": user_id}))

    def check_known(self, user_id: str) -> None:
        """Refuse a user whom the store does not know.

        Raises:
            UnknownUserError: if it does not; it names the ids that are nearest.
        """
        if user_id not in self:
            near = " or ".join(map(repr, near_ids(user_id, self.user_ids())))
            hint = f"did you mean {near}? `persona show` lists all" if near else "`persona ingest` puts histories in"
            raise UnknownUserError(f"the store holds nothing on {user_id!r}; {hint}")

    def close(self) -> None:
        """Close the database. The store cannot be used any more."""
        self.database.close()

    def upsert(
        self,
        items: Iterable[tuple[str, Record]],
        *,
        expires_after: timedelta | None = None,
        similarity: Similarity | None = None,
    ) -> IngestReport:
        """Put records in: new ones are added, those with a known id and other content replaced, the rest left alone.

        The input is streamed, some thousand records at a time, in one transaction: if anything is raised, by the input
        or by the database, the store is as it was. A user's revision grows only if a record of theirs is new or
        changed. What has expired, of any user, is removed.

        Args:
            items: pairs of a user id and a record, in any order; fastest with each user's records together.
            expires_after: when records without `Record.expires` expire, from now on; None for never. A record that is
                in the store with an expiry keeps it as long as nothing else of it changes.
            similarity: merge near duplicates, e.g. `persona.store.upkeep.duplicates.TokenOverlap`: of two records of a
                user that say almost the same the newer one is kept, and `IngestReport.merges` lists it.
        """
        pieces = chunks(items)
        # The first chunk is read before the lock is taken: input that is broken from the start blocks no other writer.
        chunk = next(pieces, None)
        if chunk is None:
            return IngestReport()
        with self.database.writing() as connection:
            upsert = Upsert(connection, expires_after=expires_after, similarity=similarity)
            while chunk is not None:
                upsert.add(chunk)
                chunk = next(pieces, None)
            return upsert.finish()

    def profile(self, user_id: str, *, as_of: str | datetime | None = None) -> Profile:
        """The user's records, oldest first: the undated, then by time; equal ones in the order they were added.

        Records that have expired are left out. An unknown user has an empty profile.

        Args:
            as_of: leave out what is dated later (`Profile.as_of`, which is faster for many times of one user).

        Raises:
            DataFormatError: if `as_of` is no time.
        """
        if as_of is not None:
            return self.profile(user_id).as_of(moment_of(as_of))
        part = part_of(check_user_id(user_id))
        rows = self.database.rows(queries(part).profile, {"user_id": user_id})
        if not rows:
            return Profile(user_id)
        revision, next_expiry, *_ = rows[0]
        if has_expired(next_expiry, at := now()):
            rows = [row for row in rows if not has_expired(row[-1], at)]
        # A user without records has one row, of nothing but the revision and the expiry.
        records = [record_of(row[2], row[3:]) for row in rows if row[2] is not None]
        return replace(Profile.from_records(user_id, records), revision=revision)

    def user_ids(self) -> Iterator[str]:
        """All users, streamed, in an order that stays; one who is added meanwhile may or may not be among them."""
        for part in PART_TABLES:
            yield from (user_id for _, user_id in self.database.pages(queries(part).users))

    def users(self, after: str = "", *, page: int = PAGE) -> Iterator[StoredUser]:
        """The users whose ids come after `after`, in the order of their ids (by code points), streamed.

        Args:
            after: an id, known or not.
            page: of how many to begin with; what a caller needs who takes a few only.
        """
        return users_in_order(self.database, after, page)

    def counts(self) -> StoreCounts:
        """How much the store holds."""
        return StoreCounts(*map(int, self.database.rows(_COUNTS, {"at": now()})[0]))

    def delete_records(self, user_id: str, record_ids: Iterable[str]) -> int:
        """Delete some of a user's records; unknown ids are skipped.

        Their vectors go with them, and the user's indexes and adapters as a whole; whatever else was made from the
        profile is stale by its revision. Their bytes are overwritten by ``finish_forgetting(records=True)``, or
        when a user of the same part is forgotten.

        Returns:
            How many records were deleted.

        Raises:
            InvalidOptionError: if `record_ids` is a single string, whose letters would be taken for ids.
        """
        part = part_of(check_user_id(user_id))
        if isinstance(record_ids, str):
            raise InvalidOptionError(f"`record_ids` must be several, as in [{record_ids!r:.80}]")
        with self.database.writing() as connection:
            user = locked_user(connection, part, user_id)
            return 0 if user is None else delete_records(connection, part, user, list(dict.fromkeys(record_ids)))

    def edit_record(self, user_id: str, record_id: str, **changes: Any) -> Record:
        """Change fields of one record, which keeps its id and its place.

        What was made from the old content goes with it, as in `delete_records`. (An `upsert` of other content leaves
        that there, as stale.)

        Args:
            user_id: whose.
            record_id: which.
            changes: fields of `Record`, all but the id, with their new values.

        Returns:
            The record as it is now.

        Raises:
            UnknownUserError: if the store does not know the user.
            UnknownRecordError: if the user has no such record.
            DataFormatError: if a value is not one that the field may have.
            InvalidOptionError: if a record has no such field, or the id is to be changed.
        """
        wrong = [name for name in changes if name not in CONTENT]
        if wrong:
            raise InvalidOptionError(f"of a record {', '.join(CONTENT)} can be changed, was: {', '.join(wrong)}")
        part = part_of(check_user_id(user_id))
        with self.database.writing() as connection:
            user = locked_user(connection, part, user_id)
            # Read while the user is locked, by this transaction, so that no change is lost between.
            rows = [] if user is None else connection.execute(queries(part).profile, {"user_id": user_id}).all()
            old = next((record_of(row[2], row[3:]) for row in rows if row[2] == record_id), None)
            if old is not None and not has_expired(old.expires, now()):
                new = replace(old, **changes)
                if new != old:
                    edit_record(connection, part, user, new)
                return new
        self.check_known(user_id)
        raise UnknownRecordError(f"{user_id!r} has no record {record_id!r:.80}: `persona records USER` lists them")

    def remove_expired(self) -> int:
        """Remove the records of all users that have expired, and what was made from them, as `delete_records` does.

        Nothing reads them anyway, and every `upsert` does this too. ``finish_forgetting(records=True)`` overwrites the
        bytes.

        Returns:
            How many records were removed.
        """
        if not self.database.rows(_DUE, {"at": now()}):
            return 0
        with self.database.writing() as connection:
            return remove_expired(connection, now())

    def forget(self, user_id: str) -> ForgetReport:
        """Erase everything of a user, the bytes too; the module says what exactly that promises on each database.

        What this process keeps in memory of the user goes with it (`persona.caches`).

        The report on an unknown user is all zeros. What an earlier call could not finish is finished.

        Raises:
            StoreError: if another session blocks it. If it says that the bytes could not be overwritten, the rows are
                deleted already, and the next call overwrites them.
        """
        part = part_of(check_user_id(user_id))
        with self.database.writing() as connection:
            report = delete_user(connection, part, user_id)
        # Not before: a request that is answered meanwhile could read the rows once more.
        dropped = drop(user_id)
        overwrite_deleted(self.database)
        return replace(report, dropped=dropped)

    def finish_forgetting(self, *, records: bool = False) -> int:
        """Overwrite what an earlier `forget` deleted and could not overwrite, because it was stopped or blocked.

        Args:
            records: also the bytes of records that were deleted or had expired.

        Returns:
            How many of the 32 parts were rewritten.

        Raises:
            StoreError: if another session still blocks it.
        """
        return overwrite_deleted(self.database, records=records)

    def vectors(self, user_id: str, fingerprint: str) -> UserVectors | None:
        """The user's vectors from that encoder, or None. If their revision is not the profile's, they are stale."""
        part = part_of(check_user_id(user_id))
        rows = self.database.rows(queries(part).vectors, {"user_id": user_id, "fingerprint": fingerprint})
        if not rows:
            return None
        vectors = vectors_of_row(user_id, fingerprint, rows[0])
        if has_expired(rows[0][0], now()):
            return vectors.only({record.id for record in self.profile(user_id)})
        return vectors

    def put_vectors(self, batch: Iterable[UserVectors]) -> int:
        """Store vectors, in one transaction, in place of earlier ones from the same encoder.

        Some are skipped: vectors of users who were forgotten meanwhile (also if there is a new user by that id), those
        made before records were deleted, those of a user who is being changed right now, and those older than the ones
        in the store. `stale_users` finds these users.

        Returns:
            How many were written.

        Raises:
            FingerprintMismatchError: if vectors of one encoder have two lengths.
        """
        vectors = list(batch)
        if not vectors:
            return 0
        with self.database.writing() as connection:
            return write_vectors(connection, vectors)

    def stale_users(self, fingerprint: str, part: int | None = None) -> Iterator[str]:
        """The users with records whose vectors from that encoder are missing or stale, streamed, part by part.

        Vectors may be put in while this runs.

        Args:
            fingerprint: of the encoder.
            part: one of the parts of the store, from 0 to `persona.store.schema.PARTS`; None for all.
        """
        for tables in PART_TABLES if part is None else (PART_TABLES[part],):
            pages = self.database.pages(queries(tables).stale, {"fingerprint": fingerprint})
            yield from (user_id for _, user_id in pages)

    def fingerprints(self) -> tuple[StoredEncoder, ...]:
        """The encoders that there are vectors from."""
        return tuple(
            StoredEncoder(fingerprint, dim, int(users))
            for fingerprint, dim, users in self.database.rows(encoders_in_use())
        )

    def index(self, user_id: str, kind: str) -> StoredIndex | None:
        """The user's index of that kind, or None. If its revision is not the profile's, it is stale.

        There is none as long as the user has records that have expired and were not removed (`remove_expired`).
        """
        part = part_of(check_user_id(user_id))
        rows = self.database.rows(queries(part).index, {"user_id": user_id, "kind": kind})
        if not rows or has_expired(rows[0][0], now()):
            return None
        return StoredIndex(user_id, kind, *rows[0][1:])

    def put_indexes(self, batch: Iterable[StoredIndex]) -> int:
        """Store indexes, in one transaction, in place of earlier ones of the same kind, as `put_vectors` does.

        Returns:
            How many were written.
        """
        indexes = list(batch)
        if not indexes:
            return 0
        with self.database.writing() as connection:
            return write_indexes(connection, indexes)
