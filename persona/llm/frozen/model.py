"""A frozen model of transformers: ids and soft prompts go in, tokens or scores come out.

`generate` and the loss feed it here in one way, so an adapter or a user embedder is trained by the very scores that
answers are written with.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor

from persona.errors import GenerationError, ModelLoadError
from persona.llm.frozen.beginnings import Beginning, repeatable
from persona.llm.frozen.steering import blocks
from persona.llm.inputs import PaddedBatch, StandIn
from persona.llm.weights.quantized import mixes_rows
from persona.protocols import GenerationOptions

_TOKEN_RULES = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)


_SETS = "it is for decoder-only models that are told positions and keep keys and values, as Llama's"


class FrozenModel:
    """A model that generates, its tokens and its input embeddings.

    Args:
        model: of transformers, decoder-only or encoder-decoder.
        tokenizer: the model's.

    Attributes:
        ends: ids of the tokens that end an answer, the model's and the tokenizer's.
        pad_token: id of the token that fills up a batch.
        layer: the module that embeds the ids of a prompt.
        encoder_decoder: whether the model reads in an encoder and writes in a decoder.
        blocks: those that write (`persona.llm.frozen.steering.blocks`).
        stand_in: gives the ids that stand where a soft prompt stands.

    Raises:
        ModelLoadError: if no module embeds ids one by one.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        own = model.generation_config.eos_token_id
        ends = [own] if isinstance(own, int) else list(own or ())
        ends += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.ends = tuple(dict.fromkeys(ends))
        pads = (tokenizer.pad_token_id, model.generation_config.pad_token_id, *ends, 0)
        self.pad_token: int = next(pad for pad in pads if pad is not None)
        self.encoder_decoder = bool(model.config.is_encoder_decoder)
        self.layer: Any = input_layer(model)
        self.blocks = blocks(model)
        self.stand_in: StandIn = lambda vectors: [self.pad_token] * len(vectors)
        self._kept: list[tuple[nn.Module, str, Tensor | None]] | None = None
        takes = inspect.signature(model.forward).parameters
        self._takes_logits_to_keep = "logits_to_keep" in takes
        self._takes_positions = "position_ids" in takes

    @property
    def embeddings(self) -> Tensor:
        """The weights of `layer`.  # (tokens, hidden)"""
        weight: Any = self.layer.weight
        return cast(Tensor, weight)

    @property
    def device(self) -> torch.device:
        """Where ids go."""
        return self.embeddings.device

    @property
    def positions(self) -> tuple[int | None, int | None]:
        """How many positions there are to read and to write, which decoder-only models share; None for any number."""
        if self.encoder_decoder:
            parts = {"encoder": self.model.get_encoder(), "decoder": self.model.get_decoder()}
            # FSMT's parts have no config of their own.
            configs = {name: getattr(part, "config", self.model.config) for name, part in parts.items()}
            return _positions(configs["encoder"], "encoder"), _positions(configs["decoder"], "decoder")
        shared = _positions(self.model.config.get_text_config(), "decoder")
        return shared, shared

    @property
    def decoder_start_token(self) -> int:
        """Id of the token that an encoder-decoder model's answer starts with.

        Raises:
            ModelLoadError: if the model names none.
        """
        configs = (self.model.generation_config, self.model.config)
        starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
        start = next((start for start in starts if start is not None), None)
        if start is None:
            raise ModelLoadError(
                f"a {type(self.model).__name__} names no `decoder_start_token_id`, which an encoder-decoder needs"
            )
        return int(start)

    def padded(
        self,
        ids: Sequence[Sequence[int]],
        soft_prompts: Sequence[Tensor | None] | None = None,
        stand_in: StandIn | None = None,
        *,
        pad_left: bool | None = None,
    ) -> PaddedBatch:
        """Prompts and soft prompts as one batch; padded in front if the model is decoder-only, or as told."""
        given = [None] * len(ids) if soft_prompts is None else soft_prompts
        before = [() if each is None else (stand_in or self.stand_in)(each) for each in given]
        rows = [[*places, *text] for places, text in zip(before, ids, strict=True)]
        pad_left = not self.encoder_decoder if pad_left is None else pad_left
        return PaddedBatch.of(rows, given, self.pad_token, pad_left, self.device)

    def rules(self, options: GenerationOptions, **more: Any) -> GenerationConfig:
        """How ``generate`` is to decode: of the model's own rules those about tokens are kept."""
        own = self.model.generation_config
        make: Any = GenerationConfig
        config: GenerationConfig = make(
            **{name: getattr(own, name, None) for name in _TOKEN_RULES},
            eos_token_id=list(self.ends) or None,
            pad_token_id=self.pad_token,
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            do_sample=False,
            **more,
        )
        return config

    def generate(
        self, batch: PaddedBatch, rules: GenerationConfig, processors: Sequence[LogitsProcessor], **more: Any
    ) -> Any:
        """The output of the model's own ``generate``: answers after their prompts, or after a decoder's start token."""
        # A second handle on the same weights, so that the user's model keeps its own generation config and
        # `generate` finds nothing there to mix into ours.
        handle = copy.copy(self.model)
        handle.generation_config = rules
        with self._without_memory(), batch.embedded_by(self.layer, once=self.encoder_decoder):
            if batch.sets:
                more["past_key_values"] = self._read(batch, rules.num_beams or 1)
            return handle.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                generation_config=rules,
                logits_processor=list(processors),
                **more,
            )

    @contextmanager
    def _without_memory(self) -> Iterator[None]:
        """Before a batch is generated: what a module kept of an earlier one is what it was before any.

        RecurrentGemma has its state in its modules, and would read a prompt of one token as if it went on with the
        last request. What is kept is found when the first batch is generated.
        """
        if self._kept is not None:
            for module, name, value in self._kept:
                setattr(module, name, value)
            yield
            return
        before = list(_held(self.model))
        yield
        self._kept = [(module, name, value) for module, name, value in before if vars(module)[name] is not value]

    def forward(self, batch: PaddedBatch, *, keep: int = 0, use_cache: bool = False, **more: Any) -> Any:
        """What the model gives for a batch in one pass.

        Args:
            batch: what it reads.
            keep: of a decoder-only model's scores at least this number from the end; 0 for all.
            use_cache: whether it hands out its cache.
            **more: further arguments, such as a cache that the batch's ids come after.
        """
        arguments: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": use_cache}
        if self._takes_positions and not self.encoder_decoder:
            arguments["position_ids"] = batch.positions
        if batch.sets:
            self._check_sets()
            arguments["attention_mask"] = batch.seen(self.model.dtype)
        if keep and self._takes_logits_to_keep:
            arguments["logits_to_keep"] = keep
        with batch.embedded_by(self.layer, once=self.encoder_decoder):
            return self.model(**arguments, **more)

    def _read(self, batch: PaddedBatch, beams: int) -> Any:
        """The cache of all but the last token, since ``generate`` lets tokens see what they would not of a set."""
        ahead = replace(batch, ids=batch.ids[:, :-1], mask=batch.mask[:, :-1])
        cache: Any = getattr(self.forward(ahead, keep=1, use_cache=True), "past_key_values", None)
        self._check_sets(repeatable(cache))
        cache.batch_repeat_interleave(beams)
        return cache

    def _check_sets(self, keeps: bool = True) -> None:
        if self.encoder_decoder or not self._takes_positions or not keeps:
            raise GenerationError(f"a {type(self.model).__name__} takes no soft prompt that is a set: {_SETS}")

    def beginning(self, ids: Sequence[int]) -> Beginning | None:
        """What decoder-only prompts begin with, read once; None where the model's cache cannot be repeated."""
        batch = self.padded([ids])
        cache = getattr(self.forward(batch, keep=1, use_cache=True), "past_key_values", None)
        return Beginning(tuple(ids), cache) if repeatable(cache) else None

    def encoded(self, batch: PaddedBatch) -> Any:
        """The encoder's output, its last states first.  # (batch, length, hidden)"""
        if batch.sets:
            self._check_sets()
        with batch.embedded_by(self.layer, once=True):
            return self.model.get_encoder()(input_ids=batch.ids, attention_mask=batch.mask, return_dict=True)

    def logits(self, batch: PaddedBatch, written: Tensor | None = None, *, keep: int = 0) -> Tensor:
        """The scores of the token behind each token, in one pass.

        Args:
            batch: what the model reads.
            written: what an encoder-decoder's decoder reads, its start token first.  # (batch, length)
            keep: see `forward`.

        Returns:
            (batch, length, vocabulary)
        """
        more: dict[str, Any] = {} if written is None else {"decoder_input_ids": written}
        logits: Tensor = self.forward(batch, keep=keep, **more).logits
        return logits


def unwrapped(model: Any) -> Any:
    """The model of transformers in a PEFT model, or `model` itself.

    Raises:
        ModelLoadError: if it does not generate text, or is a prompt-tuned PEFT model.
    """
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            raise ModelLoadError("a prompt-tuned PEFT model is not taken: pass its base model, and soft prompts to it")
        model = model.get_base_model()
    if not hasattr(model, "generate") or not hasattr(model, "generation_config"):
        raise ModelLoadError(
            f"a {type(model).__name__} generates no text: take a causal or sequence-to-sequence language model"
        )
    return model


def input_layer(model: Any) -> nn.Module:
    """The module that embeds the ids of a prompt: of an encoder-decoder its encoder's.

    Raises:
        ModelLoadError: if there is none.
    """
    layer = model.get_input_embeddings()
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()
        # Some encoders have a module of their own, with the same weights.
        own = encoder.get_input_embeddings() if hasattr(encoder, "get_input_embeddings") else None
        layer = layer if own is None else own
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise ModelLoadError(f"a {type(model).__name__} embeds no text: take a language model that reads text alone")
    return cast(nn.Module, layer)


def rounding(model: Any) -> float:
    """By how much of themselves numbers in a model may differ when they are computed in another order."""
    if mixes_rows(model):
        return 0.3
    return float(max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5)


def _held(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor | None]]:
    """Tensors that modules hold besides their parameters and buffers, and where there could be some."""
    for module in model.modules():
        for name, value in vars(module).items():
            if value is None or isinstance(value, Tensor):
                yield module, name, value


def _positions(config: Any, part: str) -> int | None:
    """How many positions the encoder or decoder of a model has; None where they are relative."""
    names = ("max_position_embeddings", f"max_{part}_position_embeddings", "max_seq_len")  # LED; MPT
    positions = (getattr(config, name, None) for name in names)
    return next((int(number) for number in positions if number is not None and number > 0), None)
