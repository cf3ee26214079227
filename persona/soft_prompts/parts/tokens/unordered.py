"""Tokens that are a set: in whatever order they stand, the LLM answers the same.

In the LLM all tokens of a user have the position of the first, and none sees another (`persona.llm.inputs.TokenSet`):
among them the mask of attention is the identity. Each token is read as if it stood alone in front of the question.

Source: SETRec ("Order-agnostic Identifier for Large Language Model-based Generative Recommendation"), in which an item
is such a set.
"""

from __future__ import annotations

from persona.soft_prompts.parts.tokens.linear import LinearTokens


class SetTokens(LinearTokens):
    """The tokens of the module's docstring; for decoder-only LLMs, and not for endpoints."""

    unordered = True
