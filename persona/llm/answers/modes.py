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
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from persona.errors import GenerationError
from persona.llm.answers.choices import chosen, named_choice
from persona.llm.answers.text import answer_text
from persona.llm.chat.messages import transcript
from persona.llm.checks import check_answer
from persona.protocols import (
    Answer,
    AnswersOneByOne,
    Finish,
    GenerationOptions,
    LanguageModel,
    Request,
    ScoresChoices,
)

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


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request is answered with.

    Attributes:
        text: the answer.
        mode: how it was made.
        finish: how it ended.
    """

    text: str
    mode: Mode
    finish: Finish = "stop"


def answers(
    llm: LanguageModel, requests: Sequence[Request], options: GenerationOptions
) -> Iterator[tuple[int, Answered | GenerationError]]:
    """Index and answer of each of `requests`, or its error, when it arrives: one by one where the LLM can.

    Raises:
        UnsupportedChannelError: if a request uses a channel that the LLM does not take.
        GenerationError: if the LLM answers no request at all; what has arrived is handed over before.
    """
    if not hasattr(llm, "chats"):  # an LLM of the user's own that may know of no turns
        requests = [replace(each, prompt=transcript(each.turns, each.prompt), turns=()) for each in requests]
    plan = _Plan.of(llm, requests, options)
    if isinstance(llm, ScoresChoices):
        for start in range(0, len(plan.scored), _TOGETHER):
            indexes = plan.scored[start : start + _TOGETHER]
            scores = llm.choice_scores([requests[index] for index in indexes])
            yield from zip(indexes, map(plan.likeliest, indexes, scores), strict=True)
    if not plan.asked:
        return
    asked = [requests[index] for index in plan.asked]
    if isinstance(llm, AnswersOneByOne):
        for number, answer in llm.generate_each(asked, plan.options):
            yield plan.asked[number], plan.written(plan.asked[number], answer)
    else:
        texts = llm.generate(asked, plan.options)
        if len(texts) != len(asked):
            raise GenerationError(f"{llm.fingerprint} must answer each of {len(asked)} requests, gave: {len(texts)}")
        for index, text in zip(plan.asked, texts, strict=True):
            yield index, plan.written(index, text)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which requests are answered by likelihood, and which are asked; and what their answers come to.

    Attributes:
        name: what messages call the LLM.
        requests: all of them.
        mode: how those with choices are answered.
        scored: indexes of those that are answered by likelihood.
        asked: indexes of the others.
        options: how they are asked.
    """

    name: str
    requests: Sequence[Request]
    mode: Mode
    scored: list[int]
    asked: list[int]
    options: GenerationOptions

    @classmethod
    def of(cls, llm: LanguageModel, requests: Sequence[Request], options: GenerationOptions) -> _Plan:
        mode = answer_mode(llm, options)
        scored = [
            index for index, request in enumerate(requests) if request.choices is not None and mode == "likelihood"
        ]
        asked = sorted(set(range(len(requests))) - set(scored))
        options = replace(options, answers="constrained" if mode == "constrained" else "generate")
        return cls(llm.fingerprint, requests, mode, scored, asked, options)

    def likeliest(self, index: int, scores: Sequence[float]) -> Answered:
        """The answer to a request whose choices were scored."""
        choices = self.requests[index].choices
        assert choices is not None
        return Answered(chosen(scores, choices), "likelihood")

    def written(self, index: int, answer: Answer | str | GenerationError) -> Answered | GenerationError:
        """The answer to a request, by what the LLM wrote, whatever kind of LLM that is."""
        if isinstance(answer, GenerationError):
            return answer
        made = answer if isinstance(answer, Answer) else Answer(answer)
        try:
            check_answer(made.text, self.name)
        except GenerationError as error:
            return error
        if not made.held:  # an LLM of the user's own may hand over all that was written
            made = replace(made, text=answer_text(made.text, self.options))
        choices = self.requests[index].choices
        if choices is None or self.mode == "generate":
            return Answered(made.text, "generate", made.finish)
        if made.held:
            return Answered(made.text, "constrained", made.finish)
        return Answered(named_choice(made.text, choices) or made.text, "read", made.finish)
