"""The loss of a frozen LLM on the answers it should give: what a soft prompt is trained by.

>>> loss = TargetLoss(load_llm("tiny"))                                                         # doctest: +SKIP
>>> loss([prompt_ids], [target_ids], soft_prompts)                                              # doctest: +SKIP
tensor([1.31], grad_fn=...)

Only the target's tokens count, the end token among them; only the soft prompt gets a gradient. Decoder-only models are
padded on the left, so that all targets stand at the end and scores are computed for them alone; encoder-decoder models
read the prompt in the encoder, and their decoder is fed the target.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from persona.llm.inputs import PaddedBatch
from persona.llm.transformers import TransformersLM

_IGNORED = -100


class TargetLoss:
    """See the module.

    Args:
        llm: the frozen LLM. Its weights and flags are the same after a call as before.
    """

    def __init__(self, llm: TransformersLM) -> None:
        self.llm = llm
        self._embed: torch.nn.Module = llm.model.get_input_embeddings()
        self.device: torch.device = self._embed.weight.device
        takes = inspect.signature(llm.model.forward).parameters
        self._keeps_logits = "logits_to_keep" in takes
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
        with frozen(self.llm.model):
            logits, labels = (self._seq2seq if self.llm.encoder_decoder else self._causal)(
                prompts, targets, soft_prompts
            )
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
        """The model's log-probabilities at each place of each target, those before it given.

        Args:
            prompts: as above, as are the others.

        Returns:
            float32.  # per pair: (tokens of the target, vocabulary)
        """
        with frozen(self.llm.model):
            logits, labels = (self._seq2seq if self.llm.encoder_decoder else self._causal)(
                prompts, targets, soft_prompts
            )
        return [row[label != _IGNORED].float().log_softmax(-1) for row, label in zip(logits, labels, strict=True)]

    def _causal(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of the targets.  # (batch, longest target, vocabulary), (batch, longest target)"""
        # The last token of a target is predicted, not read.
        rows = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        batch = self._padded(rows, soft_prompts)
        longest = max(map(len, targets))
        labels = torch.full((len(targets), longest), _IGNORED)
        for row, target in enumerate(targets):
            labels[row, longest - len(target) :] = torch.tensor(target)
        arguments: dict[str, Any] = {"inputs_embeds": batch.embeddings(self._embed), "attention_mask": batch.mask}
        if self._takes_positions:
            arguments["position_ids"] = batch.positions
        if self._keeps_logits:
            arguments["logits_to_keep"] = longest
        logits = self.llm.model(**arguments, use_cache=False).logits[:, -longest:]
        return logits, labels.to(self.device)

    def _seq2seq(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], soft_prompts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        batch = self._padded(prompts, soft_prompts)
        longest = max(map(len, targets))
        labels = torch.full((len(targets), longest), _IGNORED)
        read = torch.full((len(targets), longest), self.llm.pad_token)
        read[:, 0] = self.llm.decoder_start_token
        for row, target in enumerate(targets):
            labels[row, : len(target)] = torch.tensor(target)
            read[row, 1 : len(target)] = torch.tensor(target[:-1], dtype=torch.long)
        output = self.llm.model(
            inputs_embeds=batch.embeddings(self._embed),
            attention_mask=batch.mask,
            decoder_input_ids=read.to(self.device),
            use_cache=False,
        )
        return output.logits, labels.to(self.device)

    def _padded(self, rows: Sequence[Sequence[int]], soft_prompts: Tensor | None) -> PaddedBatch:
        return PaddedBatch.of(
            rows,
            None if soft_prompts is None else list(soft_prompts),
            pad_token=self.llm.pad_token,
            pad_left=not self.llm.encoder_decoder,
            device=self.device,
        )


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """No dropout and no gradients of weights within; every flag is back afterwards."""
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for module in training:
        module.training = False
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
