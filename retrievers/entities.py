"""What a user names again and again: per-user counts of entities that fade with time.

Of a history only aggregates are kept: a name, in how many records it stands, when it was last named, and its weight

    w(e) = sum over the records j that name e of 2^(-(now - t_j) / half_life)

(K-LaMP, Baek et al., WWW 2024: an entity-centric store of counts and times in place of the raw log). A sum of
exponentials needs no list of times: at each new record it is w <- w 2^(-(t - t_last) / half_life) + 1. `now` is the
time of the user's newest record; another one would change all weights by one factor and no ranking.

    2011-01 Bond, 2012-01 Bond, 2012-01 Paris,  half-life a year:   w(Bond) = 2^-1 + 1 = 1.5,  w(Paris) = 1

`EntityStore` keeps them beside the records, and can forget a single one for good. `EntityRetriever` ranks records by
the weights of the entities that they share with the query.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import xxhash

from persona.errors import InvalidOptionError
from persona.records import Profile, ScoredRecord, check_user_id
from persona.store.derived import KEPT_KINDS, StoredIndex, write_indexes

from .entity_names import EntityExtractor, key
from .ranking import check_k, check_query, check_view, pairs, scored, view_texts

if TYPE_CHECKING:
    from persona.protocols import RecordEncoder
    from persona.store.profile_store import ProfileStore

HALF_LIFE_DAYS = 365.0
"""After so many days a mention counts half, if not told otherwise."""

(_FORGOTTEN,) = KEPT_KINDS
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Entity:
    """What is kept of one name.

    Attributes:
        name: as it was last written, e.g. ``"Steve McQueen"``.
        count: how many records name it.
        last: time of the newest of them, None if undated.
        weight: w(e), at the time of the user's newest record; above 0.
    """

    name: str
    count: int
    last: str | None
    weight: float


class EntityCounts:
    """Counts the entities of profiles.

    Args:
        extractor: finds the names; None takes the rules without a gazetteer.
        half_life_days: above 0.
        view: the view of a record that is read (`Record.view`).

    Raises:
        InvalidOptionError: if an option is out of range.

    Attributes:
        kind: what the store calls its rows.
    """

    def __init__(
        self,
        extractor: EntityExtractor | None = None,
        *,
        half_life_days: float = HALF_LIFE_DAYS,
        view: str = "text",
    ) -> None:
        if not half_life_days > 0:
            raise InvalidOptionError(f"`half_life_days` must be above 0, was: {half_life_days}")
        self.extractor = extractor or EntityExtractor()
        self.half_life_days = half_life_days
        self.view = check_view(view)
        self.kind = f"entities:{view}"

    def of(self, profile: Profile) -> tuple[Entity, ...]:
        """The entities of a profile, weightiest first, equal ones by name; undated records are as old as the oldest."""
        days = [_days(record.time) for record in profile]
        known = [day for day in days if day is not None]
        oldest, newest = (min(known), max(known)) if known else (0.0, 0.0)
        dated = sorted(
            zip([oldest if day is None else day for day in days], profile, strict=True), key=lambda one: one[0]
        )
        running: dict[str, tuple[Entity, float]] = {}  # key -> what is known, and at which day its weight holds
        for day, record in dated:
            forms = {key(form): form for form in self.extractor(record.view(self.view))}
            for one, form in forms.items():
                before, at = running.get(one, (Entity(form, 0, None, 0.0), day))
                weight = before.weight * self._faded(day - at) + 1.0
                last = max(filter(None, (before.last, record.time)), default=None)
                running[one] = Entity(form, before.count + 1, last, weight), day
        entities = [
            Entity(entity.name, entity.count, entity.last, entity.weight * self._faded(newest - at))
            for entity, at in running.values()
        ]
        return tuple(sorted(entities, key=lambda entity: (-entity.weight, key(entity.name))))

    def fingerprint(self, profile: Profile) -> str:
        """Names rules and records: a row of another fingerprint is not used."""
        parts = [self.extractor.rules, repr(self.half_life_days)]
        for record, text in zip(profile, view_texts(profile, self.view), strict=True):
            parts += (record.time or "", text)
        return xxhash.xxh3_128_hexdigest(b"\0".join(part.encode() for part in parts))

    def _faded(self, days: float) -> float:
        # A weight never fades to 0, so that what was named stays ahead of what never was.
        return max(math.pow(2.0, -days / self.half_life_days), 1e-30)


class EntityStore:
    """The entities of the users in a store.

    Rows go with the user (`ProfileStore.forget`), and whenever records of the user are deleted; the next `update` makes
    them anew from what is left. What `forget` erased here stays erased then too: of each forgotten name a hash is kept,
    keyed by the user id, until the user is forgotten as a whole. From it nobody can read the name, but who holds the
    database can try whether a certain name is among them.

    Args:
        store: the store.
        counts: how entities are counted; None takes the defaults.
    """

    def __init__(self, store: ProfileStore, counts: EntityCounts | None = None) -> None:
        self.store = store
        self.counts = counts or EntityCounts()

    def update(self, user_ids: Iterable[str] | None = None) -> int:
        """Make the rows that are missing or stale. Safe to stop and run again.

        Args:
            user_ids: whose; None means all users.

        Returns:
            How many rows were made and kept. A user who is being changed at this moment is passed over.
        """
        kept = 0
        chunk: list[tuple[Profile, tuple[Entity, ...]]] = []
        for user_id in self.store.user_ids() if user_ids is None else user_ids:
            profile = self.store.profile(user_id)
            if profile.records and self._stored(profile) is None:
                chunk.append((profile, self.counts.of(profile)))
            if len(chunk) == _CHUNK:
                kept += self._write(chunk)
                chunk = []
        return kept + self._write(chunk)

    def entities(self, profile: Profile) -> tuple[Entity, ...]:
        """The entities of a profile without the forgotten ones, the weightiest first; counted now where no row fits."""
        stored = self._stored(profile)
        entities = self.counts.of(profile) if stored is None else stored
        forgotten = self.forgotten(profile.user_id)
        if not forgotten:
            return entities
        return tuple(one for one in entities if _hashed(profile.user_id, key(one.name)) not in forgotten)

    def context(
        self, user_id: str, query: str, k: int, *, encoder: RecordEncoder | None = None
    ) -> tuple[tuple[Entity, float], ...]:
        """The entities of a user that matter for a query, by weight times likeness; at most `k`.

        Args:
            user_id: whose.
            query: the question.
            k: at least 1.
            encoder: likeness is the cosine of its vectors, 0 where it is negative; without one it is the share of the
                entity's words that stand in the query.

        Returns:
            Entities with their scores, the greatest first; those with likeness 0 stay out.

        Raises:
            InvalidOptionError: if `k` is below 1.
        """
        k = check_k(k)
        entities = self.entities(self.store.profile(user_id))
        if not entities:
            return ()
        if encoder is None:
            asked = set(key(query).split())
            likeness = [_share(key(one.name).split(), asked) for one in entities]
        else:
            vectors = encoder.encode([query, *(one.name for one in entities)])
            likeness = [max(0.0, float(cosine)) for cosine in vectors[1:] @ vectors[0]]
        found = [(one, one.weight * like) for one, like in zip(entities, likeness, strict=True) if like > 0]
        return tuple(sorted(found, key=lambda one: -one[1])[:k])

    def forget(self, user_id: str, entity: str) -> bool:
        """Forget one entity of a user, now and whenever the rows are made anew; its records stay as they are.

        `ProfileStore.delete_records` deletes records. That no byte is left is promised by `ProfileStore.forget` only.

        Args:
            user_id: whose.
            entity: its name, in any spelling with the same `persona.retrievers.entity_names.key`.

        Returns:
            Whether the user had it.

        Raises:
            InvalidOptionError: if `entity` holds no word.
        """
        from sqlalchemy import delete, select

        from persona.store.database import insert_or_renew
        from persona.store.schema import part_of

        name = key(entity)
        if not name:
            raise InvalidOptionError(f"an entity must hold a word, was: {entity!r}")
        part = part_of(check_user_id(user_id))
        had = any(key(one.name) == name for one in self.entities(self.store.profile(user_id)))
        users, rows = part.users.c, part.indexes
        with self.store.database.writing() as connection:
            user = connection.execute(
                select(users.uid, users.revision).where(users.user_id == user_id).with_for_update()
            ).one_or_none()
            if user is None:
                return False
            own = rows.c.uid == user.uid
            held = connection.execute(select(rows.c.data).where(own, rows.c.kind == _FORGOTTEN)).scalar()
            hashes = _split(held or b"") | {_hashed(user_id, name)}
            connection.execute(
                insert_or_renew(connection, rows, "uid", "kind"),
                [
                    {
                        "uid": user.uid,
                        "kind": _FORGOTTEN,
                        "revision": user.revision,
                        "data": b"".join(sorted(hashes)),
                    }
                ],
            )
            connection.execute(delete(rows).where(own, rows.c.kind.startswith("entities:")))
        self.update([user_id])
        return had

    def forgotten(self, user_id: str) -> frozenset[bytes]:
        """The hashes of what was forgotten of a user, 16 bytes each."""
        held = self.store.index(user_id, _FORGOTTEN)
        return _split(held.data) if held else frozenset()

    def _stored(self, profile: Profile) -> tuple[Entity, ...] | None:
        """The row of the store, if it was made from this very profile by these rules."""
        if not profile.revision:
            return None
        held = self.store.index(profile.user_id, self.counts.kind)
        if held is None:
            return None
        try:
            row = json.loads(held.data)
            if row["fingerprint"] != self.counts.fingerprint(profile):
                return None
            return tuple(Entity(*one) for one in row["entities"])
        except (ValueError, KeyError, TypeError):  # the records are at hand: a damaged row costs time and nothing else
            return None

    def _write(self, chunk: Sequence[tuple[Profile, tuple[Entity, ...]]]) -> int:
        """Keep rows. What was forgotten since they were counted is left out: the users are locked first."""
        from sqlalchemy import select

        from persona.store.schema import part_of

        if not chunk:
            return 0
        batch = []
        with self.store.database.writing() as connection:
            for profile, entities in chunk:
                part = part_of(profile.user_id)
                users, rows = part.users.c, part.indexes.c
                user = connection.execute(
                    select(users.uid).where(users.user_id == profile.user_id).with_for_update(read=True)
                ).one_or_none()
                if user is None:
                    continue
                held = connection.execute(
                    select(rows.data).where(rows.uid == user.uid, rows.kind == _FORGOTTEN)
                ).scalar()
                gone = _split(held or b"")
                row = {
                    "fingerprint": self.counts.fingerprint(profile),
                    "entities": [
                        [one.name, one.count, one.last, one.weight]
                        for one in entities
                        if _hashed(profile.user_id, key(one.name)) not in gone
                    ],
                }
                data = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
                batch.append(StoredIndex(profile.user_id, self.counts.kind, profile.revision, data))
            return write_indexes(connection, batch)


class EntityRetriever:
    """Retrieves the records that share the user's weightiest entities with the query.

    A score is the sum of w(e) over the entities e of the user that stand in the query and in the record, whatever the
    case they are written in. Records with equal scores come newest first (later in the profile first), and so do all
    records if the query names none of the user's entities.

    Args:
        store: where entities are read from, and what was forgotten; None counts them in the profile at hand.
        view: the view of a record that is read (`Record.view`).
        counts: how entities are counted; None takes the defaults.
    """

    def __init__(
        self, store: ProfileStore | None = None, view: str = "text", *, counts: EntityCounts | None = None
    ) -> None:
        self.counts = counts or EntityCounts(view=view)
        self.entities = None if store is None else EntityStore(store, self.counts)

    def __repr__(self) -> str:
        return f"EntityRetriever(view={self.counts.view!r}{'' if self.entities is None else ', store=...'})"

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """The `k` records with the weightiest shared entities.

        Raises:
            InvalidOptionError: if `k` is below 1, or `query` is no string.
        """
        k, query = check_k(k), check_query(query)
        if not profile.records:
            return ()
        return self._rank(profile, query, k, self._weights(profile))

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair. The entities of a profile object are read once."""
        k = check_k(k)
        weights: dict[int, Mapping[str, float]] = {}
        results: list[tuple[ScoredRecord, ...]] = []
        for profile, query in pairs(profiles, queries):
            if profile.records and id(profile) not in weights:
                weights[id(profile)] = self._weights(profile)
            results.append(self._rank(profile, query, k, weights[id(profile)]) if profile.records else ())
        return results

    def _weights(self, profile: Profile) -> Mapping[str, float]:
        found = self.counts.of(profile) if self.entities is None else self.entities.entities(profile)
        return {key(one.name): one.weight for one in found}

    def _rank(self, profile: Profile, query: str, k: int, weights: Mapping[str, float]) -> tuple[ScoredRecord, ...]:
        asked = f" {key(query)} "
        shared = {f" {name} ": weight for name, weight in weights.items() if f" {name} " in asked}
        scores = [0.0] * len(profile)
        if shared:
            for position, text in enumerate(view_texts(profile, self.counts.view)):
                said = f" {key(text)} "
                scores[position] = math.fsum(weight for name, weight in shared.items() if name in said)
        order = sorted(range(len(profile)), key=lambda position: (-scores[position], -position))
        return scored(profile, order[:k], scores)


def _days(time: str | None) -> float | None:
    """Days since the year 1, of the first moment that `time` can mean; None for no date."""
    if time is None:
        return None
    year, month, day = ([*time[:10].split("-"), "01", "01"])[:3]
    try:
        return float(date(int(year), int(month), int(day)).toordinal())
    except ValueError:
        return None  # a record made by hand may carry any string


def _hashed(user_id: str, name: str) -> bytes:
    owner = hashlib.blake2b(user_id.encode(), digest_size=32).digest()
    return hashlib.blake2b(name.encode(), key=owner, digest_size=16).digest()


def _split(hashes: bytes) -> frozenset[bytes]:
    return frozenset(hashes[start : start + 16] for start in range(0, len(hashes), 16))


def _share(words: Sequence[str], asked: set[str]) -> float:
    return sum(word in asked for word in words) / len(words)
