"""An encoder whose vectors a test writes down, and records at angles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from persona.records import Record


class Written:
    """An encoder of texts that are their own vectors: ``"1 0"`` is (1, 0), made a unit vector."""

    dim = 2
    fingerprint = "written"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, 2), np.float32)
        rows = np.array([[float(number) for number in text.split()[:2]] for text in texts], np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def at(degrees: float, target: str | None = None, id: str = "") -> Record:
    radians = math.radians(degrees)
    return Record(f"{math.cos(radians):.6f} {math.sin(radians):.6f}", target=target, id=id or f"{degrees:g}")
