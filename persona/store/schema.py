"""The tables of a store, the same on SQLite and on PostgreSQL.

::

    persona_meta        key, value                        the schema version
    persona_parts       part, revision_floor, rewrites_due, deletions_due
    persona_encoders    encoder, fingerprint, dim         vectors name their encoder by this number
    persona_families    family, key, name, prior          adapters name their family by this number
    persona_keys        key_id, name, hash, scopes, created   API keys that speak for any user
    and 32 times, as _00 to _31, everything that belongs to a user:
    persona_users_00    uid, user_id, revision, erased, records, appended, expires
    persona_records_00  place, uid, record_id, hash, text, target, time, metadata, role, speaker, expires
    persona_vectors_00  uid, encoder, revision, record_ids, hashes, matrix
    persona_indexes_00  uid, kind, revision, data
    persona_adapters_00 uid, family, version, state, revision, sha256, created, metrics, payload
    persona_keys_00     uid, key_id, name, hash, scopes, created   API keys that speak for this user alone

**Parts.** No database really erases a deleted row. PostgreSQL keeps it in its page until the table is rewritten, and so
does SQLite, even with ``secure_delete``: when rows move between pages to balance the tree, copies remain in the unused
middle of a page (for about one user in eight, measured). To erase a user's bytes, the table that held
them has to be rewritten. Users are distributed over 32 parts by a hash of their id, and each part is a small store of
its own; to forget a user rewrites one part. In a store of 100,000 users with 20 records each (1 GB, SQLite) that takes
1.0 s; to rewrite the whole database takes 10 to 17 s.

**Place.** Records of a user lie side by side: `place` is ``uid * 2**32 + seq``, the key by which both databases find
them, and a profile is one range. (A table without rowid, keyed by user and record id, did the same in up to twice the
space and 20 % more time: SQLite keeps whole rows in the inner nodes of such trees, and moves what is longer than an
eighth of a page or so to pages of its own.)

**A new table for users' data** is made by `user_table`; then `forget` erases it with the others.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

SCHEMA_VERSION = 5
"""What this code writes and reads. A store that says a greater number is refused, one that says a smaller number is
migrated when it is opened (`persona.store.migrations`).

2: tables for adapters. 3: records may have a role, a speaker and an expiry. 4: users have that of their next record,
and parts count deletions. 5: tables for API keys.
"""

PARTS = 32
"""How many parts there are. It belongs to the schema: another number is another schema version."""

RECORDS_PER_USER = 2**32
"""Distance of two users' places: one user can have this many records in a lifetime."""

metadata = MetaData()

# SQLite compares text by its bytes already. On PostgreSQL "C" does, whatever language the database was made for: two
# ids that differ only by case, accents' normal form or trailing blanks are two ids, in the same order on both.
_Name = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite makes a column its rowid (and the table's order) only if the type is INTEGER to the letter.
_Key = BigInteger().with_variant(Integer, "sqlite")

meta = Table("persona_meta", metadata, Column("key", _Name, primary_key=True), Column("value", Text, nullable=False))

parts = Table(
    "persona_parts",
    metadata,
    Column("part", Integer, primary_key=True, autoincrement=False),
    # The highest revision that any forgotten user of this part had. New users start above it, so what was made from a
    # forgotten user's records can never pass for something of a new user by the same name.
    Column("revision_floor", BigInteger, nullable=False),
    # How many users were forgotten whose bytes may still be there: the next `forget` of any user overwrites them.
    Column("rewrites_due", Integer, nullable=False),
    # How often records were deleted or had expired whose bytes may still be there.
    Column("deletions_due", Integer, nullable=False, server_default="0"),
)

encoders = Table(
    "persona_encoders",
    metadata,
    Column("encoder", Integer, primary_key=True),
    Column("fingerprint", _Name, nullable=False, unique=True),
    Column("dim", Integer, nullable=False),
)

families = Table(
    "persona_families",
    metadata,
    Column("family", Integer, primary_key=True),
    # SHA-256 of the name, which may be longer than an index can hold.
    Column("key", _Name, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("prior", LargeBinary),
)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The tables of one part of the users."""

    number: int
    users: Table
    records: Table
    vectors: Table
    indexes: Table
    adapters: Table
    keys: Table

    def tables(self) -> list[Table]:
        """All tables with rows of this part's users, those that refer to others first: the order to delete in."""
        return [table for table in reversed(metadata.sorted_tables) if table.info.get("part") == self.number]


def part_of(user_id: str) -> Part:
    """The part that holds everything of this user."""
    return PART_TABLES[zlib.crc32(user_id.encode()) % PARTS]


def user_table(name: str, part: int, *items: SchemaItem) -> Table:
    """A table for data of the users of one part: `items` and a column `uid`, which says whose row it is.

    Make it for every part. `forget` erases the rows of all such tables.
    """
    owner = Column("uid", BigInteger, ForeignKey(f"persona_users_{part:02}.uid"), nullable=False)
    return Table(f"persona_{name}_{part:02}", metadata, owner, *items, info={"part": part})


def _key_columns() -> list[SchemaItem]:
    return [
        Column("key_id", _Name, primary_key=True),
        Column("name", Text, nullable=False),
        Column("hash", LargeBinary, nullable=False),  # SHA-256 of the secret
        Column("scopes", Text, nullable=False),  # joined by blanks
        Column("created", Text, nullable=False),
    ]


keys = Table("persona_keys", metadata, *_key_columns())


def _users(part: int) -> Table:
    return Table(
        f"persona_users_{part:02}",
        metadata,
        Column("uid", _Key, primary_key=True),
        Column("user_id", _Name, nullable=False, unique=True),
        # Grows by one whenever records of the user are added, changed or deleted.
        Column("revision", BigInteger, nullable=False),
        # The revision since which nothing of the user was erased: what was made before may hold what is erased.
        Column("erased", BigInteger, nullable=False),
        Column("records", BigInteger, nullable=False),
        # Records ever added, the deleted ones among them: the next one's seq.
        Column("appended", BigInteger, nullable=False),
        # When the next of the user's records expires, null for never. Last, where a migration puts it.
        expires := Column("expires", _Name),
        Index(
            f"persona_users_{part:02}_expires",
            expires,
            sqlite_where=expires.is_not(None),
            postgresql_where=expires.is_not(None),
        ),
        info={"part": part},
        # A uid is never given twice, so a page of `user_ids` that ends at one goes on behind it.
        sqlite_autoincrement=True,
    )


def _records(part: int) -> Table:
    return user_table(
        "records",
        part,
        Column("place", _Key, primary_key=True, autoincrement=False),
        Column("record_id", _Name, nullable=False),
        Column("hash", LargeBinary, nullable=False),  # 16 bytes
        Column("text", Text, nullable=False),
        Column("target", Text),
        Column("time", Text),
        Column("metadata", Text),  # JSON; null where there is none
        Column("role", Text),  # the last three were added by version 3, and a migration puts them here
        Column("speaker", Text),
        Column("expires", _Name),
        UniqueConstraint("uid", "record_id"),
    )


def _vectors(part: int) -> Table:
    return user_table(
        "vectors",
        part,
        Column("encoder", Integer, ForeignKey("persona_encoders.encoder"), nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("record_ids", LargeBinary, nullable=False),  # UTF-8, joined by NUL, which no id holds
        Column("hashes", LargeBinary, nullable=False),  # likewise
        Column("matrix", LargeBinary, nullable=False),  # float16, little-endian, row by row
        UniqueConstraint("uid", "encoder"),
        # Finds who is stale without reading the matrices, which make up most of the database.
        Index(f"persona_vectors_{part:02}_stale", "encoder", "uid", "revision"),
    )


def _indexes(part: int) -> Table:
    return user_table(
        "indexes",
        part,
        Column("kind", _Name, nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("data", LargeBinary, nullable=False),
        UniqueConstraint("uid", "kind"),
    )


def _adapters(part: int) -> Table:
    return user_table(
        "adapters",
        part,
        Column("family", Integer, ForeignKey("persona_families.family"), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("state", _Name, nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("sha256", _Name),
        Column("created", Text, nullable=False),
        Column("metrics", Text, nullable=False),  # JSON
        Column("payload", LargeBinary),  # last, so that the columns before it are read without it
        UniqueConstraint("uid", "family", "version"),
    )


PART_TABLES = tuple(
    Part(
        number,
        _users(number),
        _records(number),
        _vectors(number),
        _indexes(number),
        _adapters(number),
        user_table("keys", number, *_key_columns()),
    )
    for number in range(PARTS)
)
"""All parts, by number."""
