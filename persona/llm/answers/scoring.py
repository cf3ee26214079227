"""Log-likelihoods of choices under a frozen LLM: a prompt is computed once, and its choices as one batch on its cache.

The numbers are those of one pass for each pair of prompt and choice, as in ``loglikelihood`` of lm-evaluation-harness
given the same tokens.

============================  =====================================================================================
decoder-only                  prompts as one batch, their cache repeated for each choice, the choices on it
decoder-only, another cache   prompt and choice as one row (caches with a state or a window cannot be repeated)
encoder-decoder               the encoder once, its states repeated for each choice, the choices in the decoder
============================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.llm.frozen.beginnings import Beginning, repeatable
from persona.llm.frozen.blending import Blend, Blending
from persona.llm.frozen.model import FrozenModel
from persona.llm.frozen.probe import Probe
from persona.llm.inputs import ModelInput, PaddedBatch
from persona.llm.lifts import lifted
from persona.protocols import GenerationOptions, Lifts, Request


class ChoiceScorer:
    """Scores the choices of prompts.

    Args:
        model: the frozen model.
        probe: what it was found to do.
        attached: while the context is open, each row of a batch has the adapter and the steering of its input.
        blend: how scores are blended with those of the plain model; None for not at all.
    """

    def __init__(
        self,
        model: FrozenModel,
        probe: Probe,
        attached: Callable[[Sequence[ModelInput]], AbstractContextManager[None]],
        blend: Blend | None = None,
    ) -> None:
        self._model, self._probe, self._attached, self._blend = model, probe, attached, blend

    def __call__(self, inputs: Sequence[ModelInput], beginning: Beginning | None = None) -> list[list[float]]:
        """Log-likelihood of each choice of each prompt, in nats.

        Args:
            inputs: what is scored, all of it with choices.
            beginning: of all the prompts, as the decoder has read it.
        """
        blending = Blending(self._blend, inputs)
        rows = _Rows.of(blending)
        if self._model.encoder_decoder:
            scores = self._in_decoder(blending.inputs, rows)
        else:
            scores = self._on_cache(blending.inputs, rows, beginning)
        score = iter(scores.tolist())
        return [[next(score) for _ in each.choices or ()] for each in inputs]

    def _on_cache(self, inputs: Sequence[ModelInput], rows: _Rows, beginning: Beginning | None) -> Tensor:
        read = 0 if beginning is None else len(beginning.ids)
        batch = self._batch([each.ids[read:] for each in inputs], inputs)
        before: dict[str, Any] = {}
        if beginning is not None:
            batch, before = beginning.seen_by(batch), {"past_key_values": beginning.rows(len(inputs))}
        with self._attached(inputs):
            output = self._model.forward(batch, keep=1, use_cache=True, **before)
        cache: Any = getattr(output, "past_key_values", None)
        if not repeatable(cache):
            return self._whole(rows)
        device = batch.mask.device
        first = output.logits[:, -1:][rows.prompts]
        scores = rows.scores(first, 0)
        if rows.longest == 1:
            return scores
        cache.batch_select_indices(rows.prompts.to(device))
        tokens, real = rows.read()
        mask = torch.cat((batch.mask[rows.prompts.to(device)], real.long().to(device)), 1)
        follow = PaddedBatch(tokens.to(device), mask, (0,) * len(tokens), [None] * len(tokens))
        with self._attached(rows.inputs):
            logits = self._model.forward(follow, use_cache=True, past_key_values=cache).logits
        return scores + rows.scores(logits, 1)

    def _whole(self, rows: _Rows) -> Tensor:
        """Prompt and choice as one row each, the last token of which is predicted and not read."""
        texts = [(*each.ids, *choice[:-1]) for each, choice in zip(rows.inputs, rows.choices, strict=True)]
        pad_left = self._probe.loss_pads_left
        batch = self._batch(texts, rows.inputs, pad_left=pad_left)
        with self._attached(rows.inputs):
            logits = self._model.forward(batch, keep=rows.longest if pad_left else 0).logits
        # Where each choice begins, counted from the row's end or from its start.
        ends = torch.full((len(texts),), logits.shape[1]) if pad_left else batch.mask.sum(1).cpu()
        begins = ends - torch.tensor([len(choice) for choice in rows.choices])
        at = (begins[:, None] + torch.arange(rows.longest)).clamp_max(logits.shape[1] - 1).to(logits.device)
        return rows.scores(logits.gather(1, at[:, :, None].expand(-1, -1, logits.shape[-1])), 0)

    def _in_decoder(self, inputs: Sequence[ModelInput], rows: _Rows) -> Tensor:
        batch = self._batch([each.ids for each in inputs], inputs)
        device = batch.mask.device
        repeated = rows.prompts.to(device)
        with self._attached(inputs):
            read = self._model.encoded(batch)
        read["last_hidden_state"] = read[0][repeated]
        written, _ = rows.read()
        decoder_ids = torch.cat((torch.full((len(written), 1), self._model.decoder_start_token), written), 1)
        with self._attached(rows.inputs):
            logits = self._model.model(
                # FSMT makes its decoder's mask only where it is given ids; no model reads them again.
                input_ids=batch.ids[repeated],
                encoder_outputs=read,
                attention_mask=batch.mask[repeated],
                decoder_input_ids=decoder_ids.to(device),
                use_cache=False,
            ).logits
        return rows.scores(logits, 0)

    def _batch(
        self, texts: Sequence[Sequence[int]], inputs: Sequence[ModelInput], *, pad_left: bool | None = None
    ) -> PaddedBatch:
        soft_prompts = [each.soft_prompt for each in inputs]
        return self._model.padded(texts, soft_prompts, pad_left=pad_left)


def scoring_options(
    requests: Sequence[Request], ids: Callable[[Sequence[str]], Sequence[Sequence[int]]]
) -> GenerationOptions:
    """What a batch of scoring takes, in terms of generation: a row for each choice, as long as the longest one.

    Args:
        requests: those whose choices are scored.
        ids: gives the token ids of answers, end tokens included.

    Raises:
        InvalidOptionError: if a request has no choices.
    """
    lengths, most = [], 0
    for index, request in enumerate(requests):
        if request.choices is None:
            raise InvalidOptionError(f"choices are scored where there are some: request {index} has none")
        lengths += [len(each) for each in ids(request.choices.texts)]
        most = max(most, len(request.choices.texts))
    return GenerationOptions(max(lengths), num_beams=most, answers="constrained")


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """One row for each choice of each prompt.

    Attributes:
        prompts: which prompt a row belongs to.  # (rows,)
        inputs: that prompt.
        choices: token ids of the row's choice.
        longest: tokens of the longest choice.
        blending: blends their scores.
    """

    prompts: Tensor
    inputs: Sequence[ModelInput]
    choices: Sequence[tuple[int, ...]]
    longest: int
    blending: Blending

    @classmethod
    def of(cls, blending: Blending) -> _Rows:
        rows = [index for index, each in enumerate(blending.inputs) for _ in each.choices or ()]
        choices = [choice for each in blending.inputs for choice in each.choices or ()]
        inputs = [blending.inputs[row] for row in rows]
        return cls(torch.tensor(rows), inputs, choices, max(map(len, choices)), blending)

    def read(self) -> tuple[Tensor, Tensor]:
        """Tokens of each choice but its last one, padded, and which are no padding.  # (rows, longest - 1), bool"""
        ids = _padded([choice[:-1] for choice in self.choices], self.longest - 1)
        return ids.clamp_min(0), ids >= 0

    def scores(self, logits: Tensor, begin: int) -> Tensor:
        """Sum of the log-probabilities of the choices' tokens from `begin` on, as far as `logits` go.

        Args:
            logits: those by which token ``begin + n`` of a choice is predicted at ``[:, n]``.  # (rows, n, vocabulary)

        Returns:
            float32; float64 of a model in float64.  # (rows,)
        """
        width = logits.shape[1]
        targets = _padded([choice[begin : begin + width] for choice in self.choices], width).to(logits.device)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        for row, (each, choice) in enumerate(zip(self.inputs, self.choices, strict=True)):
            if each.lifts:
                exact = _with_lifts(exact, row, each.lifts, choice, begin)
        exact = self.blending.mixed(exact, self.prompts)
        log_p = exact.log_softmax(-1).gather(-1, targets.clamp_min(0)[:, :, None])[:, :, 0]
        return log_p.masked_fill(targets < 0, 0).sum(1).cpu()


def _padded(texts: Sequence[Sequence[int]], width: int) -> Tensor:
    """Token ids, and -1 behind them.  # (texts, width)"""
    return torch.tensor([[*text, *[-1] * (width - len(text))] for text in texts], dtype=torch.long)


def _with_lifts(logits: Tensor, row: int, lifts: Lifts, choice: tuple[int, ...], begin: int) -> Tensor:
    """`logits` with what is added after each token of `choice`, in one row."""
    changed = logits.clone()
    for n in range(min(logits.shape[1], len(choice) - begin)):
        tokens, values = lifted(lifts, choice[: begin + n])
        changed[row, n, tokens.to(logits.device)] += values.to(logits)
    return changed
