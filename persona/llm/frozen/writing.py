"""Writing answers with a frozen model, a batch at a time: what may be written, where it ends, how close it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import torch
from transformers import GenerationConfig

from persona.errors import GenerationError, PersonaError, reason
from persona.llm.answers.constrained import ChoiceTrie
from persona.llm.answers.tokens import AnswerStreamer, AnswerTokens, Streamed
from persona.llm.decoding import BeamMargin, GreedyMargin
from persona.llm.frozen.beginnings import Beginning
from persona.llm.frozen.blending import Blending
from persona.llm.frozen.model import FrozenModel
from persona.llm.frozen.probe import Probe
from persona.llm.lifts import TokenLifts
from persona.protocols import GenerationOptions


class Writing:
    """Writes the tokens of answers.

    Args:
        model: the frozen model.
        probe: gives what the model was found to do, when that matters.
        read: reads the tokens.
        name: what messages call the model.

    Attributes:
        read: as given.
    """

    def __init__(self, model: FrozenModel, probe: Callable[[], Probe], read: AnswerTokens, name: str) -> None:
        self._model, self._probe, self.read, self._name = model, probe, read, name

    def batch(
        self,
        blending: Blending,
        options: GenerationOptions,
        streamed: Streamed | None = None,
        beginning: Beginning | None = None,
    ) -> tuple[list[list[int]], list[float]]:
        """Tokens of the answers, without the end token, and the margins with which they were decided.

        Args:
            blending: what is answered, and how it is blended.
            options: how to decode.
            streamed: gets the tokens of the only input while they are written.
            beginning: of all the inputs, as the model has read it.

        Raises:
            GenerationError: if the model cannot read an input, or its scores are not numbers.
            OutOfMemoryError: of torch, if the device's memory does not suffice.
        """
        inputs = blending.inputs
        soft_prompts = [each.soft_prompt for each in inputs]
        # Without a soft prompt nothing is asked of the probe.
        asks = any(each is not None for each in soft_prompts)
        stand_in: Callable[[torch.Tensor], Sequence[int]] = self._probe().stand_in if asks else lambda vectors: ()
        read = 0 if beginning is None else len(beginning.ids)
        batch = self._model.padded([each.ids[read:] for each in inputs], soft_prompts, stand_in)
        more: dict[str, Any] = {}
        if beginning is not None:
            batch, more = beginning.before(batch), {"past_key_values": beginning.rows(len(inputs) * options.num_beams)}
        rules = self._model.rules(options)
        processors, watch = self._processors(blending, options, rules)
        more["stopping_criteria"] = self.read.stopping(options, streamed)
        more["streamer"] = streamed and streamed.streamer
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

    def streamed(self, options: GenerationOptions, put: Callable[[str], None], left: Event) -> Streamed:
        """What hands over the pieces of an answer; `left` ends it."""
        return Streamed(AnswerStreamer(self.read, options, self._model.ends, put), left)

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
