"""URLs, files and servers: what is opened, what is refused, and what is said then."""

from __future__ import annotations

import sqlite3
import sys
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.dialects import sqlite

from persona.errors import MissingDependencyError, StoreError
from persona.records import Record
from persona.store.database import Database
from persona.store.profile_store import IngestReport, ProfileStore
from persona.store.queries import queries
from persona.store.schema import PART_TABLES, part_of
from tests.store.profiles import texts


def test_stores_on_one_database_see_each_other(store_url: str) -> None:
    with ProfileStore(store_url) as one, ProfileStore(store_url) as two:
        one.upsert([("ana", Record("a"))])
        assert two.upsert([("ana", Record("a")), ("ana", Record("b"))]) == IngestReport(1, 1, 0, 1)
        assert len(one.profile("ana")) == 2
    with ProfileStore(store_url) as again:
        assert texts(again.profile("ana")) == ["a", "b"]


def test_a_closed_store_says_so(store_url: str) -> None:
    store = ProfileStore(store_url)
    store.close()
    store.close()
    for call in (lambda: store.profile("ana"), lambda: store.upsert([("ana", Record("a"))]), store.counts):
        with pytest.raises(StoreError, match="is closed: open it again"):
            call()


def test_the_password_is_in_no_message() -> None:
    for url in (
        "postgresql+psycopg://me:secret@127.0.0.1:1/x",
        "mysql://me:secret@host/x",
        "postgresql://me:secret@host:port/x",
    ):
        with pytest.raises(StoreError) as raised:
            ProfileStore(url)
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("persona.db", "must have the form sqlite:///file.db or postgresql"),
        ("", "must have the form"),
        ("mysql://host/x", "must have the form .* was: mysql"),
        ("postgresql+asyncpg://host/x", "must have the form .* was: postgresql"),
        ("sqlite://", "an SQLite store is a file"),
        ("sqlite:///:memory:", "an SQLite store is a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "an SQLite store is a file"),
        ("sqlite:////no/such/folder/persona.db", "its folder must exist and allow writing"),
        ("sqlite:////proc/persona.db", "its folder must exist and allow writing"),
        ("sqlite:////tmp", "its folder must exist and allow writing"),
        ("sqlite:persona.db", "must have the form"),
        ("sqlite://persona.db", "an SQLite store is a file"),
        ("sqlite:///persona.db?mode=ro", "an SQLite store is a file"),
        ("postgresql+psycopg://127.0.0.1:1/x", "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_opened(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        ProfileStore(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["a page", "photos"])
def test_another_programs_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "a page":
        path.write_text("<html>" + "no database " * 1000)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"no SQLite database|no store of persona"):
        ProfileStore(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "persona.db"
    with ProfileStore(f"sqlite:///{path}") as store:
        store.upsert((f"user {number}", Record(f"text {number}")) for number in range(300))
    data = bytearray(path.read_bytes())
    for place in range(8192 * 3, len(data) - 100, 97):
        data[place] ^= 0xFF
    path.write_bytes(data)

    def read_all() -> None:
        with ProfileStore(f"sqlite:///{path}") as store:
            for number in range(300):
                store.profile(f"user {number}")

    with pytest.raises(StoreError, match=r"damaged|no SQLite database"):
        read_all()


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ProfileStore("sqlite:///persona.db") as store:
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        store.upsert([("ana", Record("a"))])
    assert (tmp_path / "persona.db").stat().st_size
    assert list((tmp_path / "below").iterdir()) == []


@pytest.mark.parametrize("name", ["empty.db", "with blank.db", "Ü%41#.db", "a'b.db", "file:x.db"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "empty.db":
        path.touch()
    for added in (1, 0):
        with ProfileStore(f"sqlite:///{path}") as store:
            assert store.upsert([("ana", Record("a"))]).added == added
    assert path.stat().st_size
    assert all(other.name.startswith(name) for other in tmp_path.iterdir())


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'persona-llm\[postgres\]'"):
        ProfileStore("postgresql://host/x")


@pytest.mark.postgres
def test_a_server_that_was_restarted_goes_unnoticed(postgres_store_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_store_url, isolation_level="AUTOCOMMIT")

    def cut() -> None:
        with engine.connect() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"{others} AND application_name = 'cut'").all()

    with ProfileStore(f"{postgres_store_url}&application_name=cut") as store:
        store.upsert([("restart", Record("a", id="1"))])
        cut()
        assert texts(store.profile("restart")) == ["a"]
        cut()
        assert store.upsert([("restart", Record("b", id="1"))]).changed == 1
        cut()
        assert store.forget("restart").records == 1
    engine.dispose()


def test_sqlite_is_set_up_as_promised(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'persona.db'}")
    wanted = {
        "journal_mode": "wal",
        "secure_delete": 1,
        "foreign_keys": 1,
        "synchronous": 1,
        "busy_timeout": 30_000,
        "page_size": 8192,
        "temp_store": 2,
    }
    with database.connected() as connection:
        assert {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted} == wanted
    database.close()


def test_reading_one_user_scans_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'persona.db'}")
    asked = queries(PART_TABLES[0])
    with database.connected() as connection:
        for statement in (asked.known, asked.profile, asked.vectors, asked.index):
            compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
            names = dict.fromkeys(compiled.params, "x")
            steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", names)]
            assert steps
            assert all(step.startswith("SEARCH") for step in steps), steps
    database.close()


def test_a_read_costs_little_more_than_the_database_itself(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("a"))])
        question, user = queries(part_of("ana")).profile, {"user_id": "ana"}
        sql = str(question.compile(dialect=sqlite.dialect(paramstyle="named")))
        with closing(sqlite3.connect(tmp_path / "persona.db")) as bare:
            bare_time = min(timeit.repeat(lambda: bare.execute(sql, user).fetchall(), number=500, repeat=5))
        time = min(timeit.repeat(lambda: store.database.rows(question, user), number=500, repeat=5))
    assert time < 3 * bare_time  # SQLAlchemy's own way takes eight times as long


def test_a_read_that_fails_does_not_answer_the_next_one(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        store.upsert([("ana", Record("a")), ("ben", Record("b"))])
        assert texts(store.profile("ana")) == ["a"]
        with pytest.raises(StoreError):
            store.database.rows(sqlalchemy.select(sqlalchemy.literal_column("no_such_column")))
        assert texts(store.profile("ben")) == ["b"]


def test_threads_read_at_the_same_time(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        store.upsert((f"user {number}", Record(f"text {number}")) for number in range(40))
        with ThreadPoolExecutor(8) as threads:
            read = list(threads.map(lambda n: texts(store.profile(f"user {n % 40}")), range(800)))
        assert read == [[f"text {n % 40}"] for n in range(800)]


def test_a_full_disk_is_called_full(small_disk: Callable[[int], Path]) -> None:
    for kilobytes in (32, 256, 2000):  # no room for the shared memory beside the file, for the tables, for the records
        folder = small_disk(kilobytes)
        with (
            pytest.raises(StoreError, match=r"the disk is full: make room and run this again"),
            ProfileStore(f"sqlite:///{folder / 'persona.db'}") as store,
        ):
            store.upsert((f"user {number}", Record("a text " * 100)) for number in range(5000))
