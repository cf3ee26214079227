"""A store that cannot be written is read, and says so where it is to be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy

from persona.errors import StoreError
from persona.records import Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore, StoreCounts
from tests.store.profiles import same, texts, vectors_of

NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user to whom permissions apply; root's files are then those of another user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can read; pytest's they cannot."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        try:
            yield Path(name)
        finally:
            Path(name).chmod(0o755)


def filled(url: str) -> None:
    with ProfileStore(url) as store:
        store.upsert([("ana", Record("a", id="1")), ("ana", Record("b", id="2")), ("ben", Record("c"))])
        store.put_vectors([vectors_of(store.profile("ana"))])
        store.put_indexes([StoredIndex("ana", "k", 1, b"data")])


def check_reading(store: ProfileStore) -> None:
    assert texts(store.profile("ana")) == ["a", "b"]
    assert "ben" in store
    assert sorted(store.user_ids()) == ["ana", "ben"]
    assert store.counts() == StoreCounts(2, 3, 1, 1)
    assert same(store.vectors("ana", "toy"), vectors_of(store.profile("ana")))
    assert store.index("ana", "k") is not None
    assert list(store.stale_users("toy")) == ["ben"]


def check_writing(store: ProfileStore, message: str) -> None:
    for write in (
        lambda: store.upsert([("ana", Record("d"))]),
        lambda: store.delete_records("ana", ["1"]),
        lambda: store.forget("ana"),
        lambda: store.put_vectors([vectors_of(store.profile("ana"))]),
    ):
        with pytest.raises(StoreError, match=message) as raised:
            write()
        assert "\n" not in str(raised.value)


CAN_ONLY_BE_READ = "can only be read: allow writing to the file and its folder, or use a copy"


def test_a_store_in_a_folder_that_may_not_be_written(folder: Path) -> None:
    path = folder / "Ü%41 '#.db"
    filled(f"sqlite:///{path}")
    path.chmod(0o444)
    folder.chmod(0o555)
    before = path.read_bytes()
    with without_rights(), ProfileStore(f"sqlite:///{path}", create=False) as store:
        check_reading(store)
        check_writing(store, CAN_ONLY_BE_READ)
    assert path.read_bytes() == before
    assert list(folder.iterdir()) == [path]


def test_a_file_that_may_not_be_written_in_a_folder_that_may(folder: Path) -> None:
    path = folder / "persona.db"
    filled(f"sqlite:///{path}")
    path.chmod(0o444)
    folder.chmod(0o777)
    with without_rights(), ProfileStore(f"sqlite:///{path}") as store:
        check_reading(store)
        check_writing(store, CAN_ONLY_BE_READ)


def test_a_store_that_another_user_writes_to_meanwhile(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    path = folder / "persona.db"
    with ProfileStore(f"sqlite:///{path}") as theirs:
        filled(f"sqlite:///{path}")
        with without_rights():
            store = ProfileStore(f"sqlite:///{path}")
            check_reading(store)
        theirs.upsert([("cy", Record("new"))])
        with without_rights():
            assert texts(store.profile("cy")) == ["new"]
            store.close()


def test_a_snapshot_that_is_replaced_is_read_anew(folder: Path) -> None:
    path, newer = folder / "persona.db", folder / "newer.db"
    filled(f"sqlite:///{path}")
    shutil.copy(path, newer)
    with ProfileStore(f"sqlite:///{newer}") as store:
        store.upsert((f"user {number}", Record("x" * 1000)) for number in range(100))
    folder.chmod(0o555)
    with without_rights():
        store = ProfileStore(f"sqlite:///{path}")
        assert store.counts().users == 2
    folder.chmod(0o755)
    os.replace(newer, path)
    folder.chmod(0o555)
    with without_rights():
        assert store.counts().users == 102
        store.close()


def test_a_snapshot_without_its_last_changes_is_refused(folder: Path) -> None:
    path = folder / "persona.db"
    with ProfileStore(f"sqlite:///{path}"):
        filled(f"sqlite:///{path}")
        with suppress(FileNotFoundError):
            for ending in ("", "-wal"):
                shutil.copy(f"{path}{ending}", folder / f"copy.db{ending}")
    folder.chmod(0o555)
    with without_rights(), pytest.raises(StoreError, match=r"its last changes are in copy.db-wal: copy both"):
        ProfileStore(f"sqlite:///{folder / 'copy.db'}")


def test_a_read_only_mount(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(4000)
    filled(f"sqlite:///{disk / 'persona.db'}")
    (disk / "empty.db").touch()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with ProfileStore(f"sqlite:///{disk / 'persona.db'}", create=False) as store:
        check_reading(store)
        check_writing(store, CAN_ONLY_BE_READ)
    with pytest.raises(StoreError, match="holds no store of this version and can only be read"):
        ProfileStore(f"sqlite:///{disk / 'empty.db'}")
    with pytest.raises(StoreError, match="it cannot be opened: its folder must exist and allow writing"):
        ProfileStore(f"sqlite:///{disk / 'new.db'}")


@pytest.mark.postgres
def test_a_standby(postgres_store_url: str) -> None:
    filled(postgres_store_url)
    url = sqlalchemy.make_url(postgres_store_url)
    options = f"{url.query['options']} -cdefault_transaction_read_only=on"
    with ProfileStore(url.update_query_dict({"options": options}).render_as_string(hide_password=False)) as store:
        check_reading(store)
        check_writing(store, "the server can only be read, as a standby: write to the primary")


@pytest.mark.postgres
def test_a_role_that_may_only_read(postgres_store_url: str) -> None:
    filled(postgres_store_url)
    url = sqlalchemy.make_url(postgres_store_url)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        try:
            connection.exec_driver_sql("CREATE ROLE persona_reader LOGIN")
        except sqlalchemy.exc.DBAPIError:
            pytest.skip("this role may not make another one")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO persona_reader")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO persona_reader")
        try:
            reader = url.set(username="persona_reader").render_as_string(hide_password=False)
            with ProfileStore(reader) as store:
                check_reading(store)
                check_writing(store, "this role may not do that: let it write, or only read")
        finally:
            connection.exec_driver_sql("DROP OWNED BY persona_reader")
            connection.exec_driver_sql("DROP ROLE persona_reader")
    engine.dispose()
