"""How long a text is in an LLM's own unit: tokenizers behind `persona.protocols.TextTokenizer`.

>>> tokenizer = WhitespaceTokenizer()
>>> tokenizer.count("Moody and stylish."), tokenizer.truncate("Moody and stylish.", 3)
(4, 'Moody and')

`HuggingFaceTokenizer` measures for models that are loaded here; `WhitespaceTokenizer` estimates for those
that are reached over a wire and do not tell how they cut a text.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_KEPT = 2**13
_SPLITS_KEPT = 2**6


class WhitespaceTokenizer:
    """Words between white space, and one end token after every text.

    English has about three words to four tokens of a usual LLM, so a budget in this unit is about three
    quarters of what it says.
    """

    def count(self, text: str) -> int:
        """Number of words of `text`, plus 1 for the end token."""
        return len(text.split()) + 1

    def truncate(self, text: str, max_tokens: int) -> str:
        """The first ``max_tokens - 1`` words of `text`, with a blank between them.

        Raises:
            ValueError: if `max_tokens` is negative.
        """
        _check_length(max_tokens)
        return " ".join(text.split()[: max(max_tokens - 1, 0)])

    def __repr__(self) -> str:
        return "WhitespaceTokenizer()"


class HuggingFaceTokenizer:
    """A tokenizer of transformers.

    The same records are measured and cut for thousands of questions, so the answers for the last few thousand
    texts are kept. The wrapped tokenizer is never asked to truncate: that would change it for the time of the
    call, and an LLM in another thread may be using it.

    Args:
        tokenizer: e.g. of ``AutoTokenizer.from_pretrained``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._n_special = int(tokenizer.num_special_tokens_to_add())
        self._split = lru_cache(_SPLITS_KEPT)(self._split_anew)
        self._count = lru_cache(_TEXTS_KEPT)(self._count_anew)
        self._truncate = lru_cache(_TEXTS_KEPT)(self._truncate_anew)

    def count(self, text: str) -> int:
        """Number of tokens of `text`, with the special ones that the tokenizer puts around it."""
        return self._count(text)

    def truncate(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` in at most `max_tokens` tokens, special ones counted, decoded without them.

        As in LaMP's own code a text that fits is decoded too, so that it comes back as the tokenizer sees it
        (lower-cased by an uncased one).

        Raises:
            ValueError: if `max_tokens` is negative.
        """
        _check_length(max_tokens)
        # A limit beyond the text's own length is the same question.
        return self._truncate(text, min(max_tokens, self._count(text)))

    def _split_anew(self, text: str) -> tuple[int, ...]:
        # Not verbose: a history may be longer than the model's input, which is why it is measured.
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return tuple(encoded["input_ids"])

    def _count_anew(self, text: str) -> int:
        return len(self._split(text)) + self._n_special

    def _truncate_anew(self, text: str, max_tokens: int) -> str:
        kept = self._split(text)[: max(max_tokens - self._n_special, 0)]
        decoded = self._tokenizer.decode(list(kept), skip_special_tokens=True)
        assert isinstance(decoded, str)
        return decoded

    def __repr__(self) -> str:
        return f"HuggingFaceTokenizer({type(self._tokenizer).__name__})"


def _check_length(max_tokens: int) -> None:
    if max_tokens < 0:
        raise ValueError(f"`max_tokens` must be at least 0, was: {max_tokens}")
