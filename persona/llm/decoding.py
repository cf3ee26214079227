"""How close the decisions of a decoding were.

A row of a batch is computed with other rows beside it and with padding, which changes its float32 logits by some 1e-5.
That matters only where two tokens (or two beams) are that close. The two classes here are
logits processors that change nothing, and record for each prompt the smallest difference by which a decision was taken:
its *margin*. An answer whose margin is above the noise is the answer that the prompt gets alone. One with a smaller
margin is to be generated again, alone.

>>> watch = GreedyMargin(1, eos=torch.tensor([9]))
>>> logits = watch(torch.tensor([[7]]), torch.tensor([[0.0, 5.0, 3.0]]))
>>> watch.margins, bool(watch.margins < NOISE[torch.float32])
(tensor([2.]), False)

For beams the books of the search are kept twice, because `generate` does not show them. One prompt at a time would take
1.2 to 5.8 times as long (24 prompts of 20 to 100 words, four beams, three small models on a CPU).
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

NOISE: dict[torch.dtype, float] = {torch.float32: 2.0**-12, torch.float64: 2.0**-30}
"""Margins (in logits, natural logarithm) from which on a batch cannot have changed a decision.

Measured differences between a prompt alone and in a batch stay below 4e-5 in float32 (see docs/models.md). The 16-bit
types are missing: their noise is as large as usual margins, so that nearly every answer would be generated twice.
"""

_RULED_OUT = -1.0e8
"""Beams that `generate` has ruled out score less (it subtracts 1e9)."""


class GreedyMargin(LogitsProcessor):
    """The margins of greedy decoding: the best logit minus the second best.

    Args:
        n_prompts: rows of the batch.
        eos: ids of the tokens that end an answer.  # (n_eos,)

    Attributes:
        margins: smallest difference so far per prompt; NaN where the model's logits were NaN.  # (prompts,)
    """

    def __init__(self, n_prompts: int, eos: Tensor) -> None:
        self.margins = torch.full((n_prompts,), torch.inf, device=eos.device)
        self._eos = eos
        self._open = torch.ones(n_prompts, dtype=torch.bool, device=eos.device)
        self._started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record this step's margins, from what was generated and the logits of the next token."""
        if self._started:  # Before that the last token is the prompt's.
            self._open &= ~torch.isin(input_ids[:, -1], self._eos)
        self._started = True
        best = scores.topk(2, dim=-1).values
        margins = torch.minimum(self.margins, best[:, 0] - best[:, 1])
        self.margins = torch.where(self._open, margins, self.margins)
        return scores


class BeamMargin(LogitsProcessor):
    """The margins of a beam search with ``length_penalty=1`` and ``early_stopping=False``.

    The decisions are: which candidates go on as beams; which ended ones are among the best, and so count as answers;
    whether a running beam can still win; and in the end, which answer wins. Scores of beams that share a beginning also
    share its rounding, so the noise does not grow with the length.

    Args:
        n_prompts: prompts of the batch; each has `num_beams` rows, which lie together.
        num_beams: at least 2.
        max_new_tokens: where all beams end.
        eos: ids of the tokens that end an answer.  # (n_eos,)

    Attributes:
        margins: as in `GreedyMargin`.
    """

    def __init__(self, n_prompts: int, num_beams: int, max_new_tokens: int, eos: Tensor) -> None:
        device = eos.device
        self.margins = torch.full((n_prompts,), torch.inf, device=device)
        self._n_prompts, self._num_beams, self._max_new_tokens, self._eos = n_prompts, num_beams, max_new_tokens, eos
        # `generate` considers this number of candidates, so that `num_beams` go on even if all others end.
        self._n_candidates = (1 + max(1, len(eos))) * num_beams
        self._steps = 0
        self._searching = torch.ones(n_prompts, dtype=torch.bool, device=device)
        self._finished = torch.full((n_prompts, num_beams), -torch.inf, device=device)
        # At first all beams of a prompt are equal, and only the first one counts.
        self._running = torch.full((n_prompts, num_beams), -1.0e9, device=device)
        self._running[:, 0] = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record this step's margins.

        Args:
            input_ids: prompts and what the running beams generated so far.  # (prompts * beams, length)
            scores: log-probabilities of the next token.  # (prompts * beams, vocabulary)
        """
        beams, vocabulary = self._num_beams, scores.shape[-1]
        # (prompts, beams, steps)
        generated = input_ids[:, input_ids.shape[1] - self._steps :].view(self._n_prompts, beams, self._steps)
        if self._steps:
            self._running = self._scores_of(generated)
        totals = (scores.view(self._n_prompts, beams, vocabulary) + self._running[..., None]).flatten(1)
        best, index = totals.topk(min(self._n_candidates + 1, totals.shape[1]))  # (prompts, candidates)
        self._generated, self._best = generated, best
        self._parents, self._tokens = index // vocabulary, index % vocabulary
        self._steps += 1

        ends = torch.isin(self._tokens, self._eos)
        last = self._steps == self._max_new_tokens
        if last:
            ends = torch.ones_like(ends)
        finished = torch.where(ends, best / self._steps, -torch.inf)[:, :beams]  # Only the best may finish.
        pool = torch.cat((self._finished, finished), dim=1).topk(beams).values
        running = best.masked_fill(ends, -torch.inf).sort(dim=1, descending=True).values
        hope, worst = running[:, 0] / self._steps, pool[:, -1]
        goes_on = hope > worst

        margins = torch.minimum(self.margins, _gap(hope, worst))
        if not last:  # All end there, and only the winner matters.
            margins = torch.minimum(margins, _gap(running[:, beams - 1], running[:, beams]))
            margins = torch.minimum(margins, _gap_around(best, ends, beams))
        margins = torch.where(goes_on, margins, torch.minimum(margins, _gap(pool[:, 0], pool[:, 1])))
        margins = margins.masked_fill(best[:, 0].isnan(), torch.nan)
        self.margins = torch.where(self._searching, margins, self.margins)
        self._finished = torch.where(self._searching[:, None], pool, self._finished)
        self._searching &= goes_on
        return scores

    def _scores_of(self, generated: Tensor) -> Tensor:
        """Scores of the running beams: each is one of the last step's candidates, its parent and its token.

        Args:
            generated: (prompts, beams, steps)

        Returns:
            (prompts, beams)
        """
        begin, last = generated[..., :-1], generated[..., -1]
        parents = self._parents[..., None].expand(-1, -1, begin.shape[-1])
        candidates = self._generated.gather(1, parents)  # (prompts, candidates, steps - 1)
        same = (begin[:, :, None] == candidates[:, None]).all(dim=-1) & (last[:, :, None] == self._tokens[:, None])
        return self._best[:, None].masked_fill(~same, -torch.inf).amax(dim=-1)


def _gap_around(best: Tensor, ends: Tensor, beams: int) -> Tensor:
    """How far the closest ended candidate is from the border between the best `beams` candidates and the others.

    Args:
        best: scores, descending.  # (prompts, candidates)
        ends: which of them have ended.  # (prompts, candidates)

    Returns:
        (prompts,)
    """
    inside, outside = best[:, beams, None].expand(-1, beams), best[:, beams - 1, None]
    across = torch.cat((inside, outside.expand(-1, best.shape[1] - beams)), dim=1)
    return _gap(best, across).masked_fill(~ends, torch.inf).amin(dim=1)


def _gap(first: Tensor, second: Tensor) -> Tensor:
    """Distance between two scores; infinite where one of them is ruled out."""
    valid = (first > _RULED_OUT) & (second > _RULED_OUT)
    return torch.where(valid, (first - second).abs(), torch.inf)
