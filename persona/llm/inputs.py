"""The input of a frozen LLM: the soft prompt is put in front of the prompt here, and nowhere else.

==================  ===============================  ==========================================
decoder-only        padding, soft prompt, prompt     `PaddedBatch`, for generation and the loss
encoder-decoder     soft prompt, prompt, padding     `PaddedBatch`, for generation and the loss
vLLM, completions   soft prompt, prompt              `embedded_prompt`, sent as `wire_format`
vLLM, chat          two parts of the first message   `message_parts`, sent as `wire_format`
==================  ===============================  ==========================================

The prompt begins with its special tokens and its chat template, so the soft prompt stands before these, too.

A transformers model is always given ids. Where a soft prompt stands the ids are *stand-ins*, and a hook on the model's
embedding layer puts the vectors in their places. So all that a model makes of ids around that layer (a scale, learned
positions, inputs for each layer, masks) it makes of a soft prompt as well, and a model whose ``generate`` takes no
embeddings takes soft prompts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from persona.errors import GenerationError
from persona.protocols import GenerationOptions, Lifts

_Key = TypeVar("_Key", bound=Hashable)
StandIn: TypeAlias = Callable[[Tensor], Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A request as the model reads it.

    Attributes:
        ids: tokens of the prompt.
        soft_prompt: vectors to stand before them, on the model's device and in its type, or None.  # (n_tokens, hidden)
        adapter: name of the adapter to compute with, or None.
        lifts: what is added to the scores of the next token, or None.
        choices: token ids of the answers that are legal, each with its end token; None where any answer is.
        steering: what is added to the hidden states behind blocks of the model, on its device and in its type, or None.
            # (hidden,) each
    """

    ids: tuple[int, ...]
    soft_prompt: Tensor | None = None
    adapter: str | None = None
    lifts: Lifts | None = None
    choices: tuple[tuple[int, ...], ...] | None = None
    steering: Mapping[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.ids) + (0 if self.soft_prompt is None else len(self.soft_prompt))


class TokenSet(Tensor):
    """A soft prompt whose tokens are a set: they share the first position and do not see one another.

    So their order changes nothing, not even by a bit of what each of them is read as. What follows them sees all of
    them, and has the positions that it has behind a soft prompt in order.
    """

    @staticmethod
    def of(vectors: Tensor) -> Tensor:
        """Vectors as a set; so are its rows and slices, also on another device.  # (..., n_tokens, hidden)"""
        return vectors.as_subclass(TokenSet)


class Batching(Enum):
    """Which requests may share a batch."""

    PADDED = "of any lengths"
    EQUAL = "of equal length"
    ALONE = "none"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds a batch.

    Attributes:
        tokens: most tokens: longest input and longest answer, times rows and beams. An input that has more alone is a
            batch of its own.
        slots: most different adapters; None for any number.
        sharing: which inputs may be in one batch.
    """

    tokens: int
    slots: int | None = None
    sharing: Batching = Batching.PADDED


def batches(inputs: Mapping[_Key, ModelInput], options: GenerationOptions, limits: BatchLimits) -> Iterator[list[_Key]]:
    """Keys of `inputs` in batches, the longest first, so that memory runs out at once if it does."""
    keys = sorted(inputs, key=lambda key: len(inputs[key]), reverse=True)
    while keys:
        longest = len(inputs[keys[0]])
        most = max(1, limits.tokens // ((longest + options.max_new_tokens) * options.num_beams))
        adapters: set[str] = set()
        size = 0
        for key in keys[: 1 if limits.sharing is Batching.ALONE else most]:
            adapters.update([name] if (name := inputs[key].adapter) is not None else [])
            if limits.slots is not None and len(adapters) > limits.slots:
                break
            if limits.sharing is Batching.EQUAL and len(inputs[key]) < longest:
                break
            size += 1
        yield keys[:size]
        keys = keys[size:]


@contextmanager
def within_memory(name: str, batch_tokens: int, inputs: Sequence[ModelInput]) -> Iterator[None]:
    """While a batch is computed: where the device's memory does not suffice, a `GenerationError` says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GenerationError(
            f"{name} ran out of memory with {len(inputs)} requests of {max(map(len, inputs))} tokens in a batch: "
            f"lower `batch_tokens`, was: {batch_tokens}"
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """Prompts of different lengths as one batch, each with its soft prompt in front.

    Attributes:
        ids: tokens of the prompts, stand-ins for the soft prompts, padding elsewhere.  # (batch, length)
        mask: 1 for prompt and soft prompt, 0 for padding; longer than `ids` if these follow others.  # (batch, length)
        starts: where each soft prompt begins, or its prompt where there is none.  # (batch,)
        soft_prompts: for each prompt its vectors, or None; they may have different lengths.  # (n_tokens, hidden)
        sets: rows and places of the soft prompts that are sets.  # row, places
    """

    ids: Tensor
    mask: Tensor
    starts: tuple[int, ...]
    soft_prompts: Sequence[Tensor | None]
    sets: tuple[tuple[int, slice], ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        soft_prompts: Sequence[Tensor | None],
        pad_token: int,
        pad_left: bool,
        device: torch.device,
    ) -> PaddedBatch:
        """Pad prompts.

        Args:
            rows: token ids, those that stand for a soft prompt first.
            soft_prompts: one or None for each.
            pad_token: id of the token to pad with.
            pad_left: whether padding comes first, as decoder-only models need it, or last.
            device: where the batch is computed.
        """
        texts, side = [torch.tensor(row, dtype=torch.long) for row in rows], "left" if pad_left else "right"
        ids = pad_sequence(texts, batch_first=True, padding_value=pad_token, padding_side=side)
        mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True, padding_side=side)
        starts = [ids.shape[1] - len(row) if pad_left else 0 for row in rows]
        given = zip(starts, soft_prompts, strict=True)
        sets = tuple(
            (row, slice(start, start + len(each)))
            for row, (start, each) in enumerate(given)
            if isinstance(each, TokenSet)
        )
        plain = [None if each is None else each.as_subclass(Tensor) for each in soft_prompts]
        return cls(ids.to(device), mask.to(device), tuple(starts), plain, sets)

    @contextmanager
    def embedded_by(self, layer: torch.nn.Module, *, once: bool) -> Iterator[None]:
        """While this is open, `layer` embeds this batch with its soft prompts, to which alone gradients flow.

        The layer's first output that is as long as the batch is the prompt's. So are later ones that are longer, of a
        model without a cache, which reads everything again at each step. Beams lie side by side.

        Args:
            layer: the model's input embeddings.
            once: whether later outputs are never the prompt's: an encoder reads it once, and a decoder with the same
                embeddings reads the answer.
        """
        given = [(row, vectors) for row, vectors in enumerate(self.soft_prompts) if vectors is not None]
        if not given:
            yield
            return
        rows = torch.tensor([row for row, vectors in given for _ in vectors])
        columns = torch.tensor([self.starts[row] + index for row, vectors in given for index in range(len(vectors))])
        soft = torch.cat([vectors for _, vectors in given])
        batch, length = self.ids.shape
        read = False

        def put(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            nonlocal read
            more = output.shape[1] - length if output.ndim == 3 and len(output) % batch == 0 else -1
            if more < 0 or (read and (once or not more)):
                return None
            read = True
            beams = len(output) // batch
            at = torch.cat([rows * beams + beam for beam in range(beams)]), columns.repeat(beams)
            device = output.device
            return output.index_put((at[0].to(device), at[1].to(device)), soft.to(output).repeat(beams, 1))

        hook = layer.register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()

    @property
    def positions(self) -> Tensor:
        """Position ids of `ids` that count from the first token that is no padding.  # (batch, length)"""
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)[:, -self.ids.shape[1] :]
        for row, places in self.sets:
            positions[row, places] = 0
        return positions

    def seen(self, dtype: torch.dtype) -> Tensor:
        """What each token sees, where soft prompts are sets: 0 what it does, the least number what not.

        Returns:
            (batch, 1, length, length)
        """
        own = torch.eye(self.ids.shape[1], dtype=torch.bool, device=self.ids.device)
        seen = own.cumsum(0).bool()[None] & self.mask[:, None].bool()  # those before, without padding
        for row, places in self.sets:
            seen[row, places] = False
        hidden = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype, device=seen.device)
        return hidden.masked_fill(seen | own, 0)[:, None]


def embedded_prompt(soft_prompt: Tensor, text: Tensor, at: int = 0) -> Tensor:
    """The embeddings of a whole prompt, as vLLM's completions endpoint takes them.

    Args:
        soft_prompt: (n_tokens, hidden)
        text: input embeddings of the prompt.  # (tokens, hidden)
        at: how many tokens of the prompt stand before the soft prompt.

    Returns:
        float32 on the CPU.  # (n_tokens + tokens, hidden)
    """
    text = text.detach().float().cpu()
    return torch.cat((text[:at], soft_prompt.detach().float().cpu(), text[at:]))


def message_parts(soft_prompt: Tensor, text: str, *, first: bool = True) -> list[dict[str, str]]:
    """The content of a message with a soft prompt before its text, or after it, as vLLM's chat endpoint takes it."""
    parts = [{"type": "prompt_embeds", "data": wire_format(soft_prompt)}, {"type": "text", "text": text}]
    return parts if first else parts[::-1]


def wire_format(vectors: Tensor) -> str:
    """A tensor as vLLM reads it: float32, `torch.save`, base64."""
    buffer = io.BytesIO()
    torch.save(vectors.detach().float().cpu().contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()
