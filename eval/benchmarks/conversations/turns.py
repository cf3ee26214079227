"""Turns of conversations as records: in order, with ids, roles and times."""

from __future__ import annotations

from collections.abc import Iterable

from persona.eval.benchmarks.reading import Part
from persona.records import Record


def turns_of(messages: Iterable[Part], name: str, *, time: str | None = None) -> list[Record]:
    """Messages ``{"role": ..., "content": ...}`` as records, those without text left out.

    Args:
        messages: of one conversation, oldest first.
        name: of the conversation; the ids of its records begin with it.
        time: when it was.

    Raises:
        DataFormatError: if something is no message.
    """
    records = []
    for number, message in enumerate(messages):
        role, text = message["role"].filled, message["content"].text
        if text.strip():
            with message.located():
                about = {"conversation": name}
                records.append(Record(text, time=time, id=f"{name}:{number}", role=role, metadata=about))
    return records


def said(name: str, number: int, role: str, text: Part, *, time: str | None = None) -> Record:
    """One turn as a record."""
    with text.located():
        return Record(text.filled, time=time, id=f"{name}:{number}", role=role, metadata={"conversation": name})
