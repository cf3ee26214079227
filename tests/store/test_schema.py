"""The tables, and which of them `forget` reaches."""

from __future__ import annotations

import sqlalchemy

from persona.records import Record
from persona.store.profile_store import ForgetReport, ProfileStore
from persona.store.schema import PART_TABLES, PARTS, metadata, part_of, user_table


def test_forget_covers_tables_that_are_yet_to_come(store_url: str) -> None:
    part = part_of("ana")
    notes = user_table("notes", part.number, sqlalchemy.Column("note", sqlalchemy.Text))
    engine = sqlalchemy.create_engine(store_url)
    try:
        with ProfileStore(store_url) as store:
            store.upsert([("ana", Record("a"))])
            with engine.begin() as connection:
                notes.create(connection, checkfirst=True)
                uid = connection.execute(sqlalchemy.select(part.users.c.uid)).scalar_one()
                connection.execute(notes.insert(), [{"uid": uid, "note": "a word"}, {"uid": uid, "note": "another"}])
            assert store.forget("ana") == ForgetReport(records=1, others=2)
            with engine.connect() as connection:
                assert connection.execute(sqlalchemy.select(notes)).all() == []
    finally:
        notes.drop(engine)
        metadata.remove(notes)
        engine.dispose()


def test_no_table_of_users_data_is_outside_the_parts() -> None:
    for table in metadata.tables.values():
        assert ("uid" in table.columns) == ("part" in table.info)
        if "part" in table.info:
            part = PART_TABLES[table.info["part"]]
            assert table in part.tables()
            owners = {
                key.column.table for column in table.columns for key in column.foreign_keys if column.name == "uid"
            }
            assert owners == (set() if table is part.users else {part.users})


def test_the_parts_are_where_they_were() -> None:
    # Users are found by this assignment: another one would lose those of every store that exists.
    assert PARTS == 32
    assert [part_of(user_id).number for user_id in ("ana", "bo", "Zoë", "😀")] == [2, 19, 10, 4]
