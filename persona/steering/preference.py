"""A steering vector trained by preference: the user's own text over the neutral one (BiPO, arXiv 2406.00045).

One vector `v` behind one block, from zero. Each step draws a sign `s`: with `s v` added, own texts become likelier than
neutral ones by more (`s = 1`) or by less (`s = -1`) than without, so that the vector is a dial with two ends::

    loss = -log sigmoid(s beta ((log p(own | s v) - log p(own)) - (log p(neutral | s v) - log p(neutral))))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.llm.frozen.steering import Steered
from persona.llm.loss import TargetLoss
from persona.steering.contrast import OwnText
from persona.steering.options import SteeringOptions

_BATCH, _WEIGHT_DECAY = 4, 0.05


def trained_direction(
    loss: TargetLoss, block: int, own: Sequence[OwnText], neutral: Sequence[tuple[int, ...]], options: SteeringOptions
) -> Tensor:
    """The vector for one block after `options.bipo` epochs, float32.

    Args:
        loss: of the LLM.
        block: behind which it is added.
        own: the user's texts.
        neutral: token ids of the neutral text of each.

    Returns:
        (hidden,)
    """
    llm = loss.llm
    vector = torch.zeros(llm.hidden_size, device=loss.device, requires_grad=True)
    optimizer = torch.optim.AdamW([vector], lr=options.learning_rate, weight_decay=_WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(options.seed)
    pairs = list(zip(own, neutral, strict=True))

    def margins(batch: Sequence[tuple[OwnText, tuple[int, ...]]], steering: Tensor | None) -> Tensor:
        """Log-likelihood of own texts less that of neutral ones.  # (batch,)"""
        prompts = [each.prompt for each, _ in batch] * 2
        targets = [*(each.target for each, _ in batch), *(text for _, text in batch)]
        rows = [None if steering is None else {block: steering}] * len(targets)
        with Steered(llm.frozen.blocks, rows):
            each = -loss(prompts, targets) * torch.tensor([len(target) for target in targets], device=loss.device)
        return each[: len(batch)] - each[len(batch) :]

    with llm.turns:
        for _ in range(options.bipo):
            order = torch.randperm(len(pairs), generator=generator).tolist()
            for start in range(0, len(order), _BATCH):
                batch = [pairs[index] for index in order[start : start + _BATCH]]
                sign = 1.0 if torch.rand(1, generator=generator) < 0.5 else -1.0
                with torch.no_grad():
                    plain = margins(batch, None)
                optimizer.zero_grad()
                moved = margins(batch, sign * vector) - plain
                (-F.logsigmoid(sign * options.beta * moved).mean()).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return vector.detach().cpu()
