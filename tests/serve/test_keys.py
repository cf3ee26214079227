"""API keys: shown once, kept as hashes, gone when revoked or when their user is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.errors import ForbiddenError, InvalidOptionError, InvalidUserIdError, UnknownKeyError
from persona.records import Record
from persona.serve.keys import LOCAL, ApiKey, KeyStore
from persona.store.holdings import holdings
from persona.store.profile_store import ForgetReport, ProfileStore
from persona.store.schema import PARTS, part_of


def test_a_key_is_known_by_its_secret_alone(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        keys = KeyStore(store)
        assert not keys.made()
        secret, key = keys.make("phone", ["write", "ask"], user_id="ana/../ü")
        other, shared = keys.make("gateway", ["admin"])
        assert keys.made()
        assert (key.scopes, key.user_id) == (("ask", "write"), "ana/../ü")
        assert key.key_id.startswith(f"{part_of('ana/../ü').number:02}")
        assert (shared.user_id, shared.key_id[:2]) == (None, str(PARTS))
        assert keys.caller(secret) == key
        assert keys.caller(other) == shared
        assert set(keys.keys()) == {key, shared}
        changed = secret[:-1] + ("a" if secret[-1] != "a" else "b")
        swapped = secret[:21] + other[21:]
        elsewhere = secret.replace(key.key_id, f"99{key.key_id[2:]}")
        wrong = ["", "sk-1", changed, swapped, elsewhere, f" {secret}", f"{secret}\n"]
        assert [keys.caller(each) for each in wrong] == [None] * len(wrong)


def test_every_process_sees_a_revocation_at_once(store_url: str) -> None:
    with ProfileStore(store_url) as store, ProfileStore(store_url) as other:
        keys = KeyStore(store)
        secret, key = keys.make("phone", ["ask"], user_id="ana")
        assert KeyStore(other).caller(secret) is not None
        assert keys.revoke(key.key_id) == key
        assert KeyStore(other).caller(secret) is None
        assert (keys.keys(), keys.made()) == ((), True)
        for unknown in (key.key_id, "", "zz", "99" + key.key_id[2:], "07\x00", "\ud800"):
            with pytest.raises(UnknownKeyError, match="persona keys` lists"):
                keys.revoke(unknown)


def test_what_a_key_may_be_is_checked(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        keys = KeyStore(store)
        for scopes in ([], ["ask", "everything"], "ask"):
            with pytest.raises(InvalidOptionError, match="one or more of the scopes ask, write, erase, admin"):
                keys.make("phone", scopes)
        with pytest.raises(InvalidOptionError, match="an API key's name"):
            keys.make("", ["ask"])
        with pytest.raises(InvalidUserIdError):
            keys.make("phone", ["ask"], user_id="")
        assert (keys.keys(), keys.made()) == ((), False)


def test_a_key_goes_with_its_user(store_url: str) -> None:
    with ProfileStore(store_url) as store:
        keys = KeyStore(store)
        secret, _ = keys.make("phone", ["ask"], user_id="ana")
        other, kept = keys.make("phone", ["ask"], user_id="ben")
        store.upsert([("ana", Record("a")), ("ben", Record("b"))])
        assert holdings(store, "ana").others == {"keys": 1}
        assert store.forget("ana") == ForgetReport(records=1, others=1)
        assert (keys.caller(secret), keys.keys()) == (None, (kept,))
        store.upsert([("ana", Record("somebody new of that name"))])
        assert keys.caller(secret) is None
        assert keys.caller(other) is not None


def test_neither_the_secret_nor_a_forgotten_user_is_in_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "persona.db"

    def held(word: str) -> bool:
        return any(word.encode() in file.read_bytes() for file in tmp_path.glob("persona.db*"))

    with ProfileStore(f"sqlite:///{path}") as store:
        secret, key = KeyStore(store).make("phone-of-zoltana", ["ask"], user_id="zoltana")
        assert held("zoltana")
        assert not held(secret)
        assert not held(secret.rpartition("_")[2][:20])
        store.forget("zoltana")
        assert not held("zoltana")
        assert not held(key.key_id)


def test_scopes_and_users() -> None:
    phone, gateway = ApiKey("1", "phone", ("ask",), "ana"), ApiKey("2", "gateway", ("admin",))
    phone.check("ask")
    for scope in ("write", "erase", "admin"):
        with pytest.raises(ForbiddenError, match=f"scope `{scope}`, the key 1 has: ask"):
            phone.check(scope)
        gateway.check(scope)
        LOCAL.check(scope)
    assert (phone.user(None), phone.user("ana"), gateway.user(None), gateway.user("ben")) == ("ana", "ana", None, "ben")
    with pytest.raises(ForbiddenError, match="speaks for one user") as refused:
        phone.user("ben")
    assert "ana" not in str(refused.value)
    with pytest.raises(InvalidUserIdError):
        gateway.user("")
