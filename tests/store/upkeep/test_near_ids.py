"""Which user ids an error names."""

from __future__ import annotations

import pytest

from persona.errors import UnknownUserError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.near_ids import near_ids


@pytest.mark.parametrize(
    ("user_id", "near"),
    [("annna", ["anna", "Ana"]), ("ANNA", ["anna", "Ana"]), ("user-0017", ["user-0016"]), ("zzz", []), ("雪", [])],
)
def test_near_ids(user_id: str, near: list[str]) -> None:
    assert near_ids(user_id, ["ben", "Ana", "anna", "user-0016"]) == near


def test_a_store_names_them(tmp_path: object) -> None:
    with ProfileStore(f"sqlite:///{tmp_path}/persona.db") as store:
        with pytest.raises(UnknownUserError, match=r"the store holds nothing on 'ana'; `persona ingest` puts"):
            store.check_known("ana")
        store.upsert([("anna", Record("a")), ("hannah", Record("b"))])
        store.check_known("anna")
        with pytest.raises(UnknownUserError, match=r"did you mean 'anna' or 'hannah'\? `persona show` lists all$"):
            store.check_known("ana")
