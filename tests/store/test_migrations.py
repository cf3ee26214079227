"""A store of an older version is migrated in one piece, with everything that it holds."""

from __future__ import annotations

import gzip
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
import torch

from persona.adapters.bank import AdapterBank
from persona.errors import SchemaVersionError, StoreError
from persona.records import Record
from persona.store.holdings import holdings
from persona.store.profile_store import ForgetReport, ProfileStore
from persona.store.schema import PART_TABLES, SCHEMA_VERSION, families, keys, metadata, part_of

OLD_STORE = Path(__file__).parent / "data" / "store_0_1.sqlite3.gz"
"""Made by persona 0.1 (schema version 2): `persona ingest examples/histories.jsonl`, then "ana" with everything that a
user can have, and "gone", whose rows are deleted and whose bytes are still to be overwritten."""


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    path = tmp_path / "persona.db"
    path.write_bytes(gzip.decompress(OLD_STORE.read_bytes()))
    return path


def tables(path: Path) -> dict[str, tuple[str, ...]]:
    """The columns of every table."""
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: tuple(row[1] for row in connection.execute(f"PRAGMA table_info({name})")) for name in names}


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        (value,) = connection.execute("SELECT value FROM persona_meta WHERE key = 'schema_version'").fetchone()
        return str(value)


def test_nothing_of_an_old_store_is_lost(old_store: Path, tmp_path: Path) -> None:
    assert version(old_store) == "2"
    with ProfileStore(f"sqlite:///{old_store}") as store:
        assert sorted(store.user_ids()) == ["ana", "mara", "ops-team", "tomás", "yuki-雪"]
        assert {user_id: len(store.profile(user_id)) for user_id in ("mara", "ops-team", "tomás", "yuki-雪")} == {
            "mara": 8,
            "ops-team": 8,
            "tomás": 7,
            "yuki-雪": 6,
        }
        held = holdings(store, "ana")
        assert held.profile.records == (
            Record("Named by its content."),
            Record("Moody and stylish.", target="5", time="2004-10-14", id="r1", metadata={"film": "Bullitt"}),
        )
        # Ids and hashes as they were then: no record is renamed, no vector becomes stale.
        assert [record.id for record in held.profile] == ["22ca0feb08eec7f50f45c818e42d2dc4", "r1"]
        vectors = store.vectors("ana", "toy|view=text")
        assert vectors is not None
        assert vectors.hashes == ("22ca0feb08eec7f50f45c818e42d2dc4", "0db4304a3c3429f47546436e7271693b")
        assert vectors.hashes == tuple(record.content_hash for record in held.profile)
        assert vectors.matrix.tolist() == [[1, 0, 0, 0], [0, 0.5, 0, 0]]
        assert "ana" not in store.stale_users("toy|view=text")
        assert [(index.kind, index.fresh, index.content) for index in held.indexes] == [
            ("summary:free", True, {"text": "likes style"})
        ]
        bank = AdapterBank(store)
        (family,) = bank.families()
        adapter = bank.current("ana", family)
        assert adapter is not None
        assert torch.equal(bank.row(adapter), torch.arange(family.size, dtype=torch.float32))

        assert store.finish_forgetting() == 1  # what was still to be overwritten is known to be
        store.upsert([("gone", Record("a new user of that id"))])
        assert store.profile("gone").revision == 2  # above what was forgotten
        spoken = Record("new", role="user", speaker="Ana", expires="2030", id="r1")
        assert store.upsert([("ana", spoken)]).changed == 1
        assert spoken in store.profile("ana").records
        assert store.forget("ana") == ForgetReport(records=2, vectors=1, indexes=1, adapters=1)
    ProfileStore(f"sqlite:///{tmp_path / 'new.db'}").close()
    assert tables(old_store) == tables(tmp_path / "new.db")
    assert version(old_store) == str(SCHEMA_VERSION)


KILLED = """
import os, signal, sys, sqlalchemy
from persona.store.profile_store import ProfileStore
count = 0
def killed_at(connection, cursor, statement, parameters, context, executemany):
    global count
    count += statement.startswith(("ALTER", "UPDATE"))
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", killed_at)
ProfileStore(sys.argv[1])
"""


@pytest.mark.parametrize("step", [1, 97])
def test_a_migration_that_is_killed_leaves_the_old_store(old_store: Path, step: int) -> None:
    before = tables(old_store)
    killed = subprocess.run([sys.executable, "-c", KILLED, f"sqlite:///{old_store}", str(step)], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    assert (tables(old_store), version(old_store)) == (before, "2")
    with ProfileStore(f"sqlite:///{old_store}") as store:
        assert len(store.profile("ana")) == 2
    assert version(old_store) == str(SCHEMA_VERSION)


@pytest.mark.parametrize("old", [1, 3, 4])
def test_an_older_version_on_either_database(store_url: str, old: int) -> None:
    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("a")), *([("eve", Record("brief", expires="2999"))] if old >= 3 else [])])
    engine = sqlalchemy.create_engine(store_url)
    with engine.begin() as connection:
        metadata.drop_all(connection, tables=[*(part.keys for part in PART_TABLES), keys])
        if old < 4:
            connection.exec_driver_sql("ALTER TABLE persona_parts DROP COLUMN deletions_due")
        for part in PART_TABLES if old < 4 else ():
            connection.exec_driver_sql(f"DROP INDEX {part.users.name}_expires")
            connection.exec_driver_sql(f"ALTER TABLE {part.users.name} DROP COLUMN expires")
            for column in ("role", "speaker", "expires") if old < 3 else ():
                connection.exec_driver_sql(f"ALTER TABLE {part.records.name} DROP COLUMN {column}")
        if old == 1:
            metadata.drop_all(connection, tables=[*(part.adapters for part in PART_TABLES), families])
        connection.exec_driver_sql(f"UPDATE persona_meta SET value = '{old}' WHERE key = 'schema_version'")
    for _ in range(2):
        with ProfileStore(store_url) as store:
            assert store.profile("ana").records == (Record("a"),)
    with ProfileStore(store_url) as store:
        users = part_of("eve").users.c
        assert store.database.rows(sqlalchemy.select(users.user_id, users.expires).where(users.expires > "2")) == (
            [("eve", "2999")] if old >= 3 else []
        )
        store.upsert([("ana", Record("b", role="assistant", speaker="Bo", expires="2030-01"))])
        assert store.profile("ana")[1] == Record("b", role="assistant", speaker="Bo", expires="2030-01")
        if not store.database.is_sqlite:
            with engine.begin() as connection:  # what users wrote stays out of the statistics
                sampled = connection.exec_driver_sql(
                    "SELECT attname FROM pg_attribute WHERE attrelid = 'persona_records_02'::regclass"
                    " AND attnum > 0 AND NOT attisdropped AND attstattarget <> 0"
                ).scalars()
                assert sorted(sampled) == ["place", "uid"]
        assert store.forget("ana") == ForgetReport(records=2)
    engine.dispose()


@pytest.mark.parametrize(
    ("value", "error"),
    [(str(SCHEMA_VERSION + 1), SchemaVersionError), ("17", SchemaVersionError), ("one", StoreError), ("0", StoreError)],
)
def test_another_version_is_refused(store_url: str, value: str, error: type[StoreError]) -> None:
    ProfileStore(store_url).close()
    engine = sqlalchemy.create_engine(store_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE persona_meta SET value = '{value}' WHERE key = 'schema_version'")
    engine.dispose()
    with pytest.raises(error, match=value) as raised:
        ProfileStore(store_url)
    if error is SchemaVersionError:
        assert "has schema version" in str(raised.value)
        assert f"up to {SCHEMA_VERSION}: pip install --upgrade persona-llm" in str(raised.value)
    else:
        assert "is damaged: its schema version must be a number" in str(raised.value)
    assert "\n" not in str(raised.value)
