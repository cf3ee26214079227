"""AdamW over a matrix of adapters, one row a user: each row moves exactly as it would alone.

For row `u` at step ``t`` with gradient ``g``, after its own clipping to a norm of at most `clip` (as PyTorch clips,
with ``1e-6`` added to the norm), and with its own learning rate ``lr_u``::

    w = w (1 - lr_u weight_decay)
    m = b1 m + (1 - b1) g                     v = b2 v + (1 - b2) g^2
    w = w - lr_u m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

as in "Decoupled Weight Decay Regularization" (arXiv 1711.05101) and `torch.optim.AdamW`, which has one learning rate
and one clipping for all rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BETAS, _EPS = (0.9, 0.999), 1e-8


class PerUserAdamW:
    """AdamW with a learning rate and a clipping of each row's own.

    Args:
        rows: the adapters, changed in place.  # (users, size)
        weight_decay: pull of every number to zero, per unit of learning rate.
        clip: largest norm of a user's gradient; None for any.

    Attributes:
        rows: the adapters of the users who are still trained.  # (users, size)
    """

    def __init__(self, rows: Tensor, *, weight_decay: float = 0.01, clip: float | None = 1.0) -> None:
        self.rows = rows
        self._first, self._second = torch.zeros_like(rows), torch.zeros_like(rows)
        self._weight_decay, self._clip = weight_decay, clip
        self._steps = 0

    @torch.no_grad()
    def step(self, gradients: Tensor, learning_rates: Tensor) -> None:
        """Move every row.

        Args:
            gradients: of each user's own loss; overwritten.  # (users, size)
            learning_rates: float64.  # (users,)
        """
        self._steps += 1
        rates = learning_rates[:, None]
        first_beta, second_beta = _BETAS
        if self._clip is not None:
            norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
            gradients.mul_((self._clip / (norms + 1e-6)).clamp_max(1.0))
        self.rows.mul_((1 - rates * self._weight_decay).to(self.rows.dtype))
        self._first.lerp_(gradients, 1 - first_beta)
        self._second.mul_(second_beta).addcmul_(gradients, gradients, value=1 - second_beta)
        root = self._second.sqrt().div_(math.sqrt(1 - second_beta**self._steps)).add_(_EPS)
        rates = (rates / (1 - first_beta**self._steps)).to(self.rows.dtype)
        self.rows.addcmul_(self._first.div(root), -rates)

    def keep(self, index: Tensor) -> None:
        """Go on with the users at `index` only: no decay or stale moment can touch the others any more."""
        self.rows = self.rows[index]
        self._first, self._second = self._first[index], self._second[index]
