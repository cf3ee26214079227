"""The answers of an evaluation, kept when they arrive, so that a run which was stopped goes on where it ended.

An answer is kept under a key of everything that decides it: the LLM and its settings, how it decodes, the request, and
the numbers behind the name of an adapter. Two methods that send the same request ask once.

A line of the file: ``{"key": "9f...", "text": "comedy"}``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
        for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
            try:
                kept = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while it wrote
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
        pending = sorted(missing.items(), key=lambda item: len(item[1].request.prompt))
        done = len(prepared) - len(pending)
        progress(done)
        with ExitStack() as stack:
            file = None
            if self._path is not None and pending:
                file = stack.enter_context(self._path.open("a", encoding="utf-8"))
                file.write("\n")  # ends what a killed run may have left half-written
            for start in range(0, len(pending), self._at_once):
                chunk = pending[start : start + self._at_once]
                for index, generation in personalizer.answers([each for _, each in chunk]):
                    key = chunk[index][0]
                    self._texts[key] = generation.text
                    if file is not None:
                        file.write(json.dumps({"key": key, "text": generation.text}) + "\n")
                        file.flush()
                    done += 1
                    progress(done)
        return [self._texts[key] for key in keys]


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
