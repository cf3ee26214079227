"""Users' vectors from a file, with a segment for those who have none or few records.

Of a user who is not in the file the profile's labels and words choose the segment (`Segments.of_profile`), and one with
n records is drawn to the nearest centre c, as far as p records would draw: (n x + p c) / (n + p).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persona.encoders.user_vectors import UserVectorFile
from persona.errors import FingerprintMismatchError, check_least
from persona.population.segments import Segments, nearest
from persona.records import Profile


class SegmentVectors(UserVectorFile):
    """A `UserVectorFile` that falls back on segments; it takes a file's place, also in `SoftPromptChannel`.

    Args:
        path: the file.
        segments: made from the same vectors.
        prior: p, in records, at least 0; 0 leaves everybody who is in the file as they are.

    Raises:
        FingerprintMismatchError: if the segments were made from other vectors.
        InvalidOptionError: if `prior` is negative.
    """

    def __init__(self, path: str | Path, segments: Segments, *, prior: float = 2.0) -> None:
        super().__init__(path)
        if segments.fingerprint != self.fingerprint:
            raise FingerprintMismatchError(
                f"the segments are of vectors of {segments.fingerprint}, these are of {self.fingerprint}: "
                "make them anew"
            )
        check_least(0, prior=prior)
        self.segments, self.prior = segments, prior

    def of_profile(self, profile: Profile) -> NDArray[np.float32]:
        """The user's own vector and that of a segment, by the number of records.  # (dim,)"""
        own, n = self.of(profile.user_id), len(profile)
        if own is None:
            return self.segments.of_profile(profile)
        if not self.prior:
            return own
        centre = self.segments.centres[nearest(own[None], self.segments.centres)[0]]
        return np.asarray((n * own + self.prior * centre) / (n + self.prior), np.float32)
