"""The loss of a frozen LLM on the answers it should give: what soft prompts and adapters are trained by.

>>> from persona.llm.load import load_llm
>>> llm = load_llm("tiny")
>>> prompts, targets = llm.prompt_ids(["A film? ", "A book? "]), llm.target_ids(["4", "a tale"])
>>> TargetLoss(llm)(prompts, targets, soft_prompts=torch.zeros(2, 3, llm.hidden_size)).shape
torch.Size([2])

Only the target's tokens count, the end token among them. Decoder-only models read prompt and target in one row, padded
on the left, so that all targets stand at the end and scores are computed for them alone. Encoder-decoder models read
the prompt in the encoder, and their decoder is fed the target.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.llm.checkpoint import frozen
from persona.llm.transformers import TransformersLM

_IGNORED = -100


class TargetLoss:
    """The negative log-likelihood of answers, given prompts and soft prompts.

    Args:
        llm: the frozen LLM. Its weights and flags are the same after a call as before.
    """

    def __init__(self, llm: TransformersLM) -> None:
        self.llm = llm
        self._embed: torch.nn.Module = llm.model.get_input_embeddings()
        self.device: torch.device = self._embed.weight.device
        takes = inspect.signature(llm.model.forward).parameters
        self._takes_logits_to_keep = "logits_to_keep" in takes
        self._takes_positions = "position_ids" in takes

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        soft_prompts: Tensor | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood per target token, in nats, of each pair.

        Args:
            prompts: token ids of the prompts (`TransformersLM.prompt_ids`).
            targets: token ids of the answers, end token included (`TransformersLM.target_ids`).
            soft_prompts: to stand before the prompts; None for none.  # (batch, n_tokens, llm_hidden)

        Returns:
            float32; float64 of a model in float64.  # (batch,)
        """
        logits, labels = self._scored(prompts, targets, None if soft_prompts is None else list(soft_prompts))
        exact = logits if logits.dtype == torch.float64 else logits.float()
        each = F.cross_entropy(exact.transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none")
        return each.sum(1) / (labels != _IGNORED).sum(1)

    @torch.no_grad()
    def log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        soft_prompts: Tensor | None = None,
    ) -> list[Tensor]:
        """Log-probabilities of every token at each place of each target, given the target so far.

        Args:
            prompts: as above, as are the others.

        Returns:
            float32.  # per pair: (tokens of the target, vocabulary)
        """
        logits, labels = self._scored(prompts, targets, None if soft_prompts is None else list(soft_prompts))
        return [row[label != _IGNORED].float().log_softmax(-1) for row, label in zip(logits, labels, strict=True)]

    def _scored(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of the targets.  # (batch, longest target, vocabulary), (batch, longest target)"""
        scored = self._seq2seq if self.llm.encoder_decoder else self._causal
        with frozen(self.llm.model):
            return scored(prompts, targets, soft_prompts)

    def _causal(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        # The last token of a target is predicted, not read.
        rows = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        batch = self.llm.padded(rows, soft_prompts)
        longest = max(map(len, targets))
        labels = torch.full((len(targets), longest), _IGNORED)
        for row, target in enumerate(targets):
            labels[row, longest - len(target) :] = torch.tensor(target)
        arguments: dict[str, Any] = {"inputs_embeds": batch.embeddings(self._embed), "attention_mask": batch.mask}
        if self._takes_positions:
            arguments["position_ids"] = batch.positions
        if self._takes_logits_to_keep:
            arguments["logits_to_keep"] = longest
        logits = self.llm.model(**arguments, use_cache=False).logits[:, -longest:]
        return logits, labels.to(self.device)

    def _seq2seq(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        batch = self.llm.padded(prompts, soft_prompts)
        longest = max(map(len, targets))
        labels = torch.full((len(targets), longest), _IGNORED)
        decoder_ids = torch.full((len(targets), longest), self.llm.pad_token)
        decoder_ids[:, 0] = self.llm.decoder_start_token
        for row, target in enumerate(targets):
            labels[row, : len(target)] = torch.tensor(target)
            decoder_ids[row, 1 : len(target)] = torch.tensor(target[:-1], dtype=torch.long)
        output = self.llm.model(
            inputs_embeds=batch.embeddings(self._embed),
            attention_mask=batch.mask,
            decoder_input_ids=decoder_ids.to(self.device),
            use_cache=False,
        )
        return output.logits, labels.to(self.device)
