"""New records are embedded behind the requests: one thread, and each user once however many requests came meanwhile.

A request need not wait for it: text channels read the records themselves, and what compares vectors makes those that
are missing on the spot.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from threading import Condition, Thread
from time import monotonic
from typing import Final

from persona.caches import register
from persona.encoders.embedding import embed_users
from persona.errors import PersonaError
from persona.protocols import Encoding
from persona.store.profile_store import ProfileStore

LOG = logging.getLogger("persona.serve")

_USERS_AT_ONCE: Final = 256
_RETRIES = (0.5, 2.0, 10.0, 60.0)
"""Seconds until it is tried again after a failure."""


class BackgroundEmbedding:
    """Keeps users' vectors fresh.

    Args:
        store: has the records and gets the vectors.
        encodings: encoders and views whose vectors are kept fresh (`persona.channels.Channel.encodings`).
        most_users: that wait; of more, all stale users of the store are embedded instead.
    """

    def __init__(self, store: ProfileStore, encodings: Collection[Encoding], *, most_users: int = 10_000) -> None:
        self._store, self._encodings, self._most = store, tuple(encodings), most_users
        self._waiting: dict[str, None] = {}
        self._all = self._closed = self._working = False
        self._deadline = float("inf")
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="persona-embedding", daemon=True)
        if self._encodings:
            self._thread.start()
            register(self, "users to be embedded")

    def add(self, user_id: str) -> None:
        """Embed the user's new records soon."""
        with self._changed:
            if not self._encodings or self._all or self._closed:
                return
            self._waiting[user_id] = None
            if len(self._waiting) > self._most:
                self._waiting.clear()
                self._all = True
            self._changed.notify_all()

    def drop(self, user_id: str) -> int:
        """Do not embed the user."""
        with self._changed:
            return 0 if self._waiting.pop(user_id, self) is self else 1

    def wait(self, seconds: float) -> bool:
        """Wait until all is embedded; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._all or self._working), seconds)

    def close(self, seconds: float = 0.0) -> None:
        """Embed what waits, for at most so many seconds; the rest is stale, and the next `embed_users` finds it."""
        with self._changed:
            self._closed, self._deadline = True, monotonic() + seconds
            self._changed.notify_all()
        if self._encodings:
            self._thread.join(seconds + 1)

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._all or self._closed)
                if monotonic() > self._deadline or not (self._waiting or self._all):
                    return
                users = None if self._all else list(self._waiting)[:_USERS_AT_ONCE]
                self._all = False
                for user_id in users or ():
                    del self._waiting[user_id]
                self._working = True
            try:
                for encoder, view in self._encodings:
                    embed_users(self._store, encoder, view=view, user_ids=users)
                failures = 0
            except PersonaError as error:
                LOG.warning(json.dumps({"warning": "records are not embedded yet", "error": type(error).__name__}))
                if failures == len(_RETRIES):
                    failures = 0  # they stay stale, until something new of these users comes
                    continue
                self._again(users, _RETRIES[failures])
                failures += 1

    def _again(self, users: list[str] | None, seconds: float) -> None:
        """Put the users back, and wait a while."""
        with self._changed:
            if users is None:
                self._all = True
            else:
                self._waiting = {**dict.fromkeys(users), **self._waiting}
            self._changed.wait_for(lambda: self._closed, seconds)
            if self._closed:
                self._deadline = min(self._deadline, monotonic())
