"""Options of a transformers model as a language model."""

from __future__ import annotations

from dataclasses import dataclass

from persona.errors import check_least
from persona.llm.frozen.blending import Blend
from persona.llm.tokenizers import PromptOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersOptions(PromptOptions):
    """How a transformers model is asked; see `PromptOptions` for the others.

    Attributes:
        name: what the fingerprint calls the model; None takes the end of the model's own `name_or_path`.
        batch_tokens: most tokens in one batch, at least 1: longest prompt and longest answer, times rows and beams. A
            request that is longer alone is a batch of its own.
        max_prompt_tokens: most tokens of a prompt and its soft prompt together; None for what the model can take: its
            positions, less `max_new_tokens` where the answer shares them (decoder-only).
        blend: blend personal answers with the plain model's where that is sure (`Blend`); None does not.

    Raises:
        InvalidOptionError: if an option is out of its range.
    """

    name: str | None = None
    batch_tokens: int = 8192
    max_prompt_tokens: int | None = None
    blend: Blend | None = None

    def __post_init__(self) -> None:
        check_least(1, batch_tokens=self.batch_tokens, max_prompt_tokens=self.max_prompt_tokens)

    @property
    def settings(self) -> dict[str, object]:
        """What of these decides an answer, besides how prompts are encoded."""
        return {"max_prompt_tokens": self.max_prompt_tokens, **({} if self.blend is None else {"blend": self.blend})}
