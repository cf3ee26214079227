"""API keys: who may ask the server for what, and for which user.

>>> from persona.store.profile_store import ProfileStore
>>> keys = KeyStore(ProfileStore("sqlite:///persona.db"))
>>> secret, key = keys.make("phone", ["ask", "write"], user_id="ana")
>>> caller = keys.caller(secret)
>>> caller.user(None), sorted(caller.scopes)
('ana', ['ask', 'write'])
>>> keys.revoke(key.key_id).name, keys.caller(secret)
('phone', None)

A secret is ``persona_``, the key's id and 256 random bits. The store has their SHA-256: of so much chance a slow hash
would protect nothing more. Nothing is cached, so every process on the database sees a revocation with the next request.

A key that speaks for one user lies among the data of that user's part (`persona.store.schema`), and its id begins with
the number of the part. To forget the user erases the key too; whoever holds it is a stranger from then on.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, Table, bindparam, delete, literal, select, union_all

from persona.errors import ForbiddenError, InvalidOptionError, UnknownKeyError
from persona.records import check_user_id
from persona.store.database import insert_if_absent
from persona.store.profile_store import ProfileStore
from persona.store.schema import PART_TABLES, PARTS, meta, part_of
from persona.store.schema import keys as shared_keys
from persona.store.upkeep.editing import add_users, locked_floor, locked_user
from persona.store.upkeep.expiry import now
from persona.store.vectors import check_name

SCOPES = ("ask", "write", "erase", "admin")
"""What a key may allow: to ask the LLM; to read, add and change records; to delete them; everything."""

_PREFIX = "persona"
_KEY_ID = re.compile(r"(\d\d)[0-9a-f]{10}", re.ASCII)
_SECRET = re.compile(rf"{_PREFIX}_(\d\d[0-9a-f]{{10}})_[\w-]{{43}}", re.ASCII)
_MADE = "keys_made"
"""The row of `persona_meta` that says that there have been keys."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the store knows it, without its secret, and so who makes a request with it.

    Attributes:
        key_id: begins with the number of the part that it lies in, or with 32 if it speaks for any user.
        name: what it is for.
        scopes: some of `SCOPES`, in their order.
        user_id: the only user that it speaks for; None for any.
        created: ISO 8601, UTC.
    """

    key_id: str
    name: str
    scopes: tuple[str, ...]
    user_id: str | None = None
    created: str = ""

    def check(self, scope: str) -> None:
        """Refuse what the key does not allow; ``admin`` allows everything.

        Raises:
            ForbiddenError: if it does not.
        """
        if scope not in self.scopes and "admin" not in self.scopes:
            raise ForbiddenError(
                f"this needs an API key with the scope `{scope}`, the key {self.key_id} has: "
                f"{', '.join(sorted(self.scopes))} (`persona keys make`)"
            )

    def user(self, named: str | None) -> str | None:
        """Whom the request is for: the key's user or, where the key speaks for any, the `named` one.

        Returns:
            None for nobody: nothing is personalized.

        Raises:
            ForbiddenError: if another one is named than the key's user.
            InvalidUserIdError: if the named one is no legal id.
        """
        if self.user_id is None:
            return None if named is None else check_user_id(named)
        if named is not None and named != self.user_id:
            raise ForbiddenError(f"the API key {self.key_id} speaks for one user, and another one was named")
        return self.user_id


LOCAL = ApiKey("local", "local", SCOPES)
"""Who asks on this machine as long as there have never been keys."""


class KeyStore:
    """The API keys in a store. Safe to use from threads.

    Args:
        store: its database holds them.

    Every method raises `StoreError` if the database fails.
    """

    def __init__(self, store: ProfileStore) -> None:
        self._database = store.database

    def make(self, name: str, scopes: Iterable[str], user_id: str | None = None) -> tuple[str, ApiKey]:
        """A new key, and its secret, which cannot be had again.

        Args:
            name: what it is for, 1 to 512 characters.
            scopes: one or more of `SCOPES`.
            user_id: the only user that it speaks for, in the store from then on; None for any user.

        Raises:
            InvalidOptionError: if the name or a scope is none.
            InvalidUserIdError: if `user_id` is no legal id.
        """
        check_name(name, "an API key's name")
        given = frozenset(scopes)
        if not given or not given <= set(SCOPES):
            raise InvalidOptionError(
                f"an API key needs one or more of the scopes {', '.join(SCOPES)}, was: {', '.join(sorted(given))!r:.80}"
            )
        number = PARTS if user_id is None else part_of(check_user_id(user_id)).number
        key = ApiKey(f"{number:02}{secrets.token_hex(5)}", name, tuple(s for s in SCOPES if s in given), user_id, now())
        secret = f"{_PREFIX}_{key.key_id}_{secrets.token_urlsafe(32)}"
        row = {
            "key_id": key.key_id,
            "name": name,
            "hash": _hashed(secret),
            "scopes": " ".join(key.scopes),
            "created": key.created,
        }
        with self._database.writing() as connection:
            if user_id is None:
                connection.execute(shared_keys.insert(), row)
            else:
                part = part_of(user_id)
                add_users(connection, part, [user_id], locked_floor(connection, part))
                user = locked_user(connection, part, user_id)
                connection.execute(part.keys.insert(), {"uid": user.uid, **row})
            connection.execute(insert_if_absent(connection, meta), {"key": _MADE, "value": key.created})
        return secret, key

    def revoke(self, key_id: str) -> ApiKey:
        """Delete a key; no request that begins later can use it.

        Raises:
            UnknownKeyError: if there is none of that id.
        """
        rows = self._rows(key_id)
        if rows:
            table = _table(key_id)
            with self._database.writing() as connection:
                if connection.execute(delete(table).where(table.c.key_id == key_id)).rowcount:
                    return _stored(rows[0])
        raise UnknownKeyError(f"there is no API key {key_id!r:.80}: `persona keys` lists them")

    def keys(self) -> tuple[ApiKey, ...]:
        """All keys, oldest first."""
        return tuple(map(_stored, sorted(self._database.rows(_all_keys()), key=lambda row: (row[4], row[0]))))

    def made(self) -> bool:
        """Whether a key has ever been made in this store. From then on no request goes without one."""
        return bool(self._database.rows(_EVER))

    def caller(self, secret: str) -> ApiKey | None:
        """Whose secret that is; None if it is no key's. Secrets are compared in constant time."""
        match = _SECRET.fullmatch(secret)
        rows = self._rows(match[1]) if match else []
        if not rows or not hmac.compare_digest(bytes(rows[0][5]), _hashed(secret)):
            return None
        return _stored(rows[0])

    def _rows(self, key_id: str) -> list[tuple[Any, ...]]:
        match = _KEY_ID.fullmatch(key_id)
        if match is None or int(match[1]) > PARTS:
            return []
        return self._database.rows(_one_key(int(match[1])), {"key_id": key_id})


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _stored(row: tuple[Any, ...]) -> ApiKey:
    key_id, name, scopes, user_id, created, _ = row
    return ApiKey(key_id, name, tuple(scopes.split()), user_id, created)


def _table(key_id: str) -> Table:
    number = int(key_id[:2])
    return shared_keys if number == PARTS else PART_TABLES[number].keys


def _keys_of(number: int) -> Select[Any]:
    """The keys in one part, or for `PARTS` those that speak for any user."""
    if number == PARTS:
        keys = shared_keys.c
        return select(keys.key_id, keys.name, keys.scopes, literal(None).label("user_id"), keys.created, keys.hash)
    part = PART_TABLES[number]
    own, users = part.keys.c, part.users.c
    columns = (own.key_id, own.name, own.scopes, users.user_id, own.created, own.hash)
    return select(*columns).select_from(part.keys.join(part.users))


@cache
def _one_key(number: int) -> Select[Any]:
    table = shared_keys if number == PARTS else PART_TABLES[number].keys
    return _keys_of(number).where(table.c.key_id == bindparam("key_id"))


@cache
def _all_keys() -> Select[Any]:
    return select(union_all(*map(_keys_of, range(PARTS + 1))).subquery())


_EVER = select(meta.c.value).where(meta.c.key == _MADE)
