"""Users in order, whatever part they are in."""

from __future__ import annotations

from itertools import islice

from persona.records import Record
from persona.store.profile_store import ProfileStore, StoredUser


def test_users_come_in_the_order_of_their_ids(store: ProfileStore) -> None:
    ids = [*(f"user {number}" for number in range(90)), "Zoë", "zoe", "雪", " ", "Ä", "😀"]
    store.upsert((user_id, Record(f"{user_id} {number}")) for user_id in ids for number in range(1 + len(user_id) % 3))
    assert [each.user_id for each in store.users()] == sorted(ids)
    assert [each.user_id for each in store.users(page=1)] == sorted(ids)
    assert [each.user_id for each in islice(store.users("user 5", page=3), 3)] == ["user 50", "user 51", "user 52"]
    assert next(store.users("雪")).user_id == "😀"
    assert {each.records for each in store.users() if each.user_id == "Zoë"} == {1}
    store.delete_records("Zoë", [store.profile("Zoë")[0].id])
    assert next(store.users("Zo")) == StoredUser("Zoë", 0, 2)
