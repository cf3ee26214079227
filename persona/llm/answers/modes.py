"""The one place where requests become answers: in the LLM's own words, or by one of a request's choices.

============  ==========================================================  ===================================
mode          the answer                                                  taken by
============  ==========================================================  ===================================
generate      in the LLM's own words                                      every LLM
likelihood    the choice that the LLM finds likeliest, or their median    LLMs that score choices
              (`persona.llm.answers.choices`)                             (`persona.protocols.ScoresChoices`)
constrained   generated, where only a choice can be written               transformers models, many endpoints
read          the one choice that an answer in own words names, or that   every LLM
              answer where it names none
============  ==========================================================  ===================================

An LLM that cannot score choices is asked to write one (`constrained`), and one that cannot be held to them is read.
Requests without choices are always answered in the LLM's own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from persona.llm.answers.choices import chosen, named_choice
from persona.protocols import AnswersOneByOne, GenerationOptions, LanguageModel, Request, ScoresChoices

Mode: TypeAlias = Literal["generate", "likelihood", "constrained", "read"]

_TOGETHER = 64


def answer_mode(llm: LanguageModel, options: GenerationOptions) -> Mode:
    """How `llm` answers requests with choices, if it is asked for `options.answers`."""
    wanted = options.answers
    if wanted == "auto":
        wanted = "likelihood" if getattr(llm, "chats", False) else "generate"
    if wanted == "generate":
        return "generate"
    if wanted == "likelihood" and isinstance(llm, ScoresChoices):
        return "likelihood"
    return "constrained" if getattr(llm, "constrains", False) else "read"


def answers(
    llm: LanguageModel, requests: Sequence[Request], options: GenerationOptions
) -> Iterator[tuple[int, str, Mode]]:
    """Index, answer and mode of each of `requests`, when it arrives: one by one where the LLM can, else in batches.

    Raises:
        UnsupportedChannelError: if a request uses a channel that the LLM does not take.
        GenerationError: if the LLM does not answer; what has arrived is handed over before.
    """
    mode = answer_mode(llm, options)
    scored = [index for index, request in enumerate(requests) if request.choices is not None and mode == "likelihood"]
    if isinstance(llm, ScoresChoices):
        for start in range(0, len(scored), _TOGETHER):
            indexes = scored[start : start + _TOGETHER]
            for index, scores in zip(indexes, llm.choice_scores([requests[each] for each in indexes]), strict=True):
                choices = requests[index].choices
                assert choices is not None
                yield index, chosen(scores, choices), "likelihood"
    rest = [index for index in range(len(requests)) if index not in set(scored)]
    if not rest:
        return
    options = replace(options, answers="constrained" if mode == "constrained" else "generate")
    asked = [requests[index] for index in rest]
    texts = (
        llm.generate_each(asked, options)
        if isinstance(llm, AnswersOneByOne)
        else enumerate(llm.generate(asked, options))
    )
    for index, text in texts:
        choices = asked[index].choices
        if choices is None or mode == "generate":
            yield rest[index], text, "generate"
        else:
            yield rest[index], named_choice(text, choices) or text, mode
