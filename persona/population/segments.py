"""Groups of users with like vectors, what each of them says more than the others, and what it lends to a new user.

Segments are k-means clusters of users' vectors, and their terms are what sets them apart (`telling`). After UNICON:
segments of users' vectors, read by the attributes that are over-represented in them.

**Nobody is named, and small groups are not described.** A segment has at least `least` users, and each of its terms is
used by as many; users of smaller ones go to the nearest that is left. A file of segments holds centres, sizes and
terms, no ids. Who is in which is in the store (`store_memberships`), where it is erased with the user.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persona.encoders.user_vectors import mean_vector, stored_vectors
from persona.errors import DataFormatError, InvalidOptionError, check_least
from persona.files import replacing
from persona.population.features import LEAST, features_of, telling
from persona.population.vectors import UserTable
from persona.records import Profile
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.exports import note_export


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Segments of some users, the largest first.

    Attributes:
        fingerprint: of the users' vectors.
        centres: means of the users' vectors, float32.  # (segments, dim)
        sizes: users in each.
        terms: of each, z of the terms that set it apart, the highest first.
    """

    fingerprint: str
    centres: NDArray[np.float32]
    sizes: tuple[int, ...]
    terms: tuple[Mapping[str, float], ...]

    @classmethod
    def of(cls, store: ProfileStore, table: UserTable, k: int = 8, *, least: int = LEAST, seed: int = 0) -> Segments:
        """At most `k` segments of the users of a table whose records are in `store`.

        Raises:
            InvalidOptionError: if `k` is below 1, `least` below 2, or there are fewer users than `least`.
        """
        check_least(1, k=k)
        check_least(2, least=least)
        if len(table) < least:
            raise InvalidOptionError(f"a segment has at least {least} users, there are {len(table)} with vectors")
        centres, number = _clustered(table.matrix, k, least, seed)
        users: list[Counter[str]] = [Counter() for _ in centres]
        for user_id, own in zip(table.user_ids, number.tolist(), strict=True):
            users[own].update(features_of(store.profile(user_id)).keys())
        sizes = np.bincount(number).tolist()
        return cls(table.fingerprint, centres, tuple(sizes), tuple(telling(users, sizes, least)))

    def of_profile(self, profile: Profile) -> NDArray[np.float32]:
        """What a user without a vector has: the centre whose terms the profile has, or the mean of all.  # (dim,)"""
        own = features_of(profile)
        scores = [sum(z for term, z in terms.items() if term in own) for terms in self.terms]
        best = int(np.argmax(scores))
        shares = np.array(self.sizes, np.float32) / sum(self.sizes)
        return self.centres[best] if scores[best] > 0 else np.asarray(shares @ self.centres, np.float32)

    def save(self, path: Path, store: ProfileStore) -> None:
        """Write a .safetensors file with sizes and terms as JSON in its header, and have the store note it.

        Raises:
            OSError: if it cannot be written.
        """
        from safetensors.numpy import save

        held = {"fingerprint": self.fingerprint, "sizes": self.sizes, "terms": self.terms}
        with replacing(path) as temporary:
            temporary.write_bytes(save({"centres": self.centres}, {"segments": json.dumps(held)}))
        note_export(store.database, path, "segments: means over users and what many of them say")

    @classmethod
    def load(cls, path: Path) -> Segments:
        """What `save` wrote.

        Raises:
            DataFormatError: if it is something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                held = json.loads(file.metadata()["segments"])
                centres = file.get_tensor("centres")
            return cls(held["fingerprint"], centres, tuple(held["sizes"]), tuple(held["terms"]))
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise DataFormatError("no file of segments: `persona segments` makes one", source=path) from error


def store_memberships(store: ProfileStore, segments: Segments) -> int:
    """Store with each user which segment they are in, from 0; how many.

    It goes when a record of the user is deleted, and with the user.
    """
    return store.put_indexes(
        StoredIndex(
            each.user_id,
            f"segment:{segments.fingerprint}",
            each.revision,
            json.dumps({"segment": int(nearest(mean_vector(each)[None], segments.centres)[0])}).encode(),
        )
        for each in stored_vectors(store, segments.fingerprint)
    )


def nearest(vectors: NDArray[np.float32], centres: NDArray[np.floating]) -> NDArray[np.intp]:
    """The number of the centre that is nearest to each vector.  # (vectors,)"""
    return np.asarray((vectors @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1))


def _clustered(
    vectors: NDArray[np.float32], k: int, least: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Means of at most `k` clusters of at least `least` vectors, the largest first, and the cluster of each vector."""
    from sklearn.cluster import KMeans

    k = min(k, len(np.unique(vectors, axis=0)))
    fitted = KMeans(k, n_init=5, tol=0, random_state=seed).fit(vectors)
    while (sizes := np.bincount(fitted.labels_, minlength=k)).min() < least:
        left, k = np.delete(fitted.cluster_centers_, sizes.argmin(), axis=0), k - 1
        fitted = KMeans(k, init=left, n_init=1, tol=0, random_state=seed).fit(vectors)
    order = np.argsort(-sizes, kind="stable")
    return fitted.cluster_centers_[order].astype(np.float32), np.argsort(order)[fitted.labels_]
