"""The answers of an evaluation, kept when they arrive, so that a run which was stopped goes on where it ended.

An answer is kept under a key of everything that decides it: the LLM and its settings, how it decodes, the request, and
the numbers behind the name of an adapter. Two methods that send the same request ask once.

A line of the file: ``{"key": "9f...", "text": "comedy"}``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from persona.errors import GenerationError
from persona.files import naming
from persona.llm.answers.modes import answer_mode
from persona.personalizer import Personalizer, Prepared
from persona.protocols import answer_settings


class Answers:
    """The answers that are known, and the asking for those that are not.

    Args:
        path: the file that keeps them; None keeps them in memory.
        at_once: how many are asked for together, at least 1: what a killed run can lose, where an LLM hands over its
            answers in batches.
    """

    def __init__(self, path: Path | None = None, *, at_once: int = 64) -> None:
        self._path = path
        self._at_once = at_once
        self._texts: dict[str, str] = {}
        self._scores: dict[str, list[float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
            try:
                kept = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while it wrote
            if "scores" in kept:
                self._scores[kept["key"]] = kept["scores"]
            else:
                self._texts[kept["key"]] = kept["text"]

    def ask(
        self,
        personalizer: Personalizer,
        prepared: Sequence[Prepared],
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[str]:
        """The answer to each of `prepared`; those of like length are asked for together.

        Args:
            personalizer: the one that prepared them.
            prepared: requests.
            progress: called with the number of requests that are answered.

        Raises:
            GenerationError: if the LLM does not answer; what arrived before is kept.
        """
        keys = [answer_key(personalizer, each) for each in prepared]
        missing = {key: each for key, each in zip(keys, prepared, strict=True) if key not in self._texts}
        done = len(prepared) - len(missing)
        progress(done)
        with self._kept(missing) as keep:
            for chunk in self._chunks(missing):
                for index, generation in personalizer.answers([each for _, each in chunk]):
                    if isinstance(generation, GenerationError):
                        raise generation
                    key = chunk[index][0]
                    self._texts[key] = generation.text
                    keep({"key": key, "text": generation.text})
                    done += 1
                    progress(done)
        return [self._texts[key] for key in keys]

    def scores(
        self,
        personalizer: Personalizer,
        prepared: Sequence[Prepared],
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[list[float]]:
        """The scores of the choices of each of `prepared` (`Personalizer.choice_scores`), kept like answers.

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
        with self._kept(missing) as keep:
            for chunk in self._chunks(missing):
                found = personalizer.choice_scores([each for _, each in chunk])
                for (key, _), scores in zip(chunk, found, strict=True):
                    self._scores[key] = scores
                    keep({"key": key, "scores": scores})
                done += len(chunk)
                progress(done)
        return [self._scores[key] for key in keys]

    def _chunks(self, missing: Mapping[str, Prepared]) -> Iterator[list[tuple[str, Prepared]]]:
        """What is asked together: prompts of like length."""
        pending = sorted(missing.items(), key=lambda item: len(item[1].request.prompt))
        for start in range(0, len(pending), self._at_once):
            yield pending[start : start + self._at_once]

    @contextmanager
    def _kept(self, missing: Mapping[str, Prepared]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A function that writes a line into the file at once, where there is one."""
        path = self._path
        if path is None or not missing:
            yield lambda line: None
            return
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # ends what a killed run may have left half-written

            def keep(line: Mapping[str, Any]) -> None:
                with naming(path):
                    file.write(json.dumps(line) + "\n")
                    file.flush()

            yield keep


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
    if request.lifts:
        lifts = request.lifts
        parts.append(sorted(lifts.items()) if isinstance(lifts, Mapping) else lifts.fingerprint)
    if request.adapter is not None:
        parts.append([request.adapter, prepared.identity])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
