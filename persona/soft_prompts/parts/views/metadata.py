"""The fields of a record beside its text: metadata, role and speaker, hashed into a fixed size.

With n_f and w_f1, w_f2, ... the name of field f and the words of its value, and e(x) a vector of zeros but for +1 or -1
in one column, both chosen by a hash of x,

    v = sum_f [ e(n_f) + sum_j e(n_f, w_fj) / sqrt(number of words) ]

There is no vocabulary: a field or a word that no training user had has its columns all the same.

Sources: items as their metadata fields, without ids (M2TRec); as pairs of keys and values (Recformer, arXiv
2305.13731); the hashing: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, arXiv 0902.2206.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from persona.records import Profile, Record
from persona.soft_prompts.parts.base import View

_WORDS_READ = 32


class MetadataView(View):
    """The hashed fields of the module's docstring in `dim` columns; of a value, its first 32 words."""

    def __init__(self, *, dim: int = 64) -> None:
        self.dim = dim

    def read(self, profile: Profile) -> NDArray[np.float32]:
        """See the module.  # (records, dim)"""
        read = np.zeros((len(profile), self.dim), np.float32)
        for row, record in enumerate(profile):
            for name, value in _fields(record):
                words = value.casefold().split()[:_WORDS_READ]
                self._add(read[row], 1.0, name)
                for word in words:
                    self._add(read[row], len(words) ** -0.5, name, word)
        return read

    def _add(self, row: NDArray[np.float32], amount: float, *names: str) -> None:
        hashed = int.from_bytes(blake2b("\x00".join(names).encode(), digest_size=8).digest())
        row[(hashed >> 1) % self.dim] += amount if hashed & 1 else -amount


def _fields(record: Record) -> Iterator[tuple[str, str]]:
    yield from record.metadata.items()
    # A record holds no NUL, so these are never names of metadata.
    yield from ((name, value) for name, value in (("\x00role", record.role), ("\x00speaker", record.speaker)) if value)
