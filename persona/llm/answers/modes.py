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

from persona.errors import GenerationError
from persona.llm.answers.choices import chosen, named_choice
from persona.llm.answers.text import told
from persona.llm.chat.messages import transcript
from persona.llm.checks import check_answer
from persona.protocols import (
    Answer,
    AnswersAsync,
    AnswersOneByOne,
    GenerationOptions,
    LanguageModel,
    Mode,
    Request,
    ScoresChoices,
)

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
) -> Iterator[tuple[int, Answer | GenerationError]]:
    """Index and answer of each of `requests`, or its error, when it arrives: one by one where the LLM can.

    Raises:
        UnsupportedChannelError: if a request uses a channel that the LLM does not take.
        GenerationError: if the LLM answers no request at all; what has arrived is handed over before.
    """
    requests = told_turns(llm, requests)
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


async def aanswers(
    llm: LanguageModel, requests: Sequence[Request], options: GenerationOptions
) -> list[Answer | GenerationError]:
    """`answers` in the order of `requests`, from an LLM that is `AnswersAsync`."""
    assert isinstance(llm, AnswersAsync)
    requests = told_turns(llm, requests)
    plan = _Plan.of(llm, requests, options)
    answered = await llm.agenerate(requests, plan.options)
    return [plan.written(index, answer) for index, answer in enumerate(answered)]


def told_turns(llm: LanguageModel, requests: Sequence[Request]) -> Sequence[Request]:
    """Requests for an LLM of the user's own that may know of no turns: they stand in the prompt."""
    if hasattr(llm, "chats"):
        return requests
    return [replace(each, prompt=transcript(each.turns, each.prompt), turns=()) for each in requests]


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
        choosing = [index for index, request in enumerate(requests) if request.choices is not None]
        scored = choosing if mode == "likelihood" and not getattr(llm, "likelihoods", False) else []
        asked = sorted(set(range(len(requests))) - set(scored))
        options = replace(options, answers="generate" if mode == "read" else mode)
        return cls(llm.fingerprint, requests, mode, scored, asked, options)

    def likeliest(self, index: int, scores: Sequence[float] | GenerationError) -> Answer | GenerationError:
        """The answer to a request whose choices were scored."""
        if isinstance(scores, GenerationError):
            return scores
        choices = self.requests[index].choices
        assert choices is not None
        return Answer(chosen(scores, choices), mode="likelihood")

    def written(self, index: int, answer: Answer | str | GenerationError) -> Answer | GenerationError:
        """The answer to a request, by what the LLM wrote, whatever kind of LLM that is."""
        if isinstance(answer, GenerationError):
            return answer
        choices = self.requests[index].choices
        held = choices is not None and self.mode == "constrained"
        made = answer if isinstance(answer, Answer) else Answer(answer, mode="constrained" if held else "generate")
        try:
            check_answer(made.text, self.name)
        except GenerationError as error:
            return error
        if made.mode == "generate":
            made = told(made, self.options)  # an LLM of the user's own may hand over all that was written
        if made.mode == "generate" and choices is not None and self.mode != "generate":
            made = replace(made, text=named_choice(made.text, choices) or made.text, mode="read")
        return made
