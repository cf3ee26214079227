"""Tokenized texts, and the batches that a sentence-transformers model gets.

>>> [batch.tolist() for batch in plan_batches([3, 9, 8, 3], budget=18)]
[[1, 2], [0, 3]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_GROUP = 256
"""Texts that are tokenized in one call: enough for the tokenizer's threads, few enough to pad together."""

_CHARACTERS_PER_TOKEN = 4
_NAMES = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class TokenizedTexts(Protocol):
    """Texts that can be split into batches.

    Attributes:
        lengths: tokens of each text, special ones included; an estimate where only the model knows.
    """

    @property
    def lengths(self) -> Sequence[int]: ...

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """The input of the model's first module, for the texts in these rows."""
        ...


def plan_batches(lengths: Sequence[int], budget: int) -> list[NDArray[np.intp]]:
    """Rows of texts, batch by batch: the longest texts first, equal ones in their order.

    A batch holds as many texts as fit: their number times the longest of them is at most `budget`, and at most an
    eighth of the budget is padding. A text that is longer than the budget is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.intp), kind="stable")
    batches = []
    start = padding = 0
    for end, row in enumerate(order):
        longest = lengths[order[start]]
        padding += longest - lengths[row]
        if end > start and ((end + 1 - start) * longest > budget or padding > budget // 8):
            batches.append(order[start:end])
            start, padding = end, 0
    if len(order):
        batches.append(order[start:])
    return batches


def tokenize(model: SentenceTransformer, texts: Sequence[str]) -> TokenizedTexts:
    """Tokenize `texts` the way `SentenceTransformer.encode` does, default prompt included."""
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    texts = [_without_surrogates(text) for text in texts]
    return _TokenRows.of(model, texts, prompt) or _Untokenized(model, texts, prompt)


class _TokenRows:
    """Texts as rows of token ids without padding; each batch is padded to its own longest."""

    def __init__(
        self, rows: list[dict[str, Tensor]], others: dict[str, Any], padding: dict[str, int], padding_side: str
    ) -> None:
        self.lengths = [len(row["attention_mask"]) for row in rows]
        self._rows = rows
        self._others = others
        self._padding = padding
        self._padding_side = padding_side

    @classmethod
    def of(cls, model: SentenceTransformer, texts: Sequence[str], prompt: str | None) -> _TokenRows | None:
        """The texts as rows; None if the model takes anything but padded rows of tokens and a mask."""
        tokenizer = getattr(model, "tokenizer", None)
        pad_id, side = getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "padding_side", None)
        if pad_id is None or side is None:
            return None
        padding = {
            "input_ids": pad_id,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
            "attention_mask": 0,
        }
        rows: list[dict[str, Tensor]] = [{}] * len(texts)
        others: dict[str, Any] = {}
        # Texts of similar length are tokenized together, so that little padding is made and removed again.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _GROUP):
            group = order[start : start + _GROUP]
            features = dict(model.preprocess([texts[row] for row in group], prompt=prompt))
            tensors = {name: features.pop(name) for name in list(features) if isinstance(features[name], Tensor)}
            mask = tensors.get("attention_mask")
            if (
                mask is None
                or not _NAMES.issuperset(tensors)
                or any(tensor.shape != mask.shape for tensor in tensors.values())
            ):
                return None
            others = features
            for row, length, *cells in zip(group, mask.sum(1).tolist(), *tensors.values(), strict=True):
                unpadded = slice(max(1, length)) if side == "right" else slice(-max(1, length), None)
                rows[row] = {name: cell[unpadded] for name, cell in zip(tensors, cells, strict=True)}
        return cls(rows, others, padding, side)

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        chosen = [self._rows[row] for row in rows]
        padded = {
            name: pad_sequence([row[name] for row in chosen], True, self._padding[name], self._padding_side)
            for name in chosen[0]
        }  # each (rows, longest)
        return {**padded, **self._others}


class _Untokenized:
    """Texts of a model with another input (static embeddings, flattened rows), tokenized batch by batch."""

    def __init__(self, model: SentenceTransformer, texts: Sequence[str], prompt: str | None) -> None:
        longest = getattr(model, "max_seq_length", None) or max(map(len, texts), default=1)
        self.lengths = [min(longest, 2 + len(text) // _CHARACTERS_PER_TOKEN) for text in texts]
        self._model = model
        self._texts = texts
        self._prompt = prompt

    def features(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return dict(self._model.preprocess([self._texts[row] for row in rows], prompt=self._prompt))


def _without_surrogates(text: str) -> str:
    """`text` with question marks for lone surrogates, as broken JSON leaves them: tokenizers refuse those."""
    return text if text.isascii() else text.encode(errors="replace").decode()
