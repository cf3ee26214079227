"""Codes as bytes: the digits of one number, so that no bit is left over between them.

>>> packed([3, 0, 4], [8, 6, 5]), unpacked(packed([3, 0, 4], [8, 6, 5]), [8, 6, 5])
(b'^', [3, 0, 4])
>>> bits_of([8, 8, 8, 6, 5])
14
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def bits_of(sizes: Sequence[int]) -> int:
    """Bits that codes take together; `sizes` says how many values each has."""
    return (math.prod(sizes) - 1).bit_length()


def packed(codes: Sequence[int], sizes: Sequence[int]) -> bytes:
    """Codes in as many whole bytes as they need."""
    number = 0
    for code, size in zip(codes, sizes, strict=True):
        number = number * size + code
    return number.to_bytes(-(-bits_of(sizes) // 8), "little")


def unpacked(data: bytes, sizes: Sequence[int]) -> list[int]:
    """The codes in such bytes."""
    number, codes = int.from_bytes(data, "little"), []
    for size in reversed(sizes):
        number, code = divmod(number, size)
        codes.append(code)
    return codes[::-1]
