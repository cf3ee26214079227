"""Batches for a sentence-transformers model: texts as tokens, sorted by length, several batches at a time on a CPU.

>>> [batch.tolist() for batch in plan_batches([3, 9, 8, 3], budget=18)]
[[1, 2], [0, 3]]

torch splits one batch over all cores, which wait for one another after every operation. With many small batches it is
faster to give each core its own batch; its numbers then depend neither on the number of cores nor on that of workers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_GROUP = 256
"""Texts that are tokenized in one call: enough for the tokenizer's threads, few enough to be padded together."""

_PADDED = {"input_ids": "pad_token_id", "token_type_ids": "pad_token_type_id", "attention_mask": None}
"""What a row of a batch may hold, and the attribute of the tokenizer that says what it is padded with."""

_SETTING_UP = threading.Lock()


def plan_batches(lengths: Sequence[int], budget: int) -> list[NDArray[np.intp]]:
    """Row numbers of texts, batch by batch: the longest texts first, equal ones in their order.

    A batch holds as many texts as fit: their number times the longest of them is at most `budget`, and at most an
    eighth of the budget is padding. A text that is longer than the budget is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.intp), kind="stable")
    batches = []
    start = padding = 0
    for position, row in enumerate(order):
        longest = lengths[order[start]]
        padding += longest - lengths[row]
        if position > start and ((position + 1 - start) * longest > budget or padding > budget // 8):
            batches.append(order[start:position])
            start, padding = position, 0
    if len(order):
        batches.append(order[start:])
    return batches


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedTexts:
    """Texts as rows of token ids without padding; each batch is padded to its own longest.

    Attributes:
        rows: of each text, by the name of the model's input.  # each (tokens,)
        others: inputs that are the same for all texts.
        padding: what each input is padded with.
        padding_side: ``"left"`` or ``"right"``.
    """

    rows: Sequence[dict[str, Tensor]]
    others: dict[str, Any]
    padding: dict[str, int]
    padding_side: str

    @classmethod
    def of(cls, model: SentenceTransformer, texts: Sequence[str]) -> TokenizedTexts | None:
        """Tokenize `texts` as `SentenceTransformer.encode` does, default prompt included.

        Returns:
            None if the model takes anything else than padded rows of tokens and a mask (static embeddings, images).
        """
        tokenizer = getattr(model, "tokenizer", None)
        side = getattr(tokenizer, "padding_side", None)
        if getattr(tokenizer, "pad_token_id", None) is None or side is None:
            return None
        prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
        rows: list[dict[str, Tensor]] = [{}] * len(texts)
        others: dict[str, Any] = {}
        # Neighbours in length are tokenized together, so that little padding is made only to be cut off again.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _GROUP):
            group = order[start : start + _GROUP]
            others = dict(model.preprocess([texts[row] for row in group], prompt=prompt))
            tensors = {name: others.pop(name) for name in list(others) if isinstance(others[name], Tensor)}
            mask = tensors.get("attention_mask")
            if mask is None or not tensors.keys() <= _PADDED.keys():
                return None
            if any(tensor.shape != mask.shape for tensor in tensors.values()):
                return None
            for row, length, *cells in zip(group, mask.sum(1).tolist(), *tensors.values(), strict=True):
                real = slice(max(1, length)) if side == "right" else slice(-max(1, length), None)
                rows[row] = {name: cell[real] for name, cell in zip(tensors, cells, strict=True)}
        padding = {name: getattr(tokenizer, attribute, 0) if attribute else 0 for name, attribute in _PADDED.items()}
        return cls(rows, others, padding, side)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text, special ones included."""
        return [len(row["attention_mask"]) for row in self.rows]

    def features(self, rows: NDArray[np.intp], device: torch.device) -> dict[str, Any]:
        """What the model's first module takes, for some texts."""
        chosen = [self.rows[row] for row in rows]
        padded = {
            name: pad_sequence([row[name] for row in chosen], True, self.padding[name], self.padding_side).to(device)
            for name in chosen[0]
        }  # each (rows, longest)
        return {**padded, **self.others}


@contextmanager
def one_thread_workers(count: int) -> Iterator[Executor]:
    """So many workers in which torch uses one thread; an error or Ctrl-C in the block cancels pending calls."""
    workers = ThreadPoolExecutor(count, thread_name_prefix="persona-encoder")
    try:
        with _SETTING_UP:
            own = torch.get_num_threads()
            ready = threading.Barrier(count)  # without it one worker could take two of the calls
            try:
                for setting in [workers.submit(_use_one_thread, ready) for _ in range(count)]:
                    setting.result()
            finally:
                # A worker's call also sets the number for threads that use torch for the first time later.
                torch.set_num_threads(own)
        yield workers
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _use_one_thread(ready: threading.Barrier) -> None:
    torch.get_num_threads()  # The first call sets a thread's number to the common one: it must not come later.
    torch.set_num_threads(1)
    ready.wait()
