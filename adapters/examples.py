"""What an adapter learns from: questions about a user's own records, with the answers that the user gave.

Each record with a target is one example, asked in the words of the task that the adapter is for; nothing else of the
history is in it. For a review with a score, LaMP_3::

    prompt  "What is the score of the following review on a scale of 1 to 5? ... review: Moody and stylish."
    target  "4"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from persona.errors import InvalidOptionError
from persona.lamp.tasks import LampTask
from persona.records import SYNTHETIC, Profile


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and the answer that the LLM should write."""

    prompt: str
    target: str


ExampleMaker = Callable[[Profile], Sequence[Example]]
"""Makes a user's examples, oldest first: the newest ones are held out."""


def history_examples(
    profile: Profile, task: LampTask | None = None, *, labels: Sequence[str] | None = None
) -> tuple[Example, ...]:
    """A profile's records as examples, oldest first; those without a target, or written by an LLM, are left out.

    Args:
        profile: whose.
        task: puts the texts into the task's official input; None asks with the text as it is.
        labels: the labels that the input names, where they are not the task's own.

    Raises:
        InvalidOptionError: if the task's questions cannot be made from one record (LaMP_1).
    """
    if task is not None and task.name == "LaMP_1":
        raise InvalidOptionError("a question of LaMP_1 names two papers, a record is one: give your own examples")
    return tuple(
        Example(record.text if task is None else task.make_input(record.text, labels=labels), record.target)
        for record in profile
        if record.target is not None and SYNTHETIC not in record.metadata
    )


def text_examples(profile: Profile) -> tuple[Example, ...]:
    """A profile's texts as examples that need no answer: the first half is read, the second half should be written.

    What a user writes, or reads, teaches their words and style also where no answer is known.
    """
    own = [record for record in profile if SYNTHETIC not in record.metadata]
    halves = ((words[: len(words) // 2], words[len(words) // 2 :]) for words in (one.text.split() for one in own))
    return tuple(Example(" ".join(first), " ".join(second)) for first, second in halves if first)
