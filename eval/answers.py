"""The answers of an evaluation, kept when they arrive, so that a run which was stopped goes on where it ended.

An answer is kept under a key of everything that decides it: the LLM and its settings, how it decodes, the request, and
the numbers behind the name of an adapter. Two methods that send the same request ask once.

A line of the file: ``{"key": "9f...", "text": "comedy", "answered": "likelihood", "finish": "stop"}``. A request that
was not answered leaves its reason, ``{"key": "9f...", "failed": "..."}``, and is asked again by the next run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from persona.errors import GenerationError
from persona.files import JsonLines
from persona.generation import Generation, Prepared
from persona.llm.answers.modes import answer_mode
from persona.personalizer import Personalizer
from persona.protocols import AnswersAsync, answer_settings

OUTCOMES = ("failed", "cut", "refused", "empty")
"""What may be wrong with an answer, see `GivenAnswer.outcome`."""
THINKING = "thinking"
"""Counted besides: answers that the LLM thought before, in the answer itself."""
CONTEXT_CUT = "without a part of the history"
"""Counted besides: requests that a whole history did not fit into (`persona.eval.benchmarks.whole_history`)."""


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """What a request was answered with, or why it was not.

    Attributes:
        text: the answer; empty where there is none.
        answered: how it was made (`Generation.answered`); empty where that is not known.
        finish: how it ended (`Generation.finish`).
        thought: whether a part for thinking was taken off (`Generation.thought`).
        failed: why there is no answer; empty where there is one.
    """

    text: str
    answered: str = ""
    finish: str = ""
    thought: bool = False
    failed: str = ""

    @classmethod
    def of(cls, generation: Generation | GenerationError) -> GivenAnswer:
        """What a personalizer gave."""
        if isinstance(generation, GenerationError):
            return cls("", failed=" ".join(str(generation).split()))
        return cls(generation.text, generation.answered, generation.finish, generation.thought)

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> GivenAnswer:
        """That of a line of the file."""
        marks = {name: line[name] for name in ("answered", "finish", "thought") if name in line}
        return cls(line["text"], **marks)

    @property
    def outcome(self) -> str:
        """The one of `OUTCOMES` that it is; empty for a whole answer."""
        if self.failed:
            return "failed"
        ended = {"length": "cut", "refusal": "refused"}.get(self.finish)
        return ended or ("" if self.text.strip() else "empty")

    @property
    def line(self) -> dict[str, Any]:
        """Itself as a line of the file, without its key."""
        if self.failed:
            return {"failed": self.failed}
        marks = {"answered": self.answered, "finish": self.finish, "thought": self.thought}
        return {"text": self.text, **{name: mark for name, mark in marks.items() if mark}}


def outcomes(answers: Sequence[GivenAnswer]) -> dict[str, int]:
    """How many answers there are of each way to make them, of each of `OUTCOMES`, and of `THINKING`."""
    ways = Counter(each.answered for each in answers if each.answered)
    wrong = Counter(each.outcome for each in answers)
    thought = sum(each.thought for each in answers)
    return {**ways, **{name: wrong[name] for name in OUTCOMES}, THINKING: thought}


class Answers:
    """The answers that are known, and the asking for those that are not.

    Args:
        path: the file that keeps them; None keeps them in memory.
        at_once: how many are asked for together, at least 1: what a killed run can lose, where an LLM hands over its
            answers in batches. Of LLMs that hand them over as they come from elsewhere (`AnswersAsync`), all are.
    """

    def __init__(self, path: Path | None = None, *, at_once: int = 64) -> None:
        self._file = JsonLines(path)
        self._at_once = at_once
        self._given: dict[str, GivenAnswer] = {}
        self._scores: dict[str, list[float]] = {}
        for line in self._file.read():
            if "scores" in line:
                self._scores[line["key"]] = line["scores"]
            elif "text" in line:
                self._given[line["key"]] = GivenAnswer.read(line)

    def ask(
        self,
        personalizer: Personalizer,
        prepared: Sequence[Prepared],
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[GivenAnswer]:
        """The answer to each of `prepared`; those of like length are asked for together.

        A request that is not answered fails for itself, and once in a run.

        Args:
            personalizer: the one that prepared them.
            prepared: requests.
            progress: called with the number of requests that are answered.

        Raises:
            GenerationError: if the LLM answers no request at all; what arrived before is kept.
        """
        keys = [answer_key(personalizer, each) for each in prepared]
        missing = {key: each for key, each in zip(keys, prepared, strict=True) if key not in self._given}
        done = len(prepared) - len(missing)
        progress(done)
        at_once = max(1, len(missing)) if isinstance(personalizer.llm, AnswersAsync) else self._at_once
        for chunk in self._chunks(missing, at_once):
            for index, generation in personalizer.answers([each for _, each in chunk]):
                key, given = chunk[index][0], GivenAnswer.of(generation)
                self._given[key] = given
                self._file.add({"key": key, **given.line})
                done += 1
                progress(done)
        return [self._given[key] for key in keys]

    def scores(
        self,
        personalizer: Personalizer,
        prepared: Sequence[Prepared],
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[list[float] | None]:
        """The scores of the choices of each of `prepared` (`Personalizer.choice_scores`), kept like answers.

        None stands for those of a request that was not answered, or whose LLM gives none.

        Args:
            personalizer: the one that prepared them.
            prepared: requests.
            progress: called with the number of requests that are scored.

        Raises:
            GenerationError: if the LLM does not answer; what arrived before is kept.
        """
        keys = [answer_key(personalizer, each) for each in prepared]
        missing = {key: each for key, each in zip(keys, prepared, strict=True) if key not in self._scores}
        done = len(prepared) - len(missing)
        progress(done)
        for chunk in self._chunks(missing, self._at_once):
            scores = personalizer.choice_scores([each for _, each in chunk])
            pairs = zip(chunk, scores, strict=True)
            found = {key: some for (key, _), some in pairs if not isinstance(some, GenerationError)}
            self._scores |= found
            self._file.add(*({"key": key, "scores": some} for key, some in found.items()))
            done += len(chunk)
            progress(done)
        return [self._scores.get(key) for key in keys]

    def _chunks(self, missing: Mapping[str, Prepared], at_once: int) -> Iterator[list[tuple[str, Prepared]]]:
        """What is asked together: prompts of like length."""
        pending = sorted(missing.items(), key=lambda item: len(item[1].request.prompt))
        for start in range(0, len(pending), at_once):
            yield pending[start : start + at_once]


def answer_key(personalizer: Personalizer, prepared: Prepared) -> str:
    """Names everything that decides the answer to a request."""
    llm, request = personalizer.llm, prepared.request
    options = asdict(replace(personalizer.options, answers="generate"))
    parts: list[Any] = [llm.fingerprint, answer_settings(llm), options, request.prompt]
    if request.turns:
        parts.append([[turn.role, turn.content] for turn in request.turns])
    mode = answer_mode(llm, personalizer.options)
    if request.choices is not None and mode != "generate":
        parts.append([mode, asdict(request.choices)])
    if request.soft_prompt is not None:
        parts.append(hashlib.blake2b(request.soft_prompt.float().cpu().numpy().tobytes()).hexdigest())
    if request.steering:
        digest = hashlib.blake2b()
        for block, vector in sorted(request.steering.items()):
            digest.update(block.to_bytes(4) + vector.float().cpu().numpy().tobytes())
        parts.append({"steering": digest.hexdigest()})
    if request.lifts:
        lifts = request.lifts
        parts.append(sorted(lifts.items()) if isinstance(lifts, Mapping) else lifts.fingerprint)
    if request.adapter is not None:
        parts.append([request.adapter, prepared.identity])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def prompts_hash(prepared: Sequence[Prepared]) -> str:
    """BLAKE2b of the texts of some requests, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for each in prepared:
        turns = [[turn.role, turn.content] for turn in each.request.turns]
        digest.update(json.dumps([each.request.prompt, turns]).encode() + b"\n")
    return digest.hexdigest()
