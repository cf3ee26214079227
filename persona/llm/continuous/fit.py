"""Which models can have rows that join and leave, found by computing a few tokens and not by a model's name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from persona.llm.continuous.slots import Slots, can_join
from persona.llm.frozen.model import FrozenModel, rounding
from persona.llm.frozen.probe import ordinary_tokens, same_scores
from persona.llm.inputs import Batching, PaddedBatch
from persona.llm.transformers import TransformersLM
from persona.llm.weights.quantized import mixes_rows
from persona.protocols import GenerationOptions

_RULES = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids")


def refusal(llm: TransformersLM) -> str | None:
    """Why the model's requests are answered one after another; None if they can share a batch and come and go."""
    if llm.encoder_decoder:
        return "it reads in an encoder and writes in a decoder"
    if mixes_rows(llm.model):
        return "its quantised layers compute a row by its neighbours"
    if llm.probe.batching is not Batching.PADDED:
        return f"requests that may share a batch: {llm.probe.batching.value}"
    rules = llm.frozen.rules(GenerationOptions(1))
    if named := [name for name in _RULES if getattr(rules, name, None)]:
        return f"its generation config has {', '.join(named)}"
    with llm.computing():
        try:
            return _found(llm.frozen, ordinary_tokens(llm._tokenizer, llm.special_tokens, len(llm.frozen.embeddings)))
        except Exception as error:  # models raise whatever they like at what they cannot do
            return f"it cannot go on from a cache of rows of different lengths ({type(error).__name__})"


def _found(model: FrozenModel, tokens: list[int]) -> str | None:
    """What comes of a row that joins another one, and of one that takes the place of a row that left."""
    slots, written = Slots(), tokens[-3:]
    texts = [tokens[:7], tokens[2:5], tokens[1:6]]
    found: list[Tensor] = []
    for text in texts:
        read = model.padded([text], None, lambda vectors: ())
        cache: Any = model.forward(read, keep=1, use_cache=True).past_key_values
        if not can_join(cache):
            return "its cache holds more, or less, than the keys and values of all positions"
        slots.join(cache, read.mask)
        if len(found) == 2:
            slots.leave(0)
        mask = slots.next_mask()
        ids = torch.tensor([[written[len(found)]]] * slots.taken, device=model.device)
        step = PaddedBatch(ids, mask, (0,) * slots.taken, [None] * slots.taken)
        found.append(model.forward(step, use_cache=True, past_key_values=slots.cache).logits[:, -1])
        slots.advance()
    # After the third step the second text stands in the last slot but one, the third one in the other.
    wholes = [(*texts[0], written[0]), (*texts[1], *written[1:]), (*texts[2], written[2])]
    got = [found[0][0], found[2][1], found[2][0]]
    for whole, scores in zip(wholes, got, strict=True):
        alone = model.logits(model.padded([whole], None, lambda vectors: ()), keep=1)[0, -1]
        if not same_scores(scores, alone, rounding(model.model)):
            return "what it writes depends on when other rows joined"
    return None
