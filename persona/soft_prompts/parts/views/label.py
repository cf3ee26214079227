"""The target of a record as a label: equal labels have equal numbers, and no others are like them.

With b_1, b_2, ... the bits of a hash of the label, in lower case,

    v = [2 b_1 - 1, 2 b_2 - 1, ...]

A one-hot vector would need the list of labels, and one hashed into as many columns would give some of them the same. An
encoder's vector of the target, which is there as well, puts labels of like meaning together; these numbers do not.

Source: the category of an item as a field and as a target of its own (M2TRec); the target is what the warm-up predicts.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from persona.records import Profile
from persona.soft_prompts.parts.base import View


class LabelView(View):
    """The signs of the module's docstring, at most 512; zeros for a target of more than `words` words, and for none."""

    def __init__(self, *, dim: int = 32, words: int = 4) -> None:
        self.dim, self.words = dim, words

    def read(self, profile: Profile) -> NDArray[np.float32]:
        """See the module.  # (records, dim)"""
        read = np.zeros((len(profile), self.dim), np.float32)
        for row, record in enumerate(profile):
            label = (record.target or "").casefold().split()
            if 0 < len(label) <= self.words:
                bits = blake2b(" ".join(label).encode(), digest_size=-(-self.dim // 8)).digest()
                read[row] = 2.0 * np.unpackbits(np.frombuffer(bits, np.uint8))[: self.dim] - 1
        return read
