"""Codes that no two users share: those who collide are given others at the last level.

Users whose codes are their own keep them. Of those who share all levels but the last, the ones who collide are matched
with the last codes that are left, with d the distance of user u from code k there, centred and scaled to [-1, 1], by
Sinkhorn's iteration, the entropic optimal transport of

    Q = exp(-d / eps)      rows of Q are scaled to a sum of 1, then columns to one of at most 1, and so on

From the largest entry of Q down, each user gets a code that is still free: so all codes are different in the end.

Source: the uniform semantic mapping of LC-Rec (arXiv 2311.09049), which can leave collisions, and uses all codes alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from persona.errors import InvalidOptionError

_EPS, _ROUNDS = 0.05, 50


def repaired(codes: Tensor, distances: Tensor) -> Tensor:
    """Codes without collisions.

    Args:
        codes: of distinct users (`ResidualCodes.codes`).  # (users, levels)
        distances: of the users from the last level's codes (`ResidualCodes.last_distances`).  # (users, codes)

    Raises:
        InvalidOptionError: if more users share all levels but the last than it has codes.
    """
    codes = codes.clone()
    _, prefix = torch.unique(codes[:, :-1], dim=0, return_inverse=True)
    _, whole, shared = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    colliding = shared[whole] > 1
    for group in prefix[colliding].unique():
        users = ((prefix == group) & colliding).nonzero()[:, 0]
        free = torch.ones(distances.shape[1], dtype=torch.bool)
        free[codes[(prefix == group) & ~colliding, -1]] = False
        left = free.nonzero()[:, 0]
        if len(users) > len(left):
            raise InvalidOptionError(
                f"{len(users)} users share all codes but the last, of which {len(left)} are left: take more levels"
            )
        codes[users, -1] = left[_matched(distances[users][:, left])]
    return codes


def _matched(distances: Tensor) -> Tensor:
    """A column of its own for each row, near ones by preference.  # (rows,)"""
    low, high = distances.min(), distances.max()
    centred = (2 * distances.double() - (high + low)) / (high - low).clamp_min(1e-12)
    log = -centred / _EPS
    for _ in range(_ROUNDS):
        log = log - log.logsumexp(1, keepdim=True)
        log = log - log.logsumexp(0).clamp_min(0)
    chosen = torch.zeros(len(log), dtype=torch.long)
    for _ in range(len(log)):
        row, column = divmod(int(log.argmax()), log.shape[1])
        chosen[row] = column
        log[row], log[:, column] = -torch.inf, -torch.inf
    return chosen
