"""Judges: what grades answers that no rule can grade.

    judge = LLMJudge(load_llm("openai:MODEL"), path=Path("judged.jsonl"))
    judge.verdicts([JudgedItem("7", "correct", "Where does she live?", gold="in Turin", answer="Turin, I think.")])

Any LLM of `load_llm` can be one, and any object with `verdicts`: a scripted one in tests, say. A reply without a
verdict is asked for again, and is at last undecided (None), never a pass and never a fail. Every reply is kept, in a
line like ``{"key": "9f...", "item": "7", "kind": "correct", "prompt": "strict/1", "value": 1.0, "replies": ["..."]}``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from persona.errors import GenerationError, check_least
from persona.eval.judging.prompts import DEFAULT_PROMPT, JudgedItem, judge_prompt, kind_of
from persona.eval.judging.rates import Rates
from persona.files import JsonLines
from persona.llm.answers.modes import answers
from persona.protocols import GenerationOptions, LanguageModel, Request, answer_settings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge decided.

    Attributes:
        value: 0 to 1; None for undecided.
        raw: the reply that decided it, or the last one.
    """

    value: float | None
    raw: str


class Judge(Protocol):
    """Grades answers.

    Attributes:
        name: says which LLM it is, and which prompt.

    A judge whose errors were measured (`persona.eval.judging.check`) has an attribute `rates` besides.
    """

    name: str

    def verdicts(self, items: Sequence[JudgedItem]) -> list[Verdict]:
        """The verdict on each of `items`, in their order."""
        ...


class LLMJudge:
    """An LLM that judges, greedily: at temperature 0, where it has one.

    Args:
        llm: judges.
        prompt: a name of `persona.eval.judging.prompts.PROMPTS`.
        path: the file that keeps every reply, and from which the next run goes on; None keeps them in memory.
        rates: how often it is wrong, for scores that allow for it.
        tries: how often at most one item is asked about, at least 1.
        max_new_tokens: of a reply.

    Raises:
        InvalidOptionError: if there is no such prompt, or `tries` is below 1.
    """

    def __init__(
        self,
        llm: LanguageModel,
        prompt: str = DEFAULT_PROMPT,
        *,
        path: Path | None = None,
        rates: Rates | None = None,
        tries: int = 3,
        max_new_tokens: int = 512,
    ) -> None:
        check_least(1, tries=tries)
        self.llm, self.prompt, self.rates, self._tries = llm, judge_prompt(prompt), rates, tries
        self.name = f"{llm.fingerprint} {self.prompt.name}"
        self._options = GenerationOptions(max_new_tokens=max_new_tokens)
        self._file = JsonLines(path)
        self._known = {
            line["key"]: Verdict(line["value"], line["replies"][-1]) for line in self._file.read() if "value" in line
        }

    def verdicts(self, items: Sequence[JudgedItem]) -> list[Verdict]:
        """The verdict on each of `items`; equal ones are asked about once.

        An item that the LLM gave no reply to is undecided in this run, and asked about by the next one.

        Raises:
            UnknownPartError: if an item is of no known kind.
            GenerationError: if the LLM answers no request at all. What arrived before is kept.
        """
        keys = [self._key(item) for item in items]
        pending = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        replies: dict[str, list[str]] = {key: [] for key in pending}
        unanswered: dict[str, Verdict] = {}
        for attempt in range(self._tries):
            asked, pending = list(pending.items()), {}
            for index, reply in self._replies([item for _, item in asked], attempt):
                key, item = asked[index]
                if isinstance(reply, GenerationError):
                    unanswered[key] = Verdict(None, f"no reply: {' '.join(str(reply).split())}")
                    pending[key] = item
                    continue
                replies[key].append(reply)
                unanswered.pop(key, None)
                value = kind_of(item).value(reply)
                if value is None and attempt + 1 < self._tries:
                    pending[key] = item
                else:
                    self._keep(key, item, value, replies[key])
        return [self._known[key] if key in self._known else unanswered[key] for key in keys]

    def _replies(self, items: Sequence[JudgedItem], attempt: int) -> Iterator[tuple[int, str | GenerationError]]:
        if not items:
            return
        requests = [Request(self.prompt.text(item, again=attempt > 0)) for item in items]
        unanswered = set(range(len(items)))
        try:
            for index, answer in answers(self.llm, requests, self._options):
                unanswered.discard(index)
                yield index, answer if isinstance(answer, GenerationError) else answer.text
        except GenerationError as error:
            if attempt == 0:
                raise
            yield from ((index, error) for index in unanswered)  # the few that are asked about again have all failed

    def _keep(self, key: str, item: JudgedItem, value: float | None, replies: Sequence[str]) -> None:
        self._known[key] = Verdict(value, replies[-1])
        about = {"item": item.id, "kind": item.kind, "prompt": self.prompt.name}
        self._file.add({"key": key, **about, "value": value, "replies": list(replies)})

    def _key(self, item: JudgedItem) -> str:
        """Names everything that decides the verdict."""
        decides = [self.llm.fingerprint, answer_settings(self.llm), asdict(self._options), self._tries]
        content = [*decides, item.kind, self.prompt.text(item)]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
