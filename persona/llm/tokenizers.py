"""Text in tokens: how long a text is for an LLM (`persona.protocols.TextTokenizer`), and the ids that an LLM reads.

>>> tokenizer = WhitespaceTokenizer()
>>> tokenizer.count("Moody and stylish."), tokenizer.truncate("Moody and stylish.", 3)
(4, 'Moody and')

`HuggingFaceTokenizer` measures for models that are loaded here. `WhitespaceTokenizer` estimates for those behind an
endpoint, whose tokenizer is not known. `PromptEncoder` makes token ids: chat template, special tokens, length limit.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from persona.caches import TextCache
from persona.errors import InvalidOptionError, check_one_of
from persona.llm.chat.messages import joined, transcript, without_oldest
from persona.llm.chat.template import Chat, ChatTemplate
from persona.protocols import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TemplateUse = Literal["auto", "on", "off"]
Overlong = Literal["error", "truncate"]

_CACHED_TEXTS = 2**11


class WhitespaceTokenizer:
    """Words between white space, and one end token after every text.

    English has about three words to four tokens of a usual LLM, so a budget in words is about three quarters of the
    same budget in tokens.
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

    The tokens of the last few thousand texts are cached: the same records are measured for question after question.
    The wrapped tokenizer is never asked to truncate, because that changes it during the call, and an LLM in another
    thread may be using it.

    Args:
        tokenizer: e.g. of ``AutoTokenizer.from_pretrained``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._n_special = int(tokenizer.num_special_tokens_to_add())
        self._ids = TextCache("tokens of texts", self._tokenize, _CACHED_TEXTS)

    def count(self, text: str) -> int:
        """Number of tokens of `text`, with the special ones that the tokenizer puts around it."""
        return len(self._ids(text)) + self._n_special

    def truncate(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` in at most `max_tokens` tokens, special ones counted, decoded without them.

        As in LaMP's own code a text that fits is decoded too, so that it comes back as the tokenizer sees it
        (lower-cased by an uncased one).

        Raises:
            ValueError: if `max_tokens` is negative.
        """
        _check_length(max_tokens)
        ids = self._ids(text)[: max(max_tokens - self._n_special, 0)]
        decoded = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        assert isinstance(decoded, str)
        return decoded

    def _tokenize(self, text: str) -> array[int]:
        # Not verbose: a history may be longer than the model's input, which is why it is measured.
        return array("i", self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def __repr__(self) -> str:
        return f"HuggingFaceTokenizer({type(self._tokenizer).__name__})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How prompts become what a model reads.

    Attributes:
        chat_template: ``"auto"`` uses the tokenizer's chat template where it has one: the prompt becomes a user turn,
            and the assistant's turn is opened. ``"on"`` demands a template, ``"off"`` never uses it. Without one, a
            conversation becomes one text (`persona.llm.chat.messages.transcript`).
        overlong: what to do with a prompt over the limit: ``"error"`` refuses it; ``"truncate"`` leaves the oldest
            turns out, each whole, and if that is not enough cuts the prompt on the tokenizer's truncation side (the end
            for nearly all tokenizers, as in LaMP's code) and keeps the special tokens. In a chat template the prompt's
            end is cut, and the turn stays whole.
        system: text of the system's turn, or before the prompt where there is no template; None for none of our own.
        chat_template_kwargs: the template's own arguments, such as ``{"enable_thinking": False}``.
    """

    chat_template: TemplateUse = "auto"
    overlong: Overlong = "error"
    system: str | None = None
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)


class PromptEncoder:
    """From prompts to the token ids that a transformers model reads.

    Args:
        tokenizer: the model's. Its padding and truncation settings are neither used nor changed.
        options: how.

    Attributes:
        measure: counts tokens.
        uses_chat_template: whether prompts become turns of a chat.
        turn_tokens: tokens that a turn takes besides those of its text.
        thinking_end: what ends the part for thinking in which an answer begins; None if it begins in none.

    Raises:
        InvalidOptionError: if an option has no such value, or a template is demanded and there is none.
        ModelLoadError: if the template cannot be used (`persona.llm.chat.template`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: PromptOptions | None = None) -> None:
        options = options or PromptOptions()
        check_one_of(get_args(TemplateUse), chat_template=options.chat_template)
        check_one_of(get_args(Overlong), overlong=options.overlong)
        has_template = getattr(tokenizer, "chat_template", None) is not None
        if options.chat_template == "on" and not has_template:
            raise InvalidOptionError("`chat_template='on'` needs a tokenizer with a chat template, this one has none")
        self._template: ChatTemplate | None = None
        if has_template and options.chat_template != "off":
            self._template = ChatTemplate(tokenizer, options.system, options.chat_template_kwargs)
        elif options.chat_template_kwargs:
            raise InvalidOptionError("`chat_template_kwargs` are for a chat template, and none is used here")
        self.uses_chat_template = self._template is not None
        self.turn_tokens = 0 if self._template is None else self._template.turn_tokens
        self.thinking_end = None if self._template is None else self._template.thinking_end
        self.measure = HuggingFaceTokenizer(tokenizer)
        self._tokenizer: Any = tokenizer
        self._system = options.system
        self._truncates = options.overlong == "truncate"

    @property
    def settings(self) -> dict[str, object]:
        """What decides the tokens of a prompt besides the tokenizer's vocabulary."""
        template = (
            {"chat_template": None, "system": self._system} if self._template is None else self._template.settings
        )
        return {**template, "truncates": self._truncates}

    def encode(
        self, prompts: Sequence[str], limits: Sequence[int | None], turns: Sequence[Sequence[Message]] | None = None
    ) -> list[list[int]]:
        """Token ids of `prompts`, special tokens included.

        Args:
            prompts: the texts.
            limits: for each prompt the most tokens it may have; None for any number.
            turns: for each prompt the turns before it; None for none.

        Raises:
            InvalidOptionError: if a prompt is over its limit and `overlong` is ``"error"``, the limit leaves no room
                for the prompt at all, or the chat template does not take a conversation.
        """
        chats = list(zip([()] * len(prompts) if turns is None else turns, prompts, strict=True))
        encoded = self._encode(chats)
        for index, (ids, limit) in enumerate(zip(encoded, limits, strict=True)):
            if limit is None or len(ids) <= limit:
                continue
            if not self._truncates:
                raise InvalidOptionError(
                    f"a prompt may have {limit} tokens here, prompt {index} has {len(ids)}: shorten it, send less "
                    "personal text, or load the LLM with overlong='truncate'"
                )
            encoded[index] = self._cut(chats[index], limit)
        return encoded

    def opening(self, text: str) -> list[int]:
        """Token ids of `text` as a prompt's opening: after the special tokens that begin one, and without any end."""
        encoded = self._tokenizer(".", return_special_tokens_mask=True, verbose=False)
        begin: list[int] = encoded["input_ids"][: encoded["special_tokens_mask"].index(0)]
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
        return [*begin, *ids]

    def _encode(self, chats: Sequence[Chat]) -> list[list[int]]:
        if not chats:
            return []
        return self._encode_texts(self._texts(chats)) if self._template is None else self._template.encode(chats)

    def _texts(self, chats: Sequence[Chat]) -> list[str]:
        """Conversations as texts, for models without a chat template."""
        return [joined(self._system, transcript(turns, prompt)) for turns, prompt in chats]

    def _encode_texts(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self._tokenizer(list(prompts), verbose=False)["input_ids"]
        return [self._without_second_bos(ids) for ids in encoded]

    def _without_second_bos(self, ids: list[int]) -> list[int]:
        """A prompt that brings its own begin token does not get another one."""
        bos = self._tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _cut(self, chat: Chat, limit: int) -> list[int]:
        """A conversation in `limit` tokens: without its oldest turns, and if need be without the prompt's end."""
        turns, prompt = chat
        (ids,) = self._encode([(turns, prompt)])
        while len(ids) > limit and (fewer := without_oldest(turns)) is not None:
            turns = fewer
            (ids,) = self._encode([(turns, prompt)])
        if len(ids) <= limit:
            return ids
        if self._template is None:
            (text,) = self._texts([(turns, prompt)])
            return self._cut_text(text, len(ids), limit)
        tokens, length = self.measure.count(prompt), len(ids)
        while length > limit:
            tokens -= length - limit
            if tokens <= 0:
                raise InvalidOptionError(f"a prompt may have {limit} tokens here: the chat template alone has more")
            (ids,) = self._encode([(turns, self.measure.truncate(prompt, tokens))])
            length = len(ids)
        return ids

    def _cut_text(self, prompt: str, length: int, limit: int) -> list[int]:
        """`prompt` in `limit` tokens: special tokens at both ends stay, text goes on the truncation side."""
        encoded = self._tokenizer(prompt, return_special_tokens_mask=True, verbose=False)
        ids: list[int] = self._without_second_bos(encoded["input_ids"])
        mask: list[int] = encoded["special_tokens_mask"][-len(ids) :]
        surplus = length - limit
        if mask.count(0) < surplus:
            raise InvalidOptionError(f"a prompt may have {limit} tokens here: the special tokens alone are more")
        begin, end = mask.index(0), len(mask) - mask[::-1].index(0)
        if self._tokenizer.truncation_side == "left":
            return ids[:begin] + ids[begin + surplus :]
        return ids[: end - surplus] + ids[end:]


def _check_length(max_tokens: int) -> None:
    if max_tokens < 0:
        raise ValueError(f"`max_tokens` must be at least 0, was: {max_tokens}")
