"""The loss of a frozen LLM on the answers it should give: what soft prompts and adapters are trained by.

>>> from persona.llm.load import load_llm
>>> llm = load_llm("tiny")
>>> prompts, targets = llm.prompt_ids(["A film? ", "A book? "]), llm.target_ids(["4", "a tale"])
>>> TargetLoss(llm)(prompts, targets, soft_prompts=torch.zeros(2, 3, llm.hidden_size)).shape
torch.Size([2])

Only the target's tokens count, the end token among them. Decoder-only models read prompt and target in one row, padded
on the left, so that all targets stand at the end and scores are computed for them alone; on the right where padding
before a text changes it. Encoder-decoder models read the prompt in the encoder, and their decoder is fed the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from persona.errors import UnsupportedChannelError
from persona.llm.checkpoint import frozen
from persona.llm.frozen.steering import Steered
from persona.llm.transformers import TransformersLM

_IGNORED = -100


class TargetLoss:
    """The negative log-likelihood of answers, given prompts and soft prompts.

    Args:
        llm: the frozen LLM. Its weights and flags are the same after a call as before.

    Raises:
        UnsupportedChannelError: if the LLM's scores of an answer are not those that it writes the answer with, or
            depend on what else is in a batch.
    """

    def __init__(self, llm: TransformersLM) -> None:
        if (refusal := llm.probe.loss_refusal) is not None:
            raise UnsupportedChannelError(f"{llm.name} cannot be trained with: {refusal}")
        self.llm = llm
        self._model = llm.frozen
        self.device: torch.device = llm.frozen.device

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        soft_prompts: Tensor | None = None,
        steering: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood per target token, in nats, of each pair.

        Args:
            prompts: token ids of the prompts (`TransformersLM.prompt_ids`).
            targets: token ids of the answers, end token included (`TransformersLM.target_ids`).
            soft_prompts: to stand before the prompts; None for none.  # (batch, n_tokens, llm_hidden)
            steering: to add behind blocks of the LLM, to which gradients flow as well.  # (batch, llm_hidden) each

        Returns:
            float32; float64 of a model in float64.  # (batch,)
        """
        logits, labels = self._scored(prompts, targets, soft_prompts, steering)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        each = F.cross_entropy(exact.transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none")
        return each.sum(1) / (labels != _IGNORED).sum(1)

    @torch.no_grad()
    def log_probabilities(self, *pairs: Any) -> list[Tensor]:
        """Log-probabilities of every token at each place of each target, given the target so far.

        Args:
            pairs: the arguments of `__call__`.

        Returns:
            float32.  # per pair: (tokens of the target, vocabulary)
        """
        logits, labels = self._scored(*pairs)
        return [row[label != _IGNORED].float().log_softmax(-1) for row, label in zip(logits, labels, strict=True)]

    def divergences(self, expected: Sequence[Tensor], *pairs: Any) -> Tensor:
        """Mean KL divergence of the LLM's next tokens from others, over each target's tokens, in nats.

        Args:
            expected: the others (`log_probabilities`).  # per pair: (tokens of the target, vocabulary)
            pairs: the arguments of `__call__`.

        Returns:
            float32.  # (batch,)
        """
        logits, labels = self._scored(*pairs)
        each = [
            F.kl_div(row[label != _IGNORED].float().log_softmax(-1), other, log_target=True, reduction="batchmean")
            for row, label, other in zip(logits, labels, expected, strict=True)
        ]
        return torch.stack(each)

    def _scored(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        soft_prompts: Tensor | None = None,
        steering: Mapping[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of the targets.  # (batch, longest target, vocabulary), (batch, longest target)"""
        scored = self._seq2seq if self.llm.encoder_decoder else self._causal
        rows = [{block: each[row] for block, each in (steering or {}).items()} for row in range(len(prompts))]
        with frozen(self.llm.model), Steered(self._model.blocks, rows):
            return scored(prompts, targets, None if soft_prompts is None else list(soft_prompts))

    def _causal(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        # The last token of a target is predicted, not read.
        rows = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        pad_left = self.llm.probe.loss_pads_left
        batch = self._model.padded(rows, soft_prompts, pad_left=pad_left)
        labels = _padded(targets, _IGNORED, "left")
        longest = labels.shape[1]
        logits = self._model.logits(batch, keep=longest if pad_left else 0)
        if not pad_left:
            # A target's scores end where its row does; what comes before a shorter target is ignored.
            places = batch.mask.sum(1)[:, None] + torch.arange(-longest, 0, device=logits.device)
            logits = logits.gather(1, places.clamp_min(0)[..., None].expand(-1, -1, logits.shape[2]))
        return logits[:, -longest:], labels.to(self.device)

    def _seq2seq(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        labels, start = _padded(targets, _IGNORED, "right"), self._model.decoder_start_token
        written = _padded([[start, *target[:-1]] for target in targets], self.llm.pad_token, "right")
        logits = self._model.logits(self._model.padded(prompts, soft_prompts, pad_left=False), written.to(self.device))
        return logits, labels.to(self.device)


def _padded(rows: Sequence[Sequence[int]], value: int, side: str) -> Tensor:
    """Rows of tokens, filled up on one side.  # (rows, longest)"""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value, padding_side=side)
