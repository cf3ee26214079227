"""A thousand users, random operations: the API answers as a plain dict would, and no user meets another's records."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from persona.serve.keys import KeyStore
from persona.store.profile_store import ProfileStore
from tests.serve.data.test_routes import app, local, url

USERS, STEPS = 1000, 2500
KINDS = {"put": 9, "many": 3, "patch": 4, "get": 5, "list": 6, "delete": 2, "held": 3, "forget": 2}


class Model:
    """The API as a dict, beside the real one.

    Attributes:
        users: records of each user: id -> text.
        ever: every text that a user had since they were last forgotten.
        erased: what must be in no file any more.
    """

    def __init__(self, client: TestClient, seed: int) -> None:
        self._client, self._draw = client, random.Random(seed)
        names = [f"user-{number:04}{self._draw.choice(['', '/..', ' é', '%2F', '?', '.'])}" for number in range(USERS)]
        self.users: dict[str, dict[str, str]] = {name: {} for name in names}
        self.ever: defaultdict[str, set[str]] = defaultdict(set)
        self.erased: set[str] = set()
        self._names = names

    def step(self, number: int) -> None:
        """One operation on both, which must agree."""
        draw = self._draw
        user = self._names[int(USERS * draw.random() ** 2)]  # some have many
        record_id = f"r{draw.randrange(3)}/{draw.randrange(2)}"
        (kind,) = draw.choices([*KINDS], [*KINDS.values()])
        # A word that stands in no other record: whose it is can be seen wherever it turns up.
        getattr(self, f"_{kind}")(user, self.users[user], record_id, f"canary-{user[:9]}-{number}.")

    def _call(self, method: str, *path: str, body: Any = None) -> Any:
        reply = self._client.request(method, url(*path), json=body)
        return reply.json() if reply.status_code < 300 else reply.status_code

    def _wrote(self, user: str, given: dict[str, str]) -> None:
        self.users[user].update(given)
        self.ever[user] |= {user, *given.values()}

    def _put(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        done = self._call("PUT", user, "records", record_id, body={"text": text})
        assert (done["added"], done["changed"]) == (record_id not in own, record_id in own)
        self._wrote(user, {record_id: text})

    def _many(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        given = {f"{record_id}-{n}": f"{text}-{n}" for n in range(3)}
        done = self._call("PUT", user, "records", body=[{"text": text, "id": each} for each, text in given.items()])
        assert done["added"] == len(given.keys() - own)
        self._wrote(user, given)

    def _patch(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        done = self._call("PATCH", user, "records", record_id, body={"text": text})
        assert (done == 404) == (record_id not in own)
        if record_id in own:
            self.erased.add(own[record_id])
            self._wrote(user, {record_id: text})

    def _get(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        got = self._call("GET", user, "records", record_id)
        assert (got["text"] if record_id in own else got) == own.get(record_id, 404)

    def _list(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        assert {each["id"]: each["text"] for each in self._call("GET", user, "records")["data"]} == own

    def _delete(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        assert (self._call("DELETE", user, "records", record_id) == 404) == (record_id not in own)
        if record_id in own:
            self.erased.add(own.pop(record_id))

    def _held(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        held = self._call("GET", user)
        assert ({each["id"]: each["text"] for each in held["records"]} if user in self.ever else {}) == own

    def _forget(self, user: str, own: dict[str, str], record_id: str, text: str) -> None:
        receipt = self._call("DELETE", user)
        assert receipt["complete"]
        assert receipt["parts"][0] == {"what": "records", "removed": len(own), "left": 0}
        self.erased |= self.ever.pop(user, set())
        own.clear()


@pytest.mark.slow
def test_the_api_against_a_plain_model(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path}/persona.db") as store:
        secret, _ = KeyStore(store).make("all", ["write", "erase"])
        with local(app(store), authorization=f"Bearer {secret}") as client:
            model = Model(client, seed=20)
            for number in range(STEPS):
                model.step(number)
        held = {user: {record.id: record.text for record in store.profile(user)} for user in model.users}
        assert held == model.users
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    there = {*model.ever, *(text for own in model.users.values() for text in own.values())}
    assert all(text.encode() in files for text in there)  # what is there is found
    gone = model.erased - there
    assert len(gone) > 250
    assert [text for text in gone if text.encode() in files] == []
