"""After `forget`, the database's own files are read byte by byte.

Everything of user 104 - id, words, record ids, vectors, indexes - holds the five bytes ``w104x`` over and over, so that
whatever is left of it, wherever a page cut it, is found.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy

import persona.store.erasure
from persona.errors import StoreError
from persona.records import Profile, Record
from persona.store.connecting import waiting
from persona.store.database import Database
from persona.store.profile_store import ForgetReport, ProfileStore, StoredIndex
from persona.store.record_rows import CONTENT
from persona.store.schema import PART_TABLES, Part, part_of
from persona.store.vectors import UserVectors

DIM = 96
"""Of the vectors; a multiple of three, since six bytes make three numbers."""


def mark(number: int) -> str:
    return f"w{number}x"


def user(number: int) -> str:
    return f"the user {mark(number)}"


def words(number: int, chance: random.Random, count: int) -> str:
    return " ".join(f"{mark(number)}{chance.randrange(1000)}" for _ in range(count))


def vectors(profile: Profile, number: int, fingerprint: str) -> UserVectors:
    # Such bytes are finite halfs: no letter before "|" has the exponent of infinity.
    numbers = np.frombuffer((mark(number) + ".").encode() * (DIM // 3 * len(profile)), dtype=np.float16)
    ids, hashes = zip(*((record.id, record.content_hash) for record in profile), strict=True)
    return UserVectors(profile.user_id, fingerprint, ids, hashes, numbers.reshape(-1, DIM), profile.revision)


def fill(store: ProfileStore, numbers: range, seed: int = 0, rounds: int = 4) -> None:
    """Histories that grow over some rounds, users in random order, so that the tables' pages are split and merged."""
    chance = random.Random(seed)
    for turn in range(rounds):
        for number in chance.sample(numbers, len(numbers)):
            # Some records fit on a page many times, some need several pages.
            records = [
                Record(
                    words(number, chance, chance.choice([3, 20, 60, 400])),
                    target=words(number, chance, 1),
                    id=f"{mark(number)}-{turn}-{place}",
                    metadata={"title": words(number, chance, 2)},
                    role=mark(number),
                    speaker=words(number, chance, 1),
                )
                for place in range(chance.randrange(1, 6))
            ]
            # A changed record: its old text has to go too.
            changed = Record(words(number, chance, chance.choice([3, 200])), id=f"{mark(number)}-changed")
            store.upsert((user(number), record) for record in [*records, changed])
    for number in numbers:
        profile = store.profile(user(number))
        store.put_vectors(vectors(profile, number, name) for name in ("f", "g"))
        store.put_indexes([StoredIndex(profile.user_id, "kind", profile.revision, mark(number).encode() * 500)])
        if number % 3 == 0:
            store.delete_records(profile.user_id, [profile[0].id])


def traces(data: bytes, number: int) -> int:
    return data.count(mark(number).encode())


def everything(store: ProfileStore, numbers: list[int]) -> list[object]:
    found: list[object] = []
    for number in numbers:
        kept = [store.vectors(user(number), name) for name in ("f", "g")]
        matrices = [each and (each.record_ids, each.revision, each.matrix.tobytes()) for each in kept]
        found.append((store.profile(user(number)), matrices, store.index(user(number), "kind")))
    return found


def file_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "database").mkdir()
    return tmp_path / "database"


@pytest.fixture
def store(folder: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{folder / 'persona.db'}") as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_left_in_the_files(store: ProfileStore, folder: Path, seed: int) -> None:
    numbers = range(100, 320)
    fill(store, numbers, seed)
    gone = random.Random(seed).sample(numbers, 25)
    others = everything(store, [number for number in numbers if number not in gone])
    before = file_bytes(folder)
    assert all(traces(before, number) > 50 for number in gone)
    for number in gone:
        report = store.forget(user(number))
        assert report.records > 0
        assert (report.vectors, report.indexes) == (2, number % 3 != 0)
        assert traces(file_bytes(folder), number) == 0
    # Nor does what is done to other users later bring anything to light.
    fill(store, range(400, 440), seed)
    store.close()
    after = file_bytes(folder)
    assert [number for number in gone if traces(after, number)] == []
    with ProfileStore(f"sqlite:///{folder / 'persona.db'}") as again:
        assert everything(again, [number for number in numbers if number not in gone]) == others
        assert [each for each in again.user_ids() if each in map(user, gone)] == []
    with closing(sqlite3.connect(folder / "persona.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_reader_that_is_in_the_middle_delays_the_end(
    store: ProfileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BUSY_SECONDS", 0.2)
    store.close()
    with ProfileStore(f"sqlite:///{folder / 'persona.db'}") as store:
        fill(store, range(100, 110), rounds=1)
        reader = sqlite3.connect(folder / "persona.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM persona_users_00").fetchall()
        with pytest.raises(
            StoreError, match=r"bytes could not be overwritten: another process .* call forget once more"
        ):
            store.forget(user(104))
        assert user(104) not in store
        assert traces(file_bytes(folder), 104)
        reader.close()
        assert store.forget(user(104)) == ForgetReport()
        assert traces(file_bytes(folder), 104) == 0


def test_a_forget_that_was_killed_is_finished_by_the_next(
    store: ProfileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(100, 110), rounds=1)
    part = part_of(user(104))
    stranger = next(name for name in map(str, range(1000)) if part_of(name) is not part)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(persona.store.erasure, "_rewrite_sqlite", killed)
        with pytest.raises(KeyboardInterrupt):
            store.forget(user(104))
    assert user(104) not in store
    assert traces(file_bytes(folder), 104)
    # By that of any user, of any part.
    store.forget(stranger)
    assert traces(file_bytes(folder), 104) == 0


def test_two_who_forget_at_once_do_not_rely_on_each_other(
    store: ProfileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are deleted while the part is being rewritten need another rewriting."""
    fill(store, range(100, 200), rounds=1)
    one, two = [number for number in range(100, 200) if part_of(user(number)) is part_of(user(100))][:2]
    rewrite = persona.store.erasure._rewrite_sqlite

    def meanwhile(database: Database, part: Part) -> None:
        rewrite(database, part)
        if user(two) in store:  # a second process begins to forget
            with database.writing() as connection:
                persona.store.erasure.delete_user(connection, part_of(user(two)), user(two))

    monkeypatch.setattr(persona.store.erasure, "_rewrite_sqlite", meanwhile)
    store.forget(user(one))
    assert traces(file_bytes(folder), one) == 0
    assert traces(file_bytes(folder), two) > 0
    persona.store.erasure.overwrite_deleted(store.database)  # and goes on
    assert traces(file_bytes(folder), two) == 0


def test_a_forget_that_fails_half_way_leaves_the_tables_whole(
    store: ProfileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(100, 110), rounds=1)
    others = everything(store, [number for number in range(100, 110) if number != 104])
    full = "SELECT max_page_count FROM pragma_max_page_count"
    with store.database.connected() as connection:
        assert connection.exec_driver_sql(full).scalar_one() > 1
        # As if the disk were full, in the middle of the rewriting.
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match="the disk is full: make room and run this again"):
        store.forget(user(104))
    assert everything(store, [number for number in range(100, 110) if number != 104]) == others
    with store.database.connected() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    store.forget(user(104))
    assert traces(file_bytes(folder), 104) == 0


def test_uids_are_not_given_again(store: ProfileStore) -> None:
    part = part_of("ana")
    same_part = [name for name in map(str, range(2000)) if part_of(name) is part][:3]
    store.upsert((name, Record("a")) for name in same_part)
    store.forget(same_part[2])
    store.upsert([("ana", Record("a"))])
    uids = store.database.rows(sqlalchemy.select(part.users.c.uid), {})
    assert sorted(uid for (uid,) in uids) == [1, 2, 4]


# PostgreSQL


def server_bytes(url: str) -> bytes:
    """All files of a server but its write-ahead log, after a checkpoint."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        try:
            connection.exec_driver_sql("CHECKPOINT")
            data = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
        except sqlalchemy.exc.ProgrammingError:
            pytest.skip("PERSONA_TEST_POSTGRES is not the URL of a superuser: its files cannot be found")
    engine.dispose()
    try:
        paths = [path for path in data.rglob("*") if path.is_file() and path.relative_to(data).parts[0] != "pg_wal"]
    except PermissionError:
        pytest.skip("the server's files cannot be read")
    return b"".join(path.read_bytes() for path in paths)


@pytest.fixture
def on_server(request: pytest.FixtureRequest) -> Iterator[tuple[ProfileStore, str]]:
    url: str = request.getfixturevalue("postgres_store_url")
    with ProfileStore(url) as opened:
        yield opened, url


@pytest.mark.slow
@pytest.mark.postgres
def test_nothing_is_left_in_the_servers_files(on_server: tuple[ProfileStore, str]) -> None:
    store, url = on_server
    numbers = range(500, 560)
    fill(store, numbers, rounds=3)
    with store.database.connected() as connection:
        connection.exec_driver_sql("ANALYZE")
    gone = [503, 510, 531]
    others = everything(store, [number for number in numbers if number not in gone])
    before = server_bytes(url)
    assert all(traces(before, number) > 50 for number in gone)
    for number in gone:
        assert store.forget(user(number)).records > 0
    after = server_bytes(url)
    assert {number: traces(after, number) for number in gone} == dict.fromkeys(gone, 0)
    assert everything(store, [number for number in numbers if number not in gone]) == others


@pytest.mark.postgres
def test_an_old_transaction_delays_the_end(
    on_server: tuple[ProfileStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, url = on_server
    fill(store, range(600, 606), rounds=1)
    monkeypatch.setattr(waiting, "BUSY_SECONDS", 0.5)
    engine = sqlalchemy.create_engine(url, isolation_level="REPEATABLE READ")
    with engine.connect() as reader:
        # It has not touched a table of ours, but it could still ask to see them as they were.
        reader.exec_driver_sql("SELECT count(*) FROM pg_class").all()
        with pytest.raises(StoreError, match="another session has had a transaction open since before"):
            store.forget(user(602))
        assert user(602) not in store
    assert store.forget(user(602)) == ForgetReport()
    engine.dispose()
    assert traces(server_bytes(url), 602) == 0


@pytest.mark.postgres
def test_a_table_that_is_held_delays_the_end(
    on_server: tuple[ProfileStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, url = on_server
    fill(store, range(610, 616), rounds=1)
    monkeypatch.setattr(waiting, "BUSY_SECONDS", 0.5)
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as reader:
        reader.execute(sqlalchemy.select(part_of(user(612)).records)).all()
        with pytest.raises(StoreError, match="bytes could not be overwritten"):
            store.forget(user(612))
    engine.dispose()
    assert store.forget(user(612)) == ForgetReport()
    assert traces(server_bytes(url), 612) == 0


@pytest.mark.postgres
def test_tables_of_another_role_are_not_passed_over_in_silence(on_server: tuple[ProfileStore, str]) -> None:
    store, url = on_server
    fill(store, range(620, 623), rounds=1)
    role = "persona_test_stranger"
    schema = sqlalchemy.make_url(url).query["options"].split("=")[1]  # type: ignore[union-attr]
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if not connection.exec_driver_sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").scalar_one():
            pytest.skip("PERSONA_TEST_POSTGRES is not the URL of a superuser: no second role can be made")
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        try:
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
            connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
            stranger = sqlalchemy.make_url(url).set(username=role).render_as_string(hide_password=False)
            with ProfileStore(stranger) as limited, pytest.raises(StoreError, match="does not own the tables"):
                limited.forget(user(621))
        finally:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
    engine.dispose()
    assert store.forget(user(621)) == ForgetReport()


@pytest.mark.postgres
def test_no_statistics_are_kept_on_what_users_wrote(on_server: tuple[ProfileStore, str]) -> None:
    store, _ = on_server
    fill(store, range(630, 640), rounds=1)
    with store.database.connected() as connection:
        connection.exec_driver_sql("ANALYZE")
        sampled = connection.exec_driver_sql(
            "SELECT DISTINCT attname FROM pg_stats WHERE tablename LIKE 'persona_%%' AND schemaname = current_schema()"
        ).scalars()
        ours = {"user_id", "record_id", "matrix", "data", "payload", *CONTENT}
        assert not ours & set(sampled)
    assert {table.name for table in PART_TABLES[7].tables()} == {
        f"persona_{name}_07" for name in ("users", "records", "vectors", "indexes", "adapters", "keys")
    }
