"""Short forms for the tests of stores."""

from __future__ import annotations

import numpy as np

from persona.records import Profile
from persona.store.vectors import UserVectors


def texts(profile: Profile) -> list[str]:
    return [record.text for record in profile]


def vectors_of(profile: Profile, fingerprint: str = "toy", dim: int = 4, seed: int = 0) -> UserVectors:
    matrix = np.random.default_rng(seed).standard_normal((len(profile), dim)).astype(np.float16)
    return UserVectors(
        profile.user_id,
        fingerprint,
        tuple(record.id for record in profile),
        tuple(record.content_hash for record in profile),
        matrix,
        profile.revision,
    )


def same(one: UserVectors | None, other: UserVectors) -> bool:
    return (
        one is not None
        and (one.user_id, one.fingerprint, one.record_ids, one.hashes, one.revision)
        == (other.user_id, other.fingerprint, other.record_ids, other.hashes, other.revision)
        and one.matrix.tobytes() == other.matrix.tobytes()
    )
