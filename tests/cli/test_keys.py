"""`persona keys`."""

from __future__ import annotations

from persona.serve.keys import ApiKey, KeyStore
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import Run


def test_a_key_is_made_listed_and_revoked(run: Run) -> None:
    made = run("keys", "make", "phone", "--user", "ana", "--scope", "erase,ask", "--json").json
    secret = run("keys", "make", "gateway").out.strip()
    with ProfileStore("sqlite:///persona.db") as store:
        phone = KeyStore(store).caller(made["secret"])
        assert phone == ApiKey(made["key_id"], "phone", ("ask", "erase"), "ana", (phone and phone.created) or "")
        other = KeyStore(store).caller(secret)
    assert other is not None
    assert (other.user_id, set(other.scopes)) == (None, {"ask", "write"})
    listed = run("keys")
    assert f"{made['key_id']}  phone  ask,erase  for 'ana'  since 20" in listed.out
    assert f"{other.key_id}  gateway  ask,write  for any user" in listed.out
    assert secret not in listed.out + run("keys", "--json").out
    assert run("keys", "revoke", made["key_id"]).out.startswith(f"revoked {made['key_id']}  phone")
    assert "there is no API key" in run("keys", "revoke", made["key_id"]).error
    assert [key["name"] for key in run("keys", "--json").json] == ["gateway"]


def test_wrong_scopes_are_one_line(run: Run) -> None:
    assert (
        "one or more of the scopes ask, write, erase, admin, was: 'all'"
        in run("keys", "make", "x", "--scope", "all").error
    )
