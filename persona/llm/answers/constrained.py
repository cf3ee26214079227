"""Generation that can only write a choice: a trie over token ids as a logits processor.

>>> trie = ChoiceTrie([[(5, 2), (5, 7, 2)], None], num_beams=1)
>>> first = trie(torch.zeros(2, 3).long(), torch.zeros(2, 9))
>>> first[0].isfinite().nonzero().flatten().tolist(), bool(first[1].isfinite().all())
([5], True)
>>> trie(torch.tensor([[0, 0, 0, 5]] * 2), torch.zeros(2, 9))[0].isfinite().nonzero().flatten().tolist()
[2, 7]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from persona.errors import InvalidOptionError
from persona.protocols import GenerationOptions, Request

_Trie = dict[tuple[int, ...], list[int]]


class ChoiceTrie(LogitsProcessor):
    """A logits processor that rules out every token that continues no choice.

    Args:
        choices: for each prompt of the batch the token ids of its choices, end token included; None for a prompt that
            may write anything.
        num_beams: rows that each prompt has in the batch, side by side.
        forced: tokens that the model is made to write before an answer; they are no part of it.
    """

    def __init__(self, choices: Sequence[Sequence[Sequence[int]] | None], num_beams: int, forced: int = 0) -> None:
        self._tries = [None if each is None else _trie(each) for each in choices for _ in range(num_beams)]
        self._forced = forced
        self._begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores, -inf for all tokens that continue no choice; a row that has ended may write anything.

        Arguments and result as `LogitsProcessor` has them.  # (rows, vocabulary)
        """
        if self._begin is None:
            self._begin = input_ids.shape[1] + self._forced
        if input_ids.shape[1] < self._begin:
            return scores
        written = input_ids[:, self._begin :].tolist()
        ruled_out = torch.zeros_like(scores, dtype=torch.bool)
        for row, trie in enumerate(self._tries):
            following = None if trie is None else trie.get(tuple(written[row]))
            if following is not None:
                ruled_out[row] = True
                ruled_out[row, following] = False
        return scores.masked_fill(ruled_out, -torch.inf)


def legal_ids(
    request: Request, options: GenerationOptions, ids: Callable[[Sequence[str]], Sequence[Sequence[int]]]
) -> tuple[tuple[int, ...], ...] | None:
    """Token ids of the choices that a request is held to; None if it is held to none.

    Args:
        request: what is asked.
        options: how it is answered.
        ids: gives the token ids of answers, end tokens included.

    Raises:
        InvalidOptionError: if a choice is longer than an answer may be.
    """
    if options.answers != "constrained" or request.choices is None:
        return None
    choices = tuple(map(tuple, ids(request.choices.texts)))
    longest = max(map(len, choices))
    if longest > options.max_new_tokens:
        raise InvalidOptionError(
            f"`max_new_tokens` must be at least {longest} for these choices, was: {options.max_new_tokens}"
        )
    return choices


def _trie(choices: Sequence[Sequence[int]]) -> _Trie:
    """By the tokens that are written, those that may follow."""
    following: dict[tuple[int, ...], dict[int, None]] = {}
    for tokens in choices:
        for length, token in enumerate(tokens):
            following.setdefault(tuple(tokens[:length]), {})[token] = None
    return {start: list(tokens) for start, tokens in following.items()}
