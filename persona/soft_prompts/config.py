"""The shape of a user embedder, as its ``config.json`` holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from persona.encoders.style import STYLE_DIM
from persona.errors import InvalidOptionError, check_least, check_positive
from persona.soft_prompts.parts.registry import HEADS, made, parsed

Mode = Literal["attention", "persona-plug", "vectors"]
MODES: tuple[Mode, ...] = ("attention", "persona-plug", "vectors")

PAPER_TOKENS = 2
"""Soft tokens of mode ``"persona-plug"``: the instruction's and the user's."""


@dataclass(frozen=True)
class UserEmbedderConfig:
    """The shape of a user embedder, and the models it belongs to.

    Attributes:
        encoder_dim: length of the record encoder's vectors; in mode ``"vectors"`` of the users' own vectors.
        llm_hidden: length of the LLM's input embeddings.
        mode: one of `MODES`; see `persona.soft_prompts.network`.
        n_tokens: soft tokens of a user.
        heads: attention heads. Only mode ``"attention"`` has them.
        width: hidden size of mode ``"attention"``.
        embedding_scale: mean L2 norm of the LLM's input embeddings.
        encoder: fingerprint of the record encoder, or of the user vectors.
        llm: fingerprint of the LLM.
        view: the view of a record (`Record.view`) that keys are made of.
        answer_start: first of the soft tokens that start as the user's probable answer
            (`persona.soft_prompts.instruction`).
        answer_end: the token after the last of them; equal to `answer_start` if there are none.
        with_question: whether the layers behind the heads read the question. Only in mode ``"attention"``.
        views: further views of a record: parts (`persona.soft_prompts.parts`) by name, with options in brackets and
            joined by ``+``. Only mode ``"attention"`` has parts.
        pooling: poolings, ``"heads"`` among them or not.
        state: what is kept of a user; ``""`` is plain numbers.
        tokens: from a state to soft tokens; ``""`` is a linear layer.
        llm_blocks: how many blocks the LLM has; 0 if no tokens ask.
        cut: how many of the soft tokens are given out, from the first on; 0 for all (`UserEmbedder.cut`).
        copy_tokens: size of the LLM's vocabulary, for an embedder that copies (`persona.soft_prompts.copying`); else 0.
        task: the LaMP task that it was trained on; ``""`` if its prompts are the question alone.

    Raises:
        InvalidOptionError: if an option is out of range.
    """

    encoder_dim: int
    llm_hidden: int
    mode: Mode = "attention"
    n_tokens: int = 8
    heads: int = 4
    width: int = 256
    embedding_scale: float = 1.0
    encoder: str = ""
    llm: str = ""
    view: str = "text"
    answer_start: int = 0
    answer_end: int = 0
    with_question: bool = False
    views: str = ""
    pooling: str = HEADS
    state: str = ""
    tokens: str = ""
    llm_blocks: int = 0
    cut: int = 0
    copy_tokens: int = 0
    task: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidOptionError(f"a user embedder's mode must be one of {', '.join(MODES)}, was: {self.mode!r}")
        if self.with_question and self.mode != "attention":
            raise InvalidOptionError(f"only the mode 'attention' can be `with_question`, the mode was: {self.mode!r}")
        check_least(1, encoder_dim=self.encoder_dim, llm_hidden=self.llm_hidden)
        check_least(1, n_tokens=self.n_tokens, heads=self.heads, width=self.width)
        check_positive(embedding_scale=self.embedding_scale)
        if self.mode == "persona-plug" and self.n_tokens != PAPER_TOKENS:
            raise InvalidOptionError(f"the mode 'persona-plug' has {PAPER_TOKENS} soft tokens, was: {self.n_tokens}")
        if not 0 <= self.cut <= self.n_tokens:
            raise InvalidOptionError(f"{self.n_tokens} soft tokens are cut to 1 to so many, was: {self.cut}")
        if not 0 <= self.answer_start <= self.answer_end <= self.n_tokens:
            raise InvalidOptionError(
                f"the answer must lie within the {self.n_tokens} soft tokens, "
                f"was: {self.answer_start} to {self.answer_end}"
            )

        self._check_parts()

    def _check_parts(self) -> None:
        given = (self.views, self.state, self.tokens)
        if self.mode != "attention" and (any(given) or self.pooling != HEADS):
            raise InvalidOptionError(f"only the mode 'attention' is made of parts, the mode was: {self.mode!r}")
        if not parsed(self.pooling) or max(len(parsed(self.state)), len(parsed(self.tokens))) > 1:
            raise InvalidOptionError(
                f"there must be a pooling, and at most one state and one kind of tokens, were: {self.pooling!r}, "
                f"{self.state!r} and {self.tokens!r}"
            )

    @property
    def view_dims(self) -> list[int]:
        """Lengths of the blocks of a value: text, target, style and further views."""
        return [self.encoder_dim, self.encoder_dim, STYLE_DIM, *(view.dim for view in made("view", self.views))]

    @property
    def value_dim(self) -> int:
        """Length of a record's value: all views in mode ``"attention"``, else that of its key."""
        return sum(self.view_dims) if self.mode == "attention" else self.encoder_dim

    @property
    def answer_tokens(self) -> slice:
        """The soft tokens that start as the user's probable answer."""
        return slice(self.answer_start, self.answer_end)

    @property
    def n_answer_tokens(self) -> int:
        """How many these are."""
        return self.answer_end - self.answer_start
