"""Two masked views of one history that must have one state: fields that say the same are left out together.

The fields of a record are the blocks of its value (text, target, style, further views). Of each record one field is
drawn; it and the field most correlated with it are zeros in the first view, all others in the second. With z and z' the
states from the two views of all of a user's records,

    L = -log softmax_v(cos(z_u, z'_v) / tau)[u]

over u and the other users v of the step. The correlation of fields X and Y, with centred columns, is the RV coefficient
<XX', YY'> / (|XX'| |YY'|) over records of the step.

Source: "Self-supervised Learning for Large-scale Item Recommendations" (arXiv 2007.12865), correlated feature masking;
transferred from an item's features to those of a user's records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.soft_prompts.training.objectives.base import Objective, Step
from persona.soft_prompts.training.objectives.contrast import contrast

_RECORDS = 128
"""Records at most over which fields are correlated."""


class MaskedObjective(Objective):
    """The InfoNCE of the module's docstring; `temperature` is tau."""

    def __init__(self, config: Any, state_size: int, *, weight: float = 0.1, temperature: float = 0.2) -> None:
        super().__init__()
        self.weight, self.temperature, self.blocks = weight, temperature, config.view_dims

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        batch = step.batch(step.histories)
        together = pairs(correlations(batch.values[batch.mask][:_RECORDS], self.blocks))
        drawn = torch.from_numpy(step.draw.integers(len(self.blocks), size=batch.mask.shape))
        left_out = together[drawn.to(together.device)]  # (shown, records, blocks)
        one, other = (step.state(batch, without(batch.values, out, self.blocks)) for out in (left_out, ~left_out))
        return contrast(one, other, self.temperature, step.others())


def correlations(values: Tensor, blocks: Sequence[int]) -> Tensor:
    """RV coefficients of the blocks of some records; 0 of a block that does not vary.  # (blocks, blocks)"""
    centred = [part - part.mean(0) for part in torch.split(values, list(blocks), dim=1)]
    products = torch.stack([part @ part.T for part in centred]).flatten(1)
    products = F.normalize(products, dim=1)
    return products @ products.T


def pairs(correlated: Tensor) -> Tensor:
    """For each block itself and the one most correlated with it, as a mask.  # (blocks, blocks)"""
    own = torch.eye(len(correlated), dtype=torch.bool, device=correlated.device)
    return own | F.one_hot(correlated.masked_fill(own, -1).argmax(1), len(own)).bool()


def without(values: Tensor, left_out: Tensor, blocks: Sequence[int]) -> Tensor:
    """Values with zeros in the blocks that are left out.  # (..., value_dim)"""
    sizes = torch.tensor(list(blocks), device=values.device)
    return values.masked_fill(left_out.repeat_interleave(sizes, dim=-1), 0)
