"""The content of a turn as OpenAI's clients take it: a text, or parts of which some are text and others images.

>>> asked = [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "Tea?"}]
>>> text_of(asked)
'Tea?'
>>> with_text(asked, "Tea?", "She likes tea. Tea?")[1]
{'type': 'text', 'text': 'She likes tea. Tea?'}
>>> with_texts_around("Be brief.", None, "She likes tea.")
'Be brief.\\n\\nShe likes tea.'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from persona.llm.chat.messages import joined


def text_of(content: Any) -> str:
    """The text in a turn's content: itself, or its parts of the type ``text``."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def with_text(content: Any, text: str, personal: str) -> Any:
    """A turn's content with `personal` for its text, `text`; parts that are no text stay where they are."""
    if isinstance(content, str) or personal == text:
        return personal if isinstance(content, str) else content
    parts = [dict(part) if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if text_of([part])]
    if personal.endswith(text):
        texts[0]["text"] = personal[: len(personal) - len(text)] + texts[0]["text"]
        return parts
    # A task's own wording puts records into the text itself.
    texts[0]["text"] = personal
    return [part for part in parts if not any(part is other for other in texts[1:])]


def with_texts_around(content: Any, before: str | None, behind: str | None) -> Any:
    """A system turn's content, which may be None, with texts before and behind it."""
    if isinstance(content, str) or content is None:
        return joined(before, content, behind)
    parts = [{"type": "text", "text": text} for text in (before, behind) if text]
    return [*parts[: int(bool(before))], *content, *parts[int(bool(before)) :]]
