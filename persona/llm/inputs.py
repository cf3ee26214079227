"""The input of a frozen LLM: the soft prompt is put in front of the prompt here, and nowhere else.

==================  ===============================  ==========================================
decoder-only        padding, soft prompt, prompt     `PaddedBatch`, for generation and the loss
encoder-decoder     soft prompt, prompt, padding     `PaddedBatch`, for generation and the loss
vLLM, completions   soft prompt, prompt              `embedded_prompt`, sent as `wire_format`
vLLM, chat          two parts of the first message   `message_parts`, sent as `wire_format`
==================  ===============================  ==========================================

The prompt begins with its special tokens and its chat template, so the soft prompt stands before these, too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from persona.protocols import GenerationOptions, Lifts

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A request as the model reads it.

    Attributes:
        ids: tokens of the prompt.
        soft_prompt: vectors to stand before them, on the model's device and in its type, or None.  # (n_tokens, hidden)
        adapter: name of the adapter to compute with, or None.
        lifts: what is added to the scores of the next token, or None.
        choices: token ids of the answers that are legal, each with its end token; None where any answer is.
    """

    ids: tuple[int, ...]
    soft_prompt: Tensor | None = None
    adapter: str | None = None
    lifts: Lifts | None = None
    choices: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids) + (0 if self.soft_prompt is None else len(self.soft_prompt))


def batches(
    inputs: Mapping[_Key, ModelInput], options: GenerationOptions, batch_tokens: int, slots: int | None
) -> Iterator[list[_Key]]:
    """Keys of `inputs` in batches, the longest first, so that memory runs out at once if it does.

    Args:
        inputs: what is to be generated.
        options: how.
        batch_tokens: most tokens of a batch: longest input and longest answer, times rows and beams. An input that has
            more alone is a batch of its own.
        slots: most different adapters in a batch; None for any number.
    """
    keys = sorted(inputs, key=lambda key: len(inputs[key]), reverse=True)
    while keys:
        tokens = (len(inputs[keys[0]]) + options.max_new_tokens) * options.num_beams
        adapters: set[str] = set()
        size = 0
        for key in keys[: max(1, batch_tokens // tokens)]:
            adapters.update([name] if (name := inputs[key].adapter) is not None else [])
            if slots is not None and len(adapters) > slots:
                break
            size += 1
        yield keys[:size]
        keys = keys[size:]


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """Prompts of different lengths as one batch, with room for a soft prompt in front of each.

    Attributes:
        ids: tokens of the prompts; padding elsewhere.  # (batch, length)
        mask: 1 for prompt and soft prompt, 0 for padding.  # (batch, length)
        starts: where each soft prompt begins, or its prompt where there is none.  # (batch,)
        soft_prompts: for each prompt its vectors, or None; they may have different lengths.  # (n_tokens, hidden)
    """

    ids: Tensor
    mask: Tensor
    starts: tuple[int, ...]
    soft_prompts: Sequence[Tensor | None]

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        soft_prompts: Sequence[Tensor | None] | None = None,
        *,
        pad_token: int,
        pad_left: bool,
        device: torch.device,
    ) -> PaddedBatch:
        """Pad prompts.

        Args:
            prompts: token ids.
            soft_prompts: one or None for each; None for none at all.
            pad_token: id of the token to pad with.
            pad_left: whether padding comes first, as decoder-only models need it, or last.
            device: where the batch is computed.
        """
        soft_prompts = [None] * len(prompts) if soft_prompts is None else soft_prompts
        before = [0 if vectors is None else len(vectors) for vectors in soft_prompts]
        length = max(n + len(prompt) for n, prompt in zip(before, prompts, strict=True))
        ids = torch.full((len(prompts), length), pad_token, dtype=torch.long)
        mask = torch.zeros((len(prompts), length), dtype=torch.long)
        starts = []
        for row, (prompt, n) in enumerate(zip(prompts, before, strict=True)):
            start = length - n - len(prompt) if pad_left else 0
            end = start + n + len(prompt)
            ids[row, start + n : end] = torch.tensor(prompt, dtype=torch.long)
            mask[row, start:end] = 1
            starts.append(start)
        return cls(ids.to(device), mask.to(device), tuple(starts), soft_prompts)

    def embeddings(self, embed: torch.nn.Module) -> Tensor:
        """Input embeddings, soft prompts in front; these alone get a gradient where `embed` is frozen.

        Args:
            embed: the model's input embeddings.

        Returns:
            In the type of `embed`.  # (batch, length, hidden)
        """
        embeddings: Tensor = embed(self.ids)
        given = [(row, vectors) for row, vectors in enumerate(self.soft_prompts) if vectors is not None]
        if not given:
            return embeddings
        rows = [row for row, vectors in given for _ in vectors]
        columns = [self.starts[row] + index for row, vectors in given for index in range(len(vectors))]
        at = torch.tensor([rows, columns], dtype=torch.long, device=embeddings.device)
        return embeddings.index_put((at[0], at[1]), torch.cat([vectors for _, vectors in given]).to(embeddings))

    @property
    def positions(self) -> Tensor:
        """Position ids that count from the first token that is no padding.  # (batch, length)"""
        return (self.mask.cumsum(1) - 1).clamp_min(0)


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
