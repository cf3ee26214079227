"""Writing answers with a frozen model, a batch at a time: what may be written, where it ends, how close it was."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from persona.errors import GenerationError, PersonaError, reason
from persona.llm.answers.constrained import ChoiceTrie
from persona.llm.answers.tokens import AnswerStreamer, AnswerTokens
from persona.llm.decoding import BeamMargin, GreedyMargin
from persona.llm.frozen.beginnings import Beginning
from persona.llm.frozen.blending import Blending
from persona.llm.frozen.model import FrozenModel
from persona.llm.lifts import TokenLifts
from persona.protocols import GenerationOptions


class Writing:
    """Writes the tokens of answers.

    Args:
        model: the frozen model.
        read: reads the tokens.
        name: what messages call the model.

    Attributes:
        read: as given.
    """

    def __init__(self, model: FrozenModel, read: AnswerTokens, name: str) -> None:
        self._model, self.read, self._name = model, read, name

    def batch(
        self,
        blending: Blending,
        options: GenerationOptions,
        streamer: AnswerStreamer | None = None,
        beginning: Beginning | None = None,
    ) -> tuple[list[list[int]], list[float]]:
        """Tokens of the answers, without the end token, and the margins with which they were decided.

        Args:
            blending: what is answered, and how it is blended.
            options: how to decode.
            streamer: gets the tokens of the only input while they are written.
            beginning: of all the inputs, as the model has read it.

        Raises:
            GenerationError: if the model cannot read an input, or its scores are not numbers.
            OutOfMemoryError: of torch, if the device's memory does not suffice.
        """
        inputs = blending.inputs
        read = 0 if beginning is None else len(beginning.ids)
        batch = self._model.padded([each.ids[read:] for each in inputs], [each.soft_prompt for each in inputs])
        more: dict[str, Any] = {}
        if beginning is not None:
            batch, more = beginning.before(batch), {"past_key_values": beginning.rows(len(inputs) * options.num_beams)}
        rules = self._model.rules(options)
        processors, watch = self._processors(blending, options, rules)
        more |= {"stopping_criteria": self.read.stopping(options, streamer), "streamer": streamer}
        try:
            output = self._model.generate(batch, rules, processors, **more)
        except (torch.OutOfMemoryError, PersonaError):
            raise
        except Exception as error:  # models raise whatever they like at inputs that they cannot read
            raise GenerationError(f"{self._name} cannot answer: {reason(error)}") from error
        margins: list[float] = watch.margins.tolist()
        if any(margin != margin for margin in margins):
            dtype = self._model.model.dtype
            exact = dtype in (torch.float32, torch.float64)
            hint = "its weights, or an adapter's, are broken or far too large" if exact else "load it in float32"
            raise GenerationError(f"{self._name} computed scores that are not numbers in {dtype}: {hint}")
        # The output starts with a decoder's start token, or with the prompt.
        start = 1 if self._model.encoder_decoder else batch.ids.shape[1]
        return [self._until_end(row) for row in output[: blending.count, start:].tolist()], margins[: blending.count]

    def _processors(
        self, blending: Blending, options: GenerationOptions, rules: GenerationConfig
    ) -> tuple[list[Any], GreedyMargin | BeamMargin]:
        """The logits processors of a batch; the watch over margins is the last, and sees the scores that decide."""
        inputs = blending.inputs
        eos = torch.tensor(self._model.ends, dtype=torch.long, device=self._model.device)
        forced = int(self._model.encoder_decoder and getattr(rules, "forced_bos_token_id", None) is not None)
        processors: list[Any] = []
        if any(bool(each.lifts) for each in inputs):
            processors.append(TokenLifts([each.lifts for each in inputs], options.num_beams, forced))
        if blending:
            processors.append(blending)
        if any(each.choices is not None for each in inputs):
            processors.append(ChoiceTrie([each.choices for each in inputs], options.num_beams, forced))
        watch = (
            GreedyMargin(len(inputs), eos)
            if options.num_beams == 1
            else BeamMargin(len(inputs), options.num_beams, options.max_new_tokens, eos)
        )
        return [*processors, watch], watch

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = next((index for index, token in enumerate(tokens) if token in self._model.ends), len(tokens))
        return tokens[:end]
